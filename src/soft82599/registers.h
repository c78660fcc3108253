// The registers of the 82599 as one table, and the bits the model acts on.
//
// Section numbers refer to the Intel 82599 datasheet (register descriptions are its chapter 8).
// A register that is in no table row is plain storage: it reads back what was written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace zecorx::soft82599 {

inline constexpr std::uint32_t kBarSize = 512 * 1024;  // BAR 0, bytes
inline constexpr std::uint32_t kBarWords = kBarSize / 4;
inline constexpr unsigned kQueues = 128;  // receive queues, and as many transmit queues
inline constexpr unsigned kPools = 64;
inline constexpr unsigned kReceiveAddresses = 128;
inline constexpr unsigned kVlanPoolFilters = 64;
inline constexpr unsigned kQueueStatistics = 16;

enum class Access : std::uint8_t {
    kReadWrite,
    kReadOnly,   // writes are ignored
    kReadClear,  // a read returns the value and leaves 0
    kDevice,     // reads or writes have effects that device.cpp implements
};

struct RegisterBlock {
    std::string_view name;
    std::uint32_t offset;  // of instance 0, bytes from the start of the BAR
    std::uint16_t stride;  // bytes between instances
    std::uint16_t count;   // instances
    Access access;
    std::uint32_t reset;  // value after CTRL.RST
    std::string_view meaning;
};

std::span<const RegisterBlock> register_table();

// How an access to this offset behaves; kReadWrite for one in no row. REQUIRES: offset < kBarSize.
Access register_access(std::uint32_t offset);

// Some registers are reachable at a second offset (section 8.2.3.8, the first 16 of RAL/RAH, SRRCTL
// and DCA_RXCTRL); this is where their value is kept.
std::uint32_t canonical_offset(std::uint32_t offset);

// A page of queue registers. The driver rings RDT and TDT there once per burst, so the pages stay
// plain memory, which the device polls; every other page is trapped.
constexpr bool is_doorbell_page(std::uint32_t offset) {
    switch (offset >> 12) {
        case 0x01:  // receive queues 0..63, QPRC, QBRC, QPRDC
        case 0x06:  // transmit queues 0..63, QPTC
        case 0x07:  // transmit queues 64..127
        case 0x0D:  // receive queues 64..127
            return true;
        default:
            return false;
    }
}

namespace reg {

// General, EEPROM, firmware semaphores.
inline constexpr std::uint32_t kCtrl = 0x00000;
inline constexpr std::uint32_t kStatus = 0x00008;
inline constexpr std::uint32_t kCtrlExt = 0x00018;
inline constexpr std::uint32_t kEec = 0x10010;
inline constexpr std::uint32_t kEerd = 0x10014;
inline constexpr std::uint32_t kSwsm = 0x10140;
inline constexpr std::uint32_t kFwsm = 0x10148;
inline constexpr std::uint32_t kSwFwSync = 0x10160;

// Interrupts.
inline constexpr std::uint32_t kEicr = 0x00800;
inline constexpr std::uint32_t kEics = 0x00808;
inline constexpr std::uint32_t kEims = 0x00880;
inline constexpr std::uint32_t kEimc = 0x00888;
inline constexpr std::uint32_t kEimsEx = 0x00AA0;
inline constexpr std::uint32_t kEimcEx = 0x00AB0;

// Receive and VMDq.
inline constexpr std::uint32_t kRdrxctl = 0x02F00;
inline constexpr std::uint32_t kQde = 0x02F04;
inline constexpr std::uint32_t kRxctrl = 0x03000;
inline constexpr std::uint32_t kFctrl = 0x05080;
inline constexpr std::uint32_t kVlnctrl = 0x05088;
inline constexpr std::uint32_t kMcstctrl = 0x05090;
inline constexpr std::uint32_t kVmtxsw = 0x05180;
inline constexpr std::uint32_t kVtCtl = 0x051B0;
inline constexpr std::uint32_t kVfre = 0x051E0;
inline constexpr std::uint32_t kMta = 0x05200;
inline constexpr std::uint32_t kVfta = 0x0A000;
inline constexpr std::uint32_t kRal = 0x0A200;
inline constexpr std::uint32_t kRah = 0x0A204;
inline constexpr std::uint32_t kMpsar = 0x0A600;
inline constexpr std::uint32_t kReta = 0x0EB00;
inline constexpr std::uint32_t kRssrk = 0x0EB80;
inline constexpr std::uint32_t kMrqc = 0x0EC80;
inline constexpr std::uint32_t kVmolr = 0x0F000;
inline constexpr std::uint32_t kVlvf = 0x0F100;
inline constexpr std::uint32_t kVlvfb = 0x0F200;
inline constexpr std::uint32_t kUta = 0x0F400;

// Transmit.
inline constexpr std::uint32_t kDmatxctl = 0x04A80;
inline constexpr std::uint32_t kDtxtcpflgl = 0x04A88;
inline constexpr std::uint32_t kDtxtcpflgh = 0x04A8C;
inline constexpr std::uint32_t kVmvir = 0x08000;
inline constexpr std::uint32_t kVfte = 0x08110;
inline constexpr std::uint32_t kMtqc = 0x08120;
inline constexpr std::uint32_t kPfdtxgswc = 0x08220;
inline constexpr std::uint32_t kSectxstat = 0x08804;
inline constexpr std::uint32_t kSecrxstat = 0x08D04;

// MAC and link.
inline constexpr std::uint32_t kHlreg0 = 0x04240;
inline constexpr std::uint32_t kMsca = 0x0425C;
inline constexpr std::uint32_t kMsrwd = 0x04260;
inline constexpr std::uint32_t kMaxfrs = 0x04268;
inline constexpr std::uint32_t kAutoc = 0x042A0;
inline constexpr std::uint32_t kLinks = 0x042A4;
inline constexpr std::uint32_t kAnlp1 = 0x042B0;

// Statistics.
inline constexpr std::uint32_t kRqsmr = 0x02300;
inline constexpr std::uint32_t kMpc = 0x03FA0;
inline constexpr std::uint32_t kCrcerrs = 0x04000;
inline constexpr std::uint32_t kMlfc = 0x04034;
inline constexpr std::uint32_t kPrc64 = 0x0405C;  // .. PRC1522, six size classes
inline constexpr std::uint32_t kGprc = 0x04074;
inline constexpr std::uint32_t kBprc = 0x04078;
inline constexpr std::uint32_t kMprc = 0x0407C;
inline constexpr std::uint32_t kGptc = 0x04080;
inline constexpr std::uint32_t kGorc = 0x04088;
inline constexpr std::uint32_t kGotc = 0x04090;
inline constexpr std::uint32_t kRoc = 0x040AC;
inline constexpr std::uint32_t kTor = 0x040C0;
inline constexpr std::uint32_t kTpr = 0x040D0;
inline constexpr std::uint32_t kTpt = 0x040D4;
inline constexpr std::uint32_t kPtc64 = 0x040D8;  // .. PTC1522, six size classes
inline constexpr std::uint32_t kMptc = 0x040F0;
inline constexpr std::uint32_t kBptc = 0x040F4;
inline constexpr std::uint32_t kTqsm = 0x08600;
inline constexpr std::uint32_t kQbtc = 0x08700;
inline constexpr std::uint32_t kQprc = 0x01030;
inline constexpr std::uint32_t kQbrc = 0x01034;
inline constexpr std::uint32_t kQprdc = 0x01430;
inline constexpr std::uint32_t kQptc = 0x06030;
inline constexpr std::uint32_t kQueueStatisticStride = 0x40;

// Offsets inside one queue's block of 0x40 bytes.
inline constexpr std::uint32_t kRdbal = 0x00;
inline constexpr std::uint32_t kRdbah = 0x04;
inline constexpr std::uint32_t kRdlen = 0x08;
inline constexpr std::uint32_t kRdh = 0x10;
inline constexpr std::uint32_t kSrrctl = 0x14;
inline constexpr std::uint32_t kRdt = 0x18;
inline constexpr std::uint32_t kRxdctl = 0x28;
inline constexpr std::uint32_t kTdbal = 0x00;
inline constexpr std::uint32_t kTdbah = 0x04;
inline constexpr std::uint32_t kTdlen = 0x08;
inline constexpr std::uint32_t kTdh = 0x10;
inline constexpr std::uint32_t kTdt = 0x18;
inline constexpr std::uint32_t kTxdctl = 0x28;

constexpr std::uint32_t rx_queue(unsigned queue) {
    return queue < 64 ? 0x01000 + 0x40 * queue : 0x0D000 + 0x40 * (queue - 64);
}
constexpr std::uint32_t tx_queue(unsigned queue) { return 0x06000 + 0x40 * queue; }

}  // namespace reg

namespace bits {

inline constexpr std::uint32_t kCtrlGioDisable = 1u << 2;
inline constexpr std::uint32_t kCtrlLinkReset = 1u << 3;
inline constexpr std::uint32_t kCtrlReset = 1u << 26;
inline constexpr std::uint32_t kStatusLinkUp = 1u << 7;
inline constexpr std::uint32_t kStatusGioEnabled = 1u << 19;
inline constexpr std::uint32_t kEecRequest = 1u << 6;
inline constexpr std::uint32_t kEecGrant = 1u << 7;
inline constexpr std::uint32_t kEecPresent = 1u << 8;
inline constexpr std::uint32_t kEecAutoReadDone = 1u << 9;
inline constexpr std::uint32_t kEerdStart = 1u << 0;
inline constexpr std::uint32_t kEerdDone = 1u << 1;
inline constexpr std::uint32_t kEicrLinkChange = 1u << 20;
inline constexpr std::uint32_t kSwsmSmbi = 1u << 0;
inline constexpr std::uint32_t kMscaCommand = 1u << 30;

inline constexpr std::uint32_t kRxctrlEnable = 1u << 0;
inline constexpr std::uint32_t kRdrxctlCrcStrip = 1u << 1;
inline constexpr std::uint32_t kRdrxctlDmaInitDone = 1u << 3;
inline constexpr std::uint32_t kQueueEnable = 1u << 25;       // RXDCTL and TXDCTL
inline constexpr std::uint32_t kRxdctlVlanStrip = 1u << 30;   // RXDCTL.VME
inline constexpr std::uint32_t kSrrctlBsizeMask = 0x1F;       // 1 KiB units
inline constexpr std::uint32_t kSrrctlDropEnable = 1u << 28;  // SRRCTL.Drop_En
inline constexpr std::uint32_t kQdeIndexShift = 8;
inline constexpr std::uint32_t kQdeWrite = 1u << 16;
inline constexpr std::uint32_t kQdeEnable = 1u << 0;

inline constexpr std::uint32_t kFctrlMulticastPromiscuous = 1u << 8;
inline constexpr std::uint32_t kFctrlUnicastPromiscuous = 1u << 9;
inline constexpr std::uint32_t kFctrlBroadcastAccept = 1u << 10;
inline constexpr std::uint32_t kMcstctrlFilterEnable = 1u << 2;
inline constexpr std::uint32_t kVlnctrlFilterEnable = 1u << 30;
inline constexpr std::uint32_t kRahValid = 1u << 31;
inline constexpr std::uint32_t kVlvfEnable = 1u << 31;
inline constexpr std::uint32_t kVtCtlEnable = 1u << 0;
inline constexpr std::uint32_t kVtCtlPoolShift = 7;
inline constexpr std::uint32_t kVtCtlNoDefaultPool = 1u << 29;
inline constexpr std::uint32_t kVtCtlReplication = 1u << 30;
inline constexpr std::uint32_t kVmolrAcceptUntagged = 1u << 24;
inline constexpr std::uint32_t kVmolrMulticastHash = 1u << 25;
inline constexpr std::uint32_t kVmolrUnicastHash = 1u << 26;
inline constexpr std::uint32_t kVmolrBroadcast = 1u << 27;
inline constexpr std::uint32_t kVmolrMulticastPromiscuous = 1u << 28;
inline constexpr std::uint32_t kMrqcModeMask = 0xF;
inline constexpr std::uint32_t kMrqcRss = 0x1;
inline constexpr std::uint32_t kMrqcVmdq32Rss = 0xA;
inline constexpr std::uint32_t kMrqcVmdq64Rss = 0xB;
inline constexpr std::uint32_t kMrqcTcpIpv4 = 1u << 16;
inline constexpr std::uint32_t kMrqcIpv4 = 1u << 17;
inline constexpr std::uint32_t kMrqcIpv6 = 1u << 20;
inline constexpr std::uint32_t kMrqcTcpIpv6 = 1u << 21;
inline constexpr std::uint32_t kMrqcUdpIpv4 = 1u << 22;
inline constexpr std::uint32_t kMrqcUdpIpv6 = 1u << 23;

inline constexpr std::uint32_t kHlreg0RxCrcStrip = 1u << 1;
inline constexpr std::uint32_t kHlreg0Jumbo = 1u << 2;
inline constexpr std::uint32_t kHlreg0TxPad = 1u << 10;
inline constexpr std::uint32_t kHlreg0Loopback = 1u << 15;
inline constexpr std::uint32_t kLinksSpeed10G = 3u << 28;
inline constexpr std::uint32_t kLinksUp = 1u << 30;
inline constexpr std::uint32_t kLinksKxAutonegDone = 1u << 31;

inline constexpr std::uint32_t kDmatxctlEnable = 1u << 0;
inline constexpr std::uint32_t kMtqcVirtualization = 1u << 1;
inline constexpr std::uint32_t kMtqcLayoutMask = 0xC;
inline constexpr std::uint32_t kMtqc32Pools = 0x8;
inline constexpr std::uint32_t kVmvirActionMask = 3u << 30;
inline constexpr std::uint32_t kVmvirAlwaysInsert = 1u << 30;
inline constexpr std::uint32_t kVmvirNeverInsert = 2u << 30;
inline constexpr std::uint32_t kPfdtxgswcLoopback = 1u << 0;

}  // namespace bits

}  // namespace zecorx::soft82599
