// zecorx-vhost: a vhost-user backend whose receive path lands in guest memory by the NIC's DMA.

#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "daemon.h"
#include "log.h"
#include "options.h"

namespace {

constexpr int kUsageError = 2;

// Threads inherit the mask, so this comes before any thread: only run() takes these signals.
void block_signals() {
    const sigset_t signals = zecorx::ending_signals();
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    std::signal(SIGPIPE, SIG_IGN);  // a frontend or a reader of statistics may go away
}

int run(int argc, char** argv) {
    const zecorx::Options options = zecorx::parse_options(argc, argv);
    if (options.help) {
        fmt::print("{}", zecorx::help_text());
        return EXIT_SUCCESS;
    }
    if (options.version) {
        fmt::print("zecorx-vhost {}\n", ZECORX_VERSION);
        return EXIT_SUCCESS;
    }
    zecorx::set_up_log(options.log_level);
    block_signals();
    zecorx::Daemon(options).run();
    return EXIT_SUCCESS;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const zecorx::OptionError& error) {
        fmt::print(stderr, "zecorx-vhost: {}\n", error.what());
        return kUsageError;
    } catch (const std::exception& error) {
        fmt::print(stderr, "zecorx-vhost: {}\n", error.what());
        return EXIT_FAILURE;
    }
}
