#include "log.h"

#include <rte_log.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <stdexcept>
#include <string_view>

namespace zecorx {
namespace {

spdlog::level::level_enum level_of_current_line() {
    switch (rte_log_cur_msg_loglevel()) {
        case RTE_LOG_EMERG:
        case RTE_LOG_ALERT:
        case RTE_LOG_CRIT:
        case RTE_LOG_ERR:
            return spdlog::level::warn;
        default:
            return spdlog::level::debug;
    }
}

ssize_t forward_line(void*, const char* text, std::size_t size) {
    std::string_view line(text, size);
    while (!line.empty() && line.back() == '\n') line.remove_suffix(1);
    if (!line.empty()) spdlog::log(level_of_current_line(), "DPDK: {}", line);
    return static_cast<ssize_t>(size);
}

}  // namespace

void set_up_log(const std::string& level) {
    auto logger = spdlog::stderr_color_mt("zecorx-vhost");
    logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ %v");
    logger->set_level(spdlog::level::from_str(level));
    logger->flush_on(spdlog::level::trace);
    spdlog::set_default_logger(std::move(logger));
}

void forward_dpdk_log() {
    FILE* stream = ::fopencookie(nullptr, "w", {nullptr, forward_line, nullptr, nullptr});
    if (stream == nullptr) throw std::runtime_error("cannot redirect DPDK's log");
    ::setvbuf(stream, nullptr, _IOLBF, BUFSIZ);
    rte_openlog_stream(stream);
}

}  // namespace zecorx
