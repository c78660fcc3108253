// vhost-frontend: a VM's frontend and driver as a program, for a daemon on the same host. It takes
// one order a line on stdin and answers each with a line:
//
//   connect SOCKET  shares its memory, starts both queues and receives from then on
//   echo            sends every frame that it receives back to where it came from
//   send MAC FIRST COUNT  sends numbered frames
//   plug            adds a memory region to the table; buffers are posted there from then on
//   unplug          the opposite; the region is removed once the buffers in it have come back
//   leave           stops the queues and disconnects
//   stat            what came and what was wrong, as a JSON object

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <unordered_set>
#include <vector>

#include "guest/fake_guest.h"
#include "guest/frames.h"
#include "numbered_frames.h"
#include "support/read_some.h"

namespace zecorx::test {
namespace {

using namespace std::chrono_literals;

constexpr auto kPatience = 60s;  // with a daemon on an emulated processor
constexpr std::size_t kSpareBytes = 4_MiB;
constexpr Gpa kSpareBase = 0x8000'0000;

// One buffer a page of the spare region, like dpdk() otherwise.
RxLayout spare_layout() {
    return {"spare region", [](FakeMemory& memory, std::uint32_t header, std::size_t ordinal) {
                constexpr std::uint32_t kRoom = 2048;
                const Gpa gpa = kSpareBase + (1 + ordinal) * 4_KiB;
                return RxBufferBuilder(memory).piece_at(gpa, header + kRoom).build();
            }};
}

MacAddress address_at(const Frame& frame, std::size_t offset) {
    MacAddress address;
    std::memcpy(address.bytes.data(), frame.data() + offset, address.bytes.size());
    return address;
}

Frame with_swapped_addresses(Frame frame) {
    std::swap_ranges(frame.begin(), frame.begin() + 6, frame.begin() + 6);
    return frame;
}

// Like dpdk(), at the same places each time the layout is set: nothing frees guest memory.
RxLayout lasting_layout() {
    return {"lasting", [places = std::make_shared<std::vector<RxBuffer>>()](
                           FakeMemory& memory, std::uint32_t header, std::size_t ordinal) {
                if (ordinal == places->size()) {
                    places->push_back(RxLayout::dpdk().place(memory, header, ordinal));
                }
                return places->at(ordinal);
            }};
}

struct Settings {
    PageSize page_size = PageSize::k4KiB;
    std::size_t memory = 32;  // MiB
    std::size_t regions = 1;  // that the memory consists of
    bool slots = true;        // memory regions are added and removed one by one
    std::uint32_t room = 0;   // bytes for a frame in a buffer; 0: as Linux has it
    MacAddress mac;
};

// The memory, and after it the spare region.
std::vector<RegionSpec> regions(const Settings& settings) {
    std::vector<RegionSpec> all = FakeMemory::equal_regions(
        settings.regions, settings.memory * 1_MiB / settings.regions, 0, settings.page_size);
    all.push_back({.size = kSpareBytes, .gpa = kSpareBase, .page_size = settings.page_size});
    return all;
}

// Thread rule: one thread does it all. Each order takes but a moment; what takes longer, as to have
// the buffers of a region back, goes on in pass().
class VhostFrontend {
  public:
    explicit VhostFrontend(const Settings& settings)
        : settings_(settings), memory_(regions(settings)) {
        // Only what is plugged may lie there.
        memory_.allocate_in(settings_.regions, kSpareBytes - 2 * FakeMemory::kEdge);
    }

    // The answer to an order.
    std::string obey(const std::string& line);
    // Receives and sends once; waits a moment for something to do, or for `orders` to be readable.
    void pass(int orders);

  private:
    enum class Spare { kAbsent, kPlugged, kDraining, kRemoved };

    void connect(const std::string& socket);
    void share_memory();
    void plug();
    void unplug();
    void remove_spare();
    void leave();
    void send_numbered(std::istream& words);
    std::string stat();

    bool serving() const { return frontend_.has_value(); }
    bool change_table(bool (Frontend::*one)(const MemoryRegion&));
    std::vector<MemoryRegion> table() const;
    std::array<QueueDriver*, 2> queues() { return {&net_->rx().queue(), &net_->tx().queue()}; }

    std::size_t receive();
    void take(const ReceivedFrame& frame);
    void transmit();
    void watch_connection();
    void wrong(std::string what) { violations_.push_back(std::move(what)); }

    const Settings settings_;
    FakeMemory memory_;
    std::optional<Frontend> frontend_;
    std::optional<NetDriver> net_;
    std::array<RxLayout, 2> main_layouts_{lasting_layout(), lasting_layout()};
    bool left_ = false;  // with the driver's memory as it was then
    bool echo_ = false;
    Spare spare_ = Spare::kAbsent;
    std::uint64_t reaped_ = 0;  // receive buffers
    std::uint64_t due_ = 0;     // reaped_ once the spare region has none left

    std::deque<Frame> to_send_;
    std::unordered_set<std::uint32_t> seen_;
    std::uint64_t frames_ = 0, bytes_ = 0, sent_ = 0, damaged_ = 0, duplicates_ = 0, strangers_ = 0;
    std::vector<std::string> violations_;
    unsigned passes_ = 0;
};

std::string VhostFrontend::obey(const std::string& line) {
    std::istringstream words(line);
    std::string order, argument;
    words >> order;
    if (order == "stat") return stat();
    if (order == "connect") {
        words >> argument;
        connect(argument);
    } else if (order == "echo") {
        echo_ = true;
    } else if (order == "send") {
        send_numbered(words);
    } else if (order == "plug") {
        plug();
    } else if (order == "unplug") {
        unplug();
    } else if (order == "leave") {
        leave();
    } else {
        return "unknown order: " + line;
    }
    return "ok";
}

void VhostFrontend::connect(const std::string& socket) {
    Negotiation wanted;
    if (!settings_.slots) wanted.protocol_features &= ~kProtocolConfigureMemSlots;
    frontend_.emplace(Frontend::connect(socket, kPatience));
    const std::uint64_t features = frontend_->negotiate(wanted);
    if (!net_) {
        NetDriverOptions options{.features = features};
        if (settings_.room > 0) options.layout = RxLayout::single(settings_.room);
        net_.emplace(memory_, options);
        net_->rx().tolerate_scratch();
        net_->refill();
    }
    left_ = false;
    share_memory();
    frontend_->start_vrings(memory_, queues());
}

std::vector<MemoryRegion> VhostFrontend::table() const {
    std::vector<MemoryRegion> all = memory_.regions();
    if (spare_ != Spare::kPlugged && spare_ != Spare::kDraining) all.pop_back();
    return all;
}

void VhostFrontend::share_memory() {
    if (!settings_.slots) {
        if (!frontend_->set_mem_table(table())) throw FrontendError("a memory table was refused");
        return;
    }
    for (const MemoryRegion& region : table()) {
        if (!frontend_->add_mem_region(region)) throw FrontendError("a region was refused");
    }
}

// Tells the daemon of the table's change, by `one` for the spare region or as a whole.
bool VhostFrontend::change_table(bool (Frontend::*one)(const MemoryRegion&)) {
    if (!settings_.slots) return frontend_->set_mem_table(table());
    return ((*frontend_).*one)(memory_.regions().back());
}

void VhostFrontend::plug() {
    spare_ = Spare::kPlugged;
    if (!change_table(&Frontend::add_mem_region)) throw FrontendError("a region was refused");
    net_->rx().set_layout(spare_layout());
}

void VhostFrontend::unplug() {
    // Buffers of the layout before may not have come back until the region is removed.
    std::swap(main_layouts_[0], main_layouts_[1]);
    net_->rx().set_layout(main_layouts_[0]);
    due_ = reaped_ + net_->rx().queue().outstanding();
    spare_ = Spare::kDraining;
}

// From then on, not a byte of it may change.
void VhostFrontend::remove_spare() {
    spare_ = Spare::kRemoved;
    if (!change_table(&Frontend::remove_mem_region)) wrong("to remove a region was refused");
    memory_.fill_canary({kSpareBase, kSpareBytes});
}

void VhostFrontend::leave() {
    frontend_->stop_device();
    receive();
    net_->reap_transmitted();
    net_->rx().poison();
    left_ = true;
    frontend_.reset();
}

void VhostFrontend::send_numbered(std::istream& words) {
    std::string to;
    std::uint32_t first = 0, count = 0;
    words >> to >> first >> count;
    const auto address = MacAddress::parse(to);
    if (!address) throw std::invalid_argument("no MAC address: " + to);
    for (std::uint32_t seq = first; seq != first + count; ++seq) {
        to_send_.push_back(make_frame(
            {.dst = *address, .src = settings_.mac, .seq = seq, .size = size_of_numbered(seq)}));
    }
}

std::string VhostFrontend::stat() {
    static constexpr const char* kSpareNames[] = {"absent", "plugged", "draining", "removed"};
    std::vector<std::string> all = violations_;
    if (net_) {
        if (left_) net_->rx().check_poison("after it left");
        const auto more = net_->violations();
        all.insert(all.end(), more.begin(), more.end());
    }
    if (spare_ == Spare::kRemoved && memory_.find_damage({kSpareBase, kSpareBytes})) {
        all.emplace_back("a write into a region that was removed");
    }
    return nlohmann::json{{"frames", frames_},
                          {"bytes", bytes_},
                          {"sent", sent_},
                          {"damaged", damaged_},
                          {"duplicates", duplicates_},
                          {"strangers", strangers_},
                          {"spare", kSpareNames[static_cast<int>(spare_)]},
                          {"violations", all}}
        .dump();
}

void VhostFrontend::pass(int orders) {
    if (serving()) {
        const std::size_t received = receive();
        transmit();
        if (spare_ == Spare::kDraining && reaped_ >= due_) remove_spare();
        if (received > 0) return;
        watch_connection();
    }
    constexpr int kMoment = 2;  // ms; transmitted buffers come back without a call
    std::array<pollfd, 2> wakers{{{orders, POLLIN, 0}, {-1, POLLIN, 0}}};
    if (net_) wakers[1].fd = net_->rx().queue().call_fd();
    ::poll(wakers.data(), wakers.size(), serving() ? kMoment : -1);
    if (net_) net_->rx().queue().drain_calls();
}

std::size_t VhostFrontend::receive() {
    const auto frames = net_->receive();
    for (const ReceivedFrame& frame : frames) take(frame);
    return frames.size();
}

void VhostFrontend::take(const ReceivedFrame& frame) {
    reaped_ += frame.heads.size();
    ++frames_;
    bytes_ += frame.bytes.size();
    const auto seq = check_frame(frame.bytes);
    if (!seq) {
        ++damaged_;
        return;
    }
    if (!seen_.insert(*seq).second) ++duplicates_;
    if (address_at(frame.bytes, 0) != settings_.mac) ++strangers_;
    if (echo_) to_send_.push_back(with_swapped_addresses(frame.bytes));
}

void VhostFrontend::transmit() {
    net_->reap_transmitted();
    for (; !to_send_.empty() && net_->tx().enqueue(to_send_.front()); to_send_.pop_front()) ++sent_;
    net_->tx().flush();
}

void VhostFrontend::watch_connection() {
    if (++passes_ % 64 != 0 || !frontend_->wait_closed(0ms)) return;
    wrong("the daemon closed the connection");
    frontend_.reset();
}

// Until stdin ends.
void serve(VhostFrontend& frontend) {
    std::string text;
    for (;;) {
        frontend.pass(STDIN_FILENO);
        if (!poll_fd(STDIN_FILENO, POLLIN, 0ms)) continue;
        if (!read_some(STDIN_FILENO, text, std::chrono::steady_clock::now())) return;
        for (std::size_t end; (end = text.find('\n')) != std::string::npos;) {
            const std::string order = text.substr(0, end);
            text.erase(0, end + 1);
            try {
                std::cout << frontend.obey(order) << std::endl;
            } catch (const std::exception& error) {
                std::cout << "failed: " << error.what() << std::endl;
            }
        }
    }
}

namespace po = boost::program_options;

// Nothing: help was asked for.
std::optional<Settings> parse(int argc, char** argv) {
    Settings settings;
    std::string mac;
    po::options_description all("vhost-frontend --mac ADDRESS [options] < ORDERS");
    all.add_options()                                                                    //
        ("help,h", "print this help and exit")                                           //
        ("mac", po::value(&mac)->required()->value_name("ADDRESS"), "the VM's")          //
        ("huge-pages", "guest memory on 2 MiB pages; else 4 KiB")                        //
        ("memory", po::value(&settings.memory)->value_name("MIB"), "guest memory [32]")  //
        ("regions", po::value(&settings.regions)->value_name("N"),
         "how many regions it consists of [1]")  //
        ("room", po::value(&settings.room)->value_name("BYTES"),
         "for a frame in a receive buffer [as Linux has it]")  //
        ("whole-tables", "memory tables as a whole; else region by region");
    po::variables_map values;
    po::store(po::parse_command_line(argc, argv, all), values);
    if (values.count("help") != 0) {
        std::cout << all;
        return std::nullopt;
    }
    po::notify(values);
    const auto address = MacAddress::parse(mac);
    if (!address) throw po::error("--mac " + mac + " is no MAC address");
    settings.mac = *address;
    settings.slots = values.count("whole-tables") == 0;
    if (values.count("huge-pages") != 0) settings.page_size = PageSize::k2MiB;
    return settings;
}

}  // namespace
}  // namespace zecorx::test

int main(int argc, char** argv) {
    using namespace zecorx::test;
    try {
        const auto settings = parse(argc, argv);
        if (!settings) return EXIT_SUCCESS;
        VhostFrontend frontend(*settings);
        serve(frontend);
        return EXIT_SUCCESS;
    } catch (const std::exception& error) {
        std::cerr << "vhost-frontend: " << error.what() << '\n';
        return EXIT_FAILURE;
    }
}
