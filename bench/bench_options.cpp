#include "bench_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <bit>
#include <boost/program_options.hpp>
#include <charconv>
#include <span>
#include <sstream>
#include <string_view>

#include "options.h"
#include "scenarios.h"

namespace zecorx::bench {
namespace {

namespace po = boost::program_options;

constexpr unsigned kLeastSize = 64;    // IEEE 802.3 3.2.8, with CRC
constexpr unsigned kMostSize = 1518;   // at the MTU of 1500
constexpr unsigned kLeastRing = 64;    // two bursts
constexpr unsigned kMostRing = 4096;   // as many buffers as a fake guest has room for
constexpr unsigned kMostVms = 63;      // VMDq pools of an 82599 less the host's
constexpr unsigned kLeastMemory = 16;  // MiB: rings, and the buffers of every repetition
constexpr unsigned kMostMemory = 1U << 20;
constexpr unsigned kMost = 1'000'000;

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
    throw OptionError(fmt::format(format, std::forward<Args>(args)...));
}

std::string scenario_names() {
    std::vector<std::string_view> names;
    for (const Scenario& scenario : all_scenarios()) names.push_back(scenario.name);
    return fmt::format("{}", fmt::join(names, ","));
}

po::options_description all_options() {
    constexpr unsigned kColumns = 100;
    po::options_description all("zecorx-bench [options] [-- EAL arguments]", kColumns);
    const auto text = [](const char* name) { return po::value<std::string>()->value_name(name); };
    all.add_options()                                                                         //
        ("help,h", "print this help and exit")                                                //
        ("version,V", "print the version and exit")                                           //
        ("scenarios", text("NAMES"), "what to measure, see below [all]")                      //
        ("cache", text("LIST"), "the payload: warm and flushed from the cache [both]")        //
        ("sizes", text("BYTES"), "receive: frames with CRC [64,128,256,512,1024,1280,1518]")  //
        ("guests", text("LIST"), "receive: fake and virtio-user [both]")                      //
        ("rings", text("SIZES"), "receive: descriptors of the guest's ring [256,1024]")       //
        ("layouts", text("LIST"), "receive: split and packed [both]")                         //
        ("mrg", text("LIST"), "receive: mrg_rxbuf, on and off [both]")                        //
        ("vms", text("COUNTS"), "vms and idle: VMs of one worker [1,2,8,32,63]")              //
        ("memory", text("MIB"), "attach: memory of the guest [256,1024,4096,8192]")           //
        ("repetitions", text("N"), "of every measurement [7]")                                //
        ("bursts", text("N"), "of 32 frames, in each repetition [300]")                       //
        ("huge-mem", text("MIB"), "huge-page memory for DPDK, the guests' apart [1024]")      //
        ("core", text("CPU"), "where to run [the last CPU]")                                  //
        ("json", text("FILE"), "write all figures")                                           //
        ("report", text("DIR"), "write all figures and a report with plots")                  //
        ("short", "a few seconds: shows that everything runs, and no figure to rely on")      //
        ("check", "exit with 1 if a target is missed");
    return all;
}

po::variables_map read(std::span<const char* const> arguments) {
    po::variables_map values;
    const std::vector<std::string> words(arguments.begin(), arguments.end());
    try {
        // Abbreviations are off: a typo must not become another option.
        using namespace po::command_line_style;
        constexpr int kStyle = unix_style & ~allow_guessing;
        const po::options_description description = all_options();
        po::store(po::command_line_parser(words)
                      .options(description)
                      .style(kStyle)
                      .positional(po::positional_options_description())
                      .run(),
                  values);
    } catch (const po::too_many_positional_options_error&) {
        fail("there is an argument that belongs to no option; see --help");
    } catch (const po::error& error) {
        fail("{}; see --help", error.what());
    }
    return values;
}

unsigned parse_number(const char* option, std::string_view text, unsigned least, unsigned most) {
    unsigned number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size() || number < least ||
        number > most) {
        fail("--{} {}: expected a number from {} to {}", option, text, least, most);
    }
    return number;
}

std::vector<std::string> items_of(const char* option, const std::string& text) {
    std::vector<std::string> items;
    std::istringstream list(text);
    for (std::string item; std::getline(list, item, ',');) items.push_back(item);
    if (items.empty()) fail("--{}: expected a list separated by commas", option);
    return items;
}

template <class Number>
std::vector<Number> parse_numbers(const char* option, const std::string& text, unsigned least,
                                  unsigned most) {
    std::vector<Number> numbers;
    for (const std::string& item : items_of(option, text)) {
        numbers.push_back(static_cast<Number>(parse_number(option, item, least, most)));
    }
    std::ranges::sort(numbers);
    numbers.erase(std::ranges::unique(numbers).begin(), numbers.end());
    return numbers;
}

// One of two words each, in the order of `words`.
template <class Value>
std::vector<Value> parse_words(const char* option, const std::string& text,
                               const std::array<std::pair<const char*, Value>, 2>& words) {
    const std::vector<std::string> items = items_of(option, text);
    std::vector<Value> values;
    std::size_t known = 0;
    for (const auto& [word, value] : words) {
        const auto count = static_cast<std::size_t>(std::ranges::count(items, word));
        if (count > 0) values.push_back(value);
        known += count;
    }
    if (known != items.size()) {
        fail("--{} {}: expected {}, {} or both", option, text, words[0].first, words[1].first);
    }
    return values;
}

std::vector<std::string> parse_scenarios(const std::string& text) {
    const std::vector<std::string> items = items_of("scenarios", text);
    for (const std::string& item : items) {
        if (std::ranges::find(all_scenarios(), item, &Scenario::name) == all_scenarios().end()) {
            fail("--scenarios {}: there is no '{}'; the scenarios are {}", text, item,
                 scenario_names());
        }
    }
    return items;
}

unsigned last_cpu() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (::sched_getaffinity(0, sizeof set, &set) != 0) return 0;
    unsigned last = 0;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &set)) last = cpu;
    }
    return last;
}

void shorten(BenchOptions& options) {
    options.sizes = {64, 1518};
    options.rings = {256};
    options.mergeable = {true};
    options.vms = {1, 2, 8};
    options.memory = {256};
    options.repetitions = 3;
    options.bursts = 20;
    options.huge_memory = 512;
}

void fill(BenchOptions& options, const po::variables_map& values) {
    const auto set = [&](const char* name, auto& to, auto parse, auto... args) {
        if (values.count(name)) to = parse(name, values[name].as<std::string>(), args...);
    };
    using CacheWords = std::array<std::pair<const char*, Cache>, 2>;
    using GuestWords = std::array<std::pair<const char*, Driver>, 2>;
    using BoolWords = std::array<std::pair<const char*, bool>, 2>;
    set("cache", options.caches, parse_words<Cache>,
        CacheWords{{{"warm", Cache::kWarm}, {"flushed", Cache::kFlushed}}});
    set("guests", options.guests, parse_words<Driver>,
        GuestWords{{{"fake", Driver::kFake}, {"virtio-user", Driver::kVirtioUser}}});
    set("layouts", options.packed, parse_words<bool>,
        BoolWords{{{"split", false}, {"packed", true}}});
    set("mrg", options.mergeable, parse_words<bool>, BoolWords{{{"on", true}, {"off", false}}});
    set("sizes", options.sizes, parse_numbers<std::size_t>, kLeastSize, kMostSize);
    set("rings", options.rings, parse_numbers<std::uint16_t>, kLeastRing, kMostRing);
    set("vms", options.vms, parse_numbers<unsigned>, 1U, kMostVms);
    set("memory", options.memory, parse_numbers<unsigned>, kLeastMemory, kMostMemory);
    set("repetitions", options.repetitions, parse_number, 1U, kMost);
    set("bursts", options.bursts, parse_number, 1U, kMost);
    set("huge-mem", options.huge_memory, parse_number, 1U, kMostMemory);
    set("core", options.core, parse_number, 0U, static_cast<unsigned>(CPU_SETSIZE) - 1);
}

void check_rings(const BenchOptions& options) {
    for (const std::uint16_t ring : options.rings) {
        if (!std::has_single_bit(ring)) {
            fail("--rings {}: a guest's ring has 2^n descriptors, as in 256", ring);
        }
    }
}

void check_memory(const BenchOptions& options) {
    for (const unsigned mebibytes : options.memory) {
        if (mebibytes % 2 != 0)
            fail("--memory {}: expected a multiple of 2, the MiB of a huge page", mebibytes);
    }
}

}  // namespace

BenchOptions parse_bench_options(int argc, const char* const* argv) {
    const std::span<const char* const> arguments(argv + 1, static_cast<std::size_t>(argc - 1));
    const auto separator =
        std::ranges::find_if(arguments, [](std::string_view word) { return word == "--"; });
    BenchOptions options;
    const po::variables_map values = read({arguments.begin(), separator});
    if (separator != arguments.end()) options.eal_args.assign(separator + 1, arguments.end());
    options.help = values.count("help") > 0;
    options.version = values.count("version") > 0;
    options.check = values.count("check") > 0;
    if (options.help || options.version) return options;
    options.core = last_cpu();
    if (values.count("short")) shorten(options);
    fill(options, values);
    check_rings(options);
    check_memory(options);
    const auto text = [&](const char* name, const std::string& other) {
        return values.count(name) ? values[name].as<std::string>() : other;
    };
    options.scenarios = parse_scenarios(text("scenarios", scenario_names()));
    options.json = text("json", "");
    options.report = text("report", "");
    return options;
}

std::string bench_help_text() {
    std::ostringstream text;
    text << all_options() << "\nScenarios:\n";
    for (const Scenario& scenario : all_scenarios()) {
        text << fmt::format("  {:10} {}\n", scenario.name, scenario.about);
    }
    text
        << "\nLists are separated by commas. Root and huge pages are needed: --huge-mem, and what\n"
           "the guests of the scenarios have.\n"
           "Example: zecorx-bench --scenarios receive --guests fake --report out\n";
    return text.str();
}

}  // namespace zecorx::bench
