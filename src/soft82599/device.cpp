#include "device.h"

#include <utility>

namespace zecorx::soft82599 {
namespace {

// The sum of EEPROM words 0..0x3F (section 6.2); word 0x3F makes it right.
constexpr std::uint16_t kEepromSum = 0xBABA;
constexpr std::size_t kEepromSumWords = 0x40;

}  // namespace

Device::Device(std::span<std::uint32_t> words, DmaSpace& dma, const MacAddress& mac, Hooks hooks)
    : regs_(words),
      mac_(mac),
      hooks_(std::move(hooks)),
      dma_(dma, counters_, hooks_.log),
      statistics_(regs_),
      rx_(regs_, dma_, statistics_, counters_),
      filter_(regs_) {
    tx_queues_.reserve(kQueues);
    for (unsigned i = 0; i < kQueues; ++i) tx_queues_.emplace_back(i, regs_, dma_, counters_);
    fill_eeprom();
    reset();
}

// Software and link reset (section 4.2.1): every register to its default. The link stays as the
// wire has it.
void Device::reset() {
    for (std::uint32_t offset = 0; offset < kBarSize; offset += 4) regs_.set(offset, 0);
    for (const RegisterBlock& block : register_table()) {
        for (unsigned i = 0; i < block.count; ++i) {
            regs_.set(block.offset + i * block.stride, block.reset);
        }
    }
    load_permanent_address();
    statistics_.reset();
    synchronize_queues();
    rx_.reset();
    interrupt_pending_ = false;
    if (!link_up_) regs_.set(reg::kLinks, 0);
}

void Device::load_permanent_address() {
    const auto& b = mac_.bytes;
    regs_.set(reg::kRal, b[0] | std::uint32_t{b[1]} << 8 | std::uint32_t{b[2]} << 16 |
                             std::uint32_t{b[3]} << 24);
    regs_.set(reg::kRah, b[4] | std::uint32_t{b[5]} << 8 | bits::kRahValid);
    regs_.set(reg::kMpsar, 1);
}

// All words 0 but the checksum: no firmware sections, so the driver's optional features stay off.
void Device::fill_eeprom() { eeprom_[kEepromSumWords - 1] = kEepromSum; }

std::uint32_t Device::read_register(std::uint32_t offset) {
    ++counters_.trapped_accesses;
    synchronize_queues();
    offset = canonical_offset(offset);
    switch (register_access(offset)) {
        case Access::kReadClear:
            return regs_.take(offset);
        case Access::kDevice:
            return read_special(offset);
        case Access::kReadWrite:
        case Access::kReadOnly:
            break;
    }
    return regs_.get(offset);
}

void Device::write_register(std::uint32_t offset, std::uint32_t value) {
    ++counters_.trapped_accesses;
    offset = canonical_offset(offset);
    switch (register_access(offset)) {
        case Access::kReadOnly:
        case Access::kReadClear:
            break;
        case Access::kDevice:
            write_special(offset, value);
            break;
        case Access::kReadWrite:
            regs_.set(offset, value);
            break;
    }
    synchronize_queues();
}

std::uint32_t Device::read_special(std::uint32_t offset) {
    switch (offset) {
        case reg::kEicr: {
            const std::uint32_t causes = regs_.take(offset);
            update_interrupt();
            return causes;
        }
        case reg::kSwsm:
            return read_semaphore();
        case reg::kCrcerrs:
            statistics_.publish_queue_counters();
            return regs_.take(offset);
        case reg::kMlfc:
            statistics_.withdraw_queue_counters();
            return regs_.take(offset);
        case reg::kEimcEx:
        case reg::kEimcEx + 4:
            return regs_.get(offset - reg::kEimcEx + reg::kEimsEx);
        case reg::kEimc:
            return regs_.get(reg::kEims);
        default:
            return regs_.get(offset);
    }
}

void Device::write_special(std::uint32_t offset, std::uint32_t value) {
    switch (offset) {
        case reg::kCtrl:
            write_control(value);
            break;
        case reg::kEec: {
            const std::uint32_t grant = (value & bits::kEecRequest) != 0 ? bits::kEecGrant : 0;
            regs_.set(offset, (value & ~bits::kEecGrant) | grant | bits::kEecPresent |
                                  bits::kEecAutoReadDone);
            break;
        }
        case reg::kEerd:
            read_eeprom(value);
            break;
        case reg::kSwsm:
            regs_.set(offset, value);
            break;
        case reg::kEicr:
            regs_.set(offset, regs_.get(offset) & ~value);
            update_interrupt();
            break;
        case reg::kEics:
            set_causes(value);
            break;
        case reg::kEims:
            set_mask(regs_.get(reg::kEims) | value);
            break;
        case reg::kEimc:
            set_mask(regs_.get(reg::kEims) & ~value);
            break;
        case reg::kEimsEx:
        case reg::kEimsEx + 4:
            regs_.set(offset, regs_.get(offset) | value);
            break;
        case reg::kEimcEx:
        case reg::kEimcEx + 4: {
            const std::uint32_t mask = offset - reg::kEimcEx + reg::kEimsEx;
            regs_.set(mask, regs_.get(mask) & ~value);
            break;
        }
        case reg::kRdrxctl:
            regs_.set(offset, value | bits::kRdrxctlDmaInitDone);
            break;
        case reg::kQde:
            rx_.write_qde(value);
            regs_.set(offset, value);
            break;
        case reg::kMsca:
            regs_.set(offset, value & ~bits::kMscaCommand);
            break;
        case reg::kMsrwd:
            regs_.set(offset, value & 0xFFFF);  // read data stays 0: no PHY answers
            break;
        default:  // STATUS, CRCERRS, MLFC
            break;
    }
}

void Device::write_control(std::uint32_t value) {
    if ((value & (bits::kCtrlReset | bits::kCtrlLinkReset)) != 0) reset();
    regs_.set(reg::kCtrl, value & ~(bits::kCtrlReset | bits::kCtrlLinkReset));
    // Nothing is ever in flight here, so a master disable takes effect at once (section 5.2.4.3.2).
    const std::uint32_t status = regs_.get(reg::kStatus);
    regs_.set(reg::kStatus, (value & bits::kCtrlGioDisable) != 0
                                ? status & ~bits::kStatusGioEnabled
                                : status | bits::kStatusGioEnabled);
}

void Device::read_eeprom(std::uint32_t command) {
    std::uint32_t value = command & ~(bits::kEerdDone | 0xFFFF'0000);
    if ((command & bits::kEerdStart) != 0) {
        const std::size_t address = command >> 2 & 0x3FFF;
        value &= ~bits::kEerdStart;
        value |= std::uint32_t{eeprom_[address % kEepromWords]} << 16 | bits::kEerdDone;
    }
    regs_.set(reg::kEerd, value);
}

// SMBI is a test-and-set lock: a read returns it and sets it (section 8.2.3.4.12).
std::uint32_t Device::read_semaphore() {
    const std::uint32_t value = regs_.get(reg::kSwsm);
    regs_.set(reg::kSwsm, value | bits::kSwsmSmbi);
    return value;
}

void Device::set_causes(std::uint32_t causes) {
    regs_.set(reg::kEicr, regs_.get(reg::kEicr) | causes);
    update_interrupt();
}

void Device::set_mask(std::uint32_t mask) {
    regs_.set(reg::kEims, mask);
    update_interrupt();
}

// One message per edge from "no unmasked cause" to "some", as MSI does.
void Device::update_interrupt() {
    const bool pending = regs_.test(reg::kEicr, regs_.get(reg::kEims));
    const bool edge = pending && !interrupt_pending_;
    interrupt_pending_ = pending;
    if (!edge || !hooks_.raise_interrupt) return;
    ++counters_.interrupts;
    hooks_.raise_interrupt();
}

void Device::set_link(bool up) {
    if (up == link_up_) return;
    link_up_ = up;
    regs_.set(reg::kLinks,
              up ? bits::kLinksUp | bits::kLinksSpeed10G | bits::kLinksKxAutonegDone : 0);
    set_causes(bits::kEicrLinkChange);
}

void Device::synchronize_queues() {
    rx_.synchronize_queues();
    for (TxQueue& queue : tx_queues_) queue.synchronize();
}

RxResult Device::receive(FrameView frame) { return rx_.receive(frame, link_up_); }

unsigned Device::transmit(unsigned budget, std::vector<Frame>& wire) {
    if (!regs_.test(reg::kDmatxctl, bits::kDmatxctlEnable)) return 0;
    unsigned taken = 0;
    unsigned idle = 0;
    while (taken < budget && idle < kQueues) {
        const unsigned queue = next_tx_queue_;
        next_tx_queue_ = (queue + 1) % kQueues;
        auto packet = may_transmit(queue) ? tx_queues_[queue].take() : std::nullopt;
        if (!packet) {
            ++idle;
            continue;
        }
        idle = 0;
        ++taken;
        send_packet(queue, std::move(*packet), wire);
    }
    return taken;
}

// MTQC says how queues belong to pools; no value without virtualization (section 7.2.1.2.1).
std::optional<unsigned> Device::transmit_pool(unsigned queue) const {
    const std::uint32_t mode = regs_.get(reg::kMtqc);
    if ((mode & bits::kMtqcVirtualization) == 0) return std::nullopt;
    return (mode & bits::kMtqcLayoutMask) == bits::kMtqc32Pools ? queue / 4 : queue / 2;
}

bool Device::may_transmit(unsigned queue) const {
    const auto pool = transmit_pool(queue);
    return !pool || regs_.test_bit(reg::kVfte, *pool);
}

void Device::send_packet(unsigned queue, TxPacket packet, std::vector<Frame>& wire) {
    if (const auto pool = transmit_pool(queue)) {
        const std::uint32_t insert = regs_.get(reg::kVmvir + 4 * *pool);
        const std::uint32_t action = insert & bits::kVmvirActionMask;
        if (action == bits::kVmvirAlwaysInsert) {
            packet.vlan = static_cast<std::uint16_t>(insert & 0xFFFF);
        } else if (action == bits::kVmvirNeverInsert) {
            packet.vlan.reset();
        }
    }
    std::vector<Frame> frames = apply_offloads(std::move(packet), tx_settings());
    if (frames.empty()) ++counters_.tx_malformed;
    for (Frame& frame : frames) send_frame(queue, std::move(frame), wire);
}

void Device::send_frame(unsigned queue, Frame frame, std::vector<Frame>& wire) {
    const auto pool = transmit_pool(queue);
    const bool switched = pool && switches_locally();
    if (switched && frame.size() + kCrc > kMaxSwitchedFrame) {
        ++counters_.tx_too_long_to_switch;
        return;
    }
    ++counters_.tx_frames;
    statistics_.count_transmit(queue, MacAddress::from_wire(frame), frame.size());
    if (switched && switch_locally(frame, *pool)) return;
    if (regs_.test(reg::kHlreg0, bits::kHlreg0Loopback)) {
        receive(frame);
    } else if (link_up_) {
        wire.push_back(std::move(frame));
    }
}

// Neither without link nor with the receiver off (section 7.10.3.4).
bool Device::switches_locally() const {
    return filter_.virtualized() && regs_.test(reg::kPfdtxgswc, bits::kPfdtxgswcLoopback) &&
           link_up_ && rx_.receive_enabled();
}

// Pool to pool switching (section 7.10.3.4): unicast to an address of a pool stays inside, even if
// the VLAN then keeps it from that pool; everything else also leaves by the wire. A pool hears
// itself only with its PFVMTXSW bit. Returns whether the frame must not go to the wire.
bool Device::switch_locally(FrameView frame, unsigned pool) {
    const auto ethertype = static_cast<std::uint16_t>(regs_.get(reg::kVlnctrl) & 0xFFFF);
    const FrameLayout layout = parse_frame(frame, ethertype);
    const PoolSet own = regs_.test_bit(reg::kVmtxsw, pool) ? PoolSet{0} : PoolSet{1} << pool;
    const PoolSet pools = filter_.loopback_pools_for(layout) & ~own;
    if (pools != 0) rx_.loop_back(frame, pools);
    return !layout.destination.is_multicast() && filter_.is_local(layout.destination);
}

TxSettings Device::tx_settings() const {
    const std::uint32_t flags = regs_.get(reg::kDtxtcpflgl);
    TxSettings settings;
    settings.vlan_ethertype = static_cast<std::uint16_t>(regs_.get(reg::kDmatxctl) >> 16);
    settings.pad = regs_.test(reg::kHlreg0, bits::kHlreg0TxPad);
    settings.first_flags = flags & 0xFFF;
    settings.middle_flags = flags >> 16 & 0xFFF;
    settings.last_flags = regs_.get(reg::kDtxtcpflgh) & 0xFFF;
    return settings;
}

}  // namespace zecorx::soft82599
