#include "registers.h"

#include <array>

namespace zecorx::soft82599 {
namespace {

using enum Access;

// EEC: present, automatic read at reset done, and the grant bit is always granted.
constexpr std::uint32_t kEecReset = bits::kEecPresent | bits::kEecAutoReadDone;
// AUTOC: link mode select = KX4 with clause 73 negotiation restart done; KX, KX4 and KR offered.
constexpr std::uint32_t kAutocReset = 1u << 31 | 1u << 30 | 4u << 13 | 1u << 16 | 1u << 9;
// ANLP1: the negotiation state machine is past its idle state.
constexpr std::uint32_t kAnlp1Reset = 0x000F0000;
constexpr std::uint32_t kLinksReset =
    bits::kLinksUp | bits::kLinksSpeed10G | bits::kLinksKxAutonegDone | 1u << 7;
constexpr std::uint32_t kStatusReset = bits::kStatusLinkUp | bits::kStatusGioEnabled;
// HLREG0: CRC insertion and stripping, padding; MDC speed as the hardware resets it.
constexpr std::uint32_t kHlreg0Reset = 1u << 0 | bits::kHlreg0RxCrcStrip | bits::kHlreg0TxPad |
                                       1u << 11 | 1u << 14 | 1u << 16 | 1u << 17;
// SRRCTL: 2 KiB packet buffers, 256 byte header buffers.
constexpr std::uint32_t kSrrctlReset = 2 | 4 << 8;

constexpr auto kTable = std::to_array<RegisterBlock>({
    // General control (section 8.2.3.1), EEPROM and semaphores (8.2.3.2, 8.2.3.4)
    {"CTRL", reg::kCtrl, 4, 1, kDevice, 0, "device control; RST and LNK_RST clear themselves"},
    {"STATUS", reg::kStatus, 4, 1, kDevice, kStatusReset, "GIO master enable follows CTRL.GIO_DIS"},
    {"CTRL_EXT", reg::kCtrlExt, 4, 1, kReadWrite, 0, "extended device control"},
    {"ESDP", 0x00020, 4, 1, kReadWrite, 0, "software definable pins"},
    {"I2CCTL", 0x00028, 4, 1, kReadWrite, 0, "no module behind it: the port is a backplane"},
    {"LEDCTL", 0x00200, 4, 1, kReadWrite, 0, "LEDs"},
    {"EEC", reg::kEec, 4, 1, kDevice, kEecReset, "EEPROM control; a request is granted at once"},
    {"EERD", reg::kEerd, 4, 1, kDevice, bits::kEerdDone, "EEPROM read: start, done, data"},
    {"SWSM", reg::kSwsm, 4, 1, kDevice, 0, "software semaphore; reading SMBI takes it"},
    {"FWSM", reg::kFwsm, 4, 1, kReadOnly, 0, "no management firmware"},
    {"SW_FW_SYNC", reg::kSwFwSync, 4, 1, kReadWrite, 0, "resource semaphores"},
    {"FACTPS", 0x10150, 4, 1, kReadOnly, 0, "power state: LAN functions not swapped"},

    // Interrupts (8.2.3.5)
    {"EICR", reg::kEicr, 4, 1, kDevice, 0, "causes; read clears, write 1 clears"},
    {"EICS", reg::kEics, 4, 1, kDevice, 0, "cause set"},
    {"EIAC", 0x00810, 4, 1, kReadWrite, 0, "auto clear"},
    {"EITR", 0x00820, 4, 24, kReadWrite, 0, "throttling; not modelled"},
    {"EIMS", reg::kEims, 4, 1, kDevice, 0, "mask; write 1 sets"},
    {"EIMC", reg::kEimc, 4, 1, kDevice, 0, "mask; write 1 clears"},
    {"EIAM", 0x00890, 4, 1, kReadWrite, 0, "auto mask"},
    {"GPIE", 0x00898, 4, 1, kReadWrite, 0, "general purpose interrupt enable"},
    {"IVAR", 0x00900, 4, 64, kReadWrite, 0, "cause to vector"},
    {"IVAR_MISC", 0x00A00, 4, 1, kReadWrite, 0, "other causes to vector"},
    {"EIMS_EX", reg::kEimsEx, 4, 2, kDevice, 0, "queue mask; write 1 sets"},
    {"EIMC_EX", reg::kEimcEx, 4, 2, kDevice, 0, "queue mask; write 1 clears"},

    // Receive filtering (8.2.3.7)
    {"RXCSUM", 0x05000, 4, 1, kReadWrite, 0, "receive checksum control"},
    {"FCTRL", reg::kFctrl, 4, 1, kReadWrite, 0, "promiscuity and broadcast"},
    {"VLNCTRL", reg::kVlnctrl, 4, 1, kReadWrite, 0x8100, "VLAN ethertype and filter enable"},
    {"MCSTCTRL", reg::kMcstctrl, 4, 1, kReadWrite, 0, "multicast hash offset and enable"},
    {"PSRTYPE", 0x05480, 4, 16, kReadWrite, 0, "header split, and RSS queues per pool"},
    {"MTA", reg::kMta, 4, 128, kReadWrite, 0, "multicast hash table"},
    {"VFTA", reg::kVfta, 4, 128, kReadWrite, 0, "VLAN filter table"},
    {"RAL", reg::kRal, 8, 128, kReadWrite, 0, "receive address, low"},
    {"RAH", reg::kRah, 8, 128, kReadWrite, 0, "receive address, high; AV makes it valid"},
    {"MPSAR", reg::kMpsar, 4, 256, kReadWrite, 0, "pools of a receive address, low and high words"},
    {"RETA", reg::kReta, 4, 32, kReadWrite, 0, "RSS redirection table"},
    {"RSSRK", reg::kRssrk, 4, 10, kReadWrite, 0, "RSS key"},
    {"MRQC", reg::kMrqc, 4, 1, kReadWrite, 0, "multiple receive queues mode"},

    // Receive DMA (8.2.3.8); the per-queue blocks lie in doorbell pages
    {"SRRCTL", 0x01014, 0x40, 64, kReadWrite, kSrrctlReset, "buffer size, drop enable, type"},
    {"SRRCTL+", 0x0D014, 0x40, 64, kReadWrite, kSrrctlReset, "of queues 64..127"},
    {"RDRXCTL", reg::kRdrxctl, 4, 1, kDevice, bits::kRdrxctlDmaInitDone | bits::kRdrxctlCrcStrip,
     "receive DMA control; DMAIDONE reads 1"},
    {"QDE", reg::kQde, 4, 1, kDevice, 0, "drop enable by index (PFQDE)"},
    {"RXCTRL", reg::kRxctrl, 4, 1, kReadWrite, 0, "receive enable"},
    {"RXPBSIZE", 0x03C00, 4, 8, kReadWrite, 0x00080000, "packet buffer size; 512 KiB is modelled"},

    // Transmit (8.2.3.9)
    {"DMATXCTL", reg::kDmatxctl, 4, 1, kReadWrite, 0x81000000, "transmit enable, VLAN ethertype"},
    {"DTXTCPFLGL", reg::kDtxtcpflgl, 4, 1, kReadWrite, 0x0FF60FF6, "TSO flags: first, middle"},
    {"DTXTCPFLGH", reg::kDtxtcpflgh, 4, 1, kReadWrite, 0x00000F7F, "TSO flags: last"},
    {"MTQC", reg::kMtqc, 4, 1, kReadWrite, 0, "multiple transmit queues mode"},
    {"SECTXSTAT", reg::kSectxstat, 4, 1, kReadOnly, 1, "security transmit path: ready, disabled"},
    {"SECRXSTAT", reg::kSecrxstat, 4, 1, kReadOnly, 1, "security receive path: ready, disabled"},

    // Virtualization (8.2.3.27)
    {"PFVTCTL", reg::kVtCtl, 4, 1, kReadWrite, 0, "VMDq enable, replication, default pool"},
    {"PFVFRE", reg::kVfre, 4, 2, kReadWrite, 0, "pool receive enable"},
    {"PFVFTE", reg::kVfte, 4, 2, kReadWrite, 0, "pool transmit enable"},
    {"PFVML2FLT", reg::kVmolr, 4, 64, kReadWrite, 0, "VMOLR: what a pool accepts besides its MACs"},
    {"PFVLVF", reg::kVlvf, 4, 64, kReadWrite, 0, "VLAN of a pool filter"},
    {"PFVLVFB", reg::kVlvfb, 4, 128, kReadWrite, 0, "pools of a VLAN, low and high words"},
    {"PFUTA", reg::kUta, 4, 128, kReadWrite, 0, "unicast hash table"},
    {"PFVMVIR", reg::kVmvir, 4, 64, kReadWrite, 0, "default VLAN tag of a pool"},
    {"PFDTXGSWC", reg::kPfdtxgswc, 4, 1, kReadWrite, 0, "pool to pool loopback enable"},
    {"PFVMTXSW", reg::kVmtxsw, 4, 2, kReadWrite, 0, "loopback to the sending pool itself"},

    // MAC and link (8.2.3.22)
    {"HLREG0", reg::kHlreg0, 4, 1, kReadWrite, kHlreg0Reset, "CRC, jumbo, padding, loopback"},
    {"MSCA", reg::kMsca, 4, 1, kDevice, 0, "MDIO command; completes at once"},
    {"MSRWD", reg::kMsrwd, 4, 1, kDevice, 0, "MDIO data; no PHY answers"},
    {"MAXFRS", reg::kMaxfrs, 4, 1, kReadWrite, 0x05EE0000, "largest frame, used with JUMBOEN"},
    {"AUTOC", reg::kAutoc, 4, 1, kReadWrite, kAutocReset, "link mode and abilities"},
    {"LINKS", reg::kLinks, 4, 1, kReadOnly, kLinksReset, "link status"},
    {"ANLP1", reg::kAnlp1, 4, 1, kReadOnly, kAnlp1Reset, "link partner abilities"},

    // Statistics (8.2.3.23): clear on read
    {"RQSMR", reg::kRqsmr, 4, 32, kReadWrite, 0, "receive queue to statistics counter"},
    {"TQSM", reg::kTqsm, 4, 32, kReadWrite, 0, "transmit queue to statistics counter"},
    {"FCOERX", 0x0241C, 4, 5, kReadClear, 0, "FCoE receive counters: always 0"},
    {"PXON2OFFC", 0x03240, 4, 8, kReadClear, 0, "priority flow control: always 0"},
    {"PXTXC", 0x03F00, 4, 16, kReadClear, 0, "priority flow control: always 0"},
    {"LXONTXC", 0x03F60, 4, 1, kReadClear, 0, "flow control: always 0"},
    {"LXOFFTXC", 0x03F68, 4, 1, kReadClear, 0, "flow control: always 0"},
    {"RXMPC", reg::kMpc, 4, 8, kReadClear, 0, "missed: the receive FIFO was full"},
    {"CRCERRS", reg::kCrcerrs, 4, 1, kDevice, 0, "also publishes the queue statistics"},
    {"MACERR", 0x04004, 4, 11, kReadClear, 0, "wire errors: always 0"},
    {"MLFC", reg::kMlfc, 4, 1, kDevice, 0, "also takes the queue statistics back"},
    {"MRFC", 0x04038, 4, 1, kReadClear, 0, "remote faults: always 0"},
    {"RLEC", 0x04040, 4, 1, kReadClear, 0, "length errors: always 0"},
    {"PRC", reg::kPrc64, 4, 6, kReadClear, 0, "received by size class"},
    {"GPRC", reg::kGprc, 4, 1, kReadClear, 0, "good frames received"},
    {"BPRC", reg::kBprc, 4, 1, kReadClear, 0, "broadcast received"},
    {"MPRC", reg::kMprc, 4, 1, kReadClear, 0, "multicast received"},
    {"GPTC", reg::kGptc, 4, 1, kReadClear, 0, "good frames sent"},
    {"GORC", reg::kGorc, 4, 2, kReadClear, 0, "good octets received"},
    {"GOTC", reg::kGotc, 4, 2, kReadClear, 0, "good octets sent"},
    {"RUC", 0x040A4, 4, 2, kReadClear, 0, "undersize, fragments: a wire pads"},
    {"ROC", reg::kRoc, 4, 1, kReadClear, 0, "oversize frames, dropped"},
    {"RJC", 0x040B0, 4, 3, kReadClear, 0, "jabber and management: always 0"},
    {"TOR", reg::kTor, 4, 2, kReadClear, 0, "octets received, good or not"},
    {"TPR", reg::kTpr, 4, 1, kReadClear, 0, "frames received, good or not"},
    {"TPT", reg::kTpt, 4, 1, kReadClear, 0, "frames sent"},
    {"PTC", reg::kPtc64, 4, 6, kReadClear, 0, "sent by size class"},
    {"MPTC", reg::kMptc, 4, 1, kReadClear, 0, "multicast sent"},
    {"BPTC", reg::kBptc, 4, 1, kReadClear, 0, "broadcast sent"},
    {"XEC", 0x04120, 4, 1, kReadClear, 0, "checksum errors: not counted"},
    {"PXRXCNT", 0x04140, 4, 16, kReadClear, 0, "priority flow control: always 0"},
    {"LXRXCNT", 0x041A4, 4, 2, kReadClear, 0, "flow control: always 0"},
    {"FCCRC", 0x05118, 4, 1, kReadClear, 0, "FCoE: always 0"},
    {"QBTC", reg::kQbtc, 4, 32, kReadClear, 0, "octets sent by counter, low and high words"},
    {"SSVPC", 0x08780, 4, 3, kReadClear, 0, "spoofed frames and FCoE: always 0"},
    {"LSECTXSTAT", 0x08A3C, 4, 5, kReadClear, 0, "MACsec: always 0"},
    {"LSECRXSTAT", 0x08F40, 4, 17, kReadClear, 0, "MACsec: always 0"},
    {"FDIRSTAT", 0x0EE50, 4, 4, kReadClear, 0, "flow director: always 0"},
});

// Row of the table for every word of the BAR; 0 = none. A byte is enough for the table's size.
using RowIndex = std::array<std::uint8_t, kBarWords>;
static_assert(kTable.size() < 255);

const RowIndex& row_index() {
    static const RowIndex index = [] {
        RowIndex rows{};
        for (std::size_t row = 0; row < kTable.size(); ++row) {
            const RegisterBlock& block = kTable[row];
            for (unsigned i = 0; i < block.count; ++i) {
                rows[(block.offset + i * block.stride) / 4] = static_cast<std::uint8_t>(row + 1);
            }
        }
        return rows;
    }();
    return index;
}

}  // namespace

std::span<const RegisterBlock> register_table() { return kTable; }

Access register_access(std::uint32_t offset) {
    const std::uint8_t row = row_index()[offset / 4];
    return row == 0 ? kReadWrite : kTable[row - 1].access;
}

std::uint32_t canonical_offset(std::uint32_t offset) {
    if (offset >= 0x02100 && offset < 0x02140) {  // SRRCTL 0..15
        return reg::rx_queue((offset - 0x02100) / 4) + reg::kSrrctl;
    }
    if (offset >= 0x02200 && offset < 0x02240) {  // DCA_RXCTRL 0..15
        return reg::rx_queue((offset - 0x02200) / 4) + 0x0C;
    }
    if (offset >= 0x05400 && offset < 0x05480) {  // RAL/RAH 0..15
        return offset - 0x05400 + reg::kRal;
    }
    return offset;
}

}  // namespace zecorx::soft82599
