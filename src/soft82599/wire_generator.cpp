#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>

#include "wire.h"
#include "zecorx/numbered_payload.h"

namespace zecorx::soft82599 {
namespace {

using Clock = std::chrono::steady_clock;

struct GeneratorOptions {
    std::size_t least_size = 64;  // on the wire, CRC included
    std::size_t most_size = 64;
    bool numbered = false;
    std::vector<MacAddress> destinations;
    MacAddress source{{0x02, 0x00, 0x00, 0x00, 0x00, 0x01}};
    std::uint64_t rate = 0;
    std::uint64_t count = 0;
    std::optional<std::uint16_t> vlan;
    std::string start_file;  // empty: start at once
};

std::runtime_error option_error(std::string_view key, std::string_view value,
                                const char* expected) {
    return std::runtime_error("generator wire: " + std::string(key) + "='" + std::string(value) +
                              "' is not " + expected);
}

std::uint64_t parse_number(std::string_view key, std::string_view value, std::uint64_t low,
                           std::uint64_t high) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size() || number < low ||
        number > high) {
        const std::string range =
            "a number from " + std::to_string(low) + " to " + std::to_string(high);
        throw option_error(key, value, range.c_str());
    }
    return number;
}

MacAddress parse_mac(std::string_view key, std::string_view value) {
    const auto mac = MacAddress::parse(value);
    if (!mac) throw option_error(key, value, "a MAC address like 52:54:00:12:34:56");
    return *mac;
}

void set_sizes(GeneratorOptions& options, std::string_view value) {
    const std::size_t dash = value.find('-');
    const std::string_view most = dash == value.npos ? value : value.substr(dash + 1);
    options.least_size =
        parse_number("size", value.substr(0, dash), kMinFrame + kCrc, kMaxJumboFrame);
    options.most_size = parse_number("size", most, options.least_size, kMaxJumboFrame);
}

void set_payload(GeneratorOptions& options, std::string_view value) {
    if (value != "counting" && value != "numbered") {
        throw option_error("payload", value, "counting or numbered");
    }
    options.numbered = value == "numbered";
}

void set_option(GeneratorOptions& options, std::string_view key, std::string_view value) {
    constexpr std::uint64_t kAny = ~std::uint64_t{0};
    if (key == "size") {
        set_sizes(options, value);
    } else if (key == "payload") {
        set_payload(options, value);
    } else if (key == "dst") {
        options.destinations.push_back(parse_mac(key, value));
    } else if (key == "src") {
        options.source = parse_mac(key, value);
    } else if (key == "rate") {
        options.rate = parse_number(key, value, 0, 1'000'000'000);
    } else if (key == "count") {
        options.count = parse_number(key, value, 0, kAny);
    } else if (key == "vlan") {
        options.vlan = static_cast<std::uint16_t>(parse_number(key, value, 0, 4095));
    } else if (key == "start" && !value.empty()) {
        options.start_file = value;
    } else {
        throw std::runtime_error("generator wire: unknown key '" + std::string(key) +
                                 "'; known are size, payload, dst, src, rate, count, vlan and "
                                 "start=FILE");
    }
}

GeneratorOptions parse_options(std::string_view text) {
    GeneratorOptions options;
    while (!text.empty()) {
        const std::string_view item = text.substr(0, text.find(','));
        text.remove_prefix(std::min(text.size(), item.size() + 1));
        const std::size_t equals = std::min(item.find('='), item.size());
        const std::string_view value = item.substr(std::min(equals + 1, item.size()));
        set_option(options, item.substr(0, equals), value);
    }
    return options;
}

// An Ethernet frame of the local experimental ethertype, as long as the longest that is asked for,
// whose payload counts up.
Frame build_frame(const GeneratorOptions& options, const MacAddress& destination) {
    constexpr std::uint16_t kEthertypeExperimental = 0x88B5;
    const std::size_t tag = options.vlan ? kVlanTag : 0;
    Frame frame(options.most_size - kCrc - tag);
    for (std::size_t i = 0; i < 6; ++i) {
        frame[i] = std::byte{destination.bytes[i]};
        frame[6 + i] = std::byte{options.source.bytes[i]};
    }
    store_be16(frame, 12, kEthertypeExperimental);
    for (std::size_t i = kEthernetHeader; i < frame.size(); ++i) {
        frame[i] = static_cast<std::byte>(i - kEthernetHeader);
    }
    return options.vlan ? with_vlan_tag(frame, 0x8100, *options.vlan) : frame;
}

// The frames to one destination.
class Stream {
  public:
    Stream(const GeneratorOptions& options, const MacAddress& destination)
        : template_(build_frame(options, destination)),
          header_(kEthernetHeader + (options.vlan ? kVlanTag : 0)),
          sizes_(static_cast<std::uint32_t>(options.most_size - options.least_size + 1)),
          numbered_(options.numbered) {}

    Frame next() {
        // Coprime to 2^32, so that neighbours differ and every size has its turn.
        const std::uint32_t shorter = (seq_ * 2654435761U >> 7) % sizes_;
        Frame frame(template_.begin(), template_.end() - shorter);
        if (numbered_) write_numbered(std::span(frame).subspan(header_), seq_);
        ++seq_;
        return frame;
    }

  private:
    Frame template_;
    std::size_t header_;
    std::uint32_t sizes_;
    bool numbered_;
    std::uint32_t seq_ = 0;
};

class GeneratorWire : public Wire {
  public:
    explicit GeneratorWire(const GeneratorOptions& options)
        : start_file_(options.start_file),
          rate_(options.rate),
          left_(options.count == 0 ? ~std::uint64_t{0} : options.count) {
        for (const MacAddress& destination : options.destinations) {
            streams_.emplace_back(options, destination);
        }
    }

    void receive(unsigned max, std::vector<Frame>& frames) override {
        if (!started()) return;
        const std::uint64_t due = std::min<std::uint64_t>({max, left_, allowed()});
        for (std::uint64_t i = 0; i < due; ++i) {
            frames.push_back(streams_[next_].next());
            next_ = (next_ + 1) % streams_.size();
        }
        left_ -= due;
        sent_ += due;
    }

    void send(FrameView) override {}

  private:
    // Whoever counts frames creates the file when everything behind the port is ready for them.
    bool started() {
        if (start_file_.empty()) return true;
        if (::access(start_file_.c_str(), F_OK) != 0) return false;
        start_file_.clear();
        return true;
    }

    // How many frames the rate still permits. The clock starts with the first call
    // after the start.
    std::uint64_t allowed() {
        if (rate_ == 0) return ~std::uint64_t{0};
        const Clock::time_point now = Clock::now();
        if (!start_) start_ = now;
        const std::chrono::duration<double> elapsed = now - *start_;
        const auto scheduled =
            static_cast<std::uint64_t>(elapsed.count() * static_cast<double>(rate_));
        return scheduled > sent_ ? scheduled - sent_ : 0;
    }

    std::string start_file_;  // empty once it has been seen
    std::vector<Stream> streams_;
    std::size_t next_ = 0;
    std::uint64_t rate_;
    std::uint64_t left_;
    std::uint64_t sent_ = 0;
    std::optional<Clock::time_point> start_;
};

}  // namespace

std::unique_ptr<Wire> make_generator_wire(std::string_view options, const MacAddress& port_mac) {
    GeneratorOptions parsed = parse_options(options);
    if (parsed.destinations.empty()) parsed.destinations.push_back(port_mac);
    return std::make_unique<GeneratorWire>(parsed);
}

}  // namespace zecorx::soft82599
