// What is at the other end of a port's cable.
//
// A wire is named by text:
//   none                     nothing; tests inject frames and take what was sent
//   tap:NAME                 a TAP interface, created if it does not exist, and set up
//   pcap:IN[,OUT]            frames are read from the capture IN once, and sent ones written to
//   OUT;
//                            either may be empty or "-" for none
//   gen[:KEY=VALUE,...]      a generator; what is sent to it is discarded. Keys:
//                              size=64      bytes on the wire, CRC included: 64..15872, or
//                                           LOW-HIGH: another size with every frame
//                              payload=counting  bytes that count up; numbered: each destination's
//                                           frames carry a number and bytes made of it, see
//                                           zecorx/numbered_payload.h
//                              dst=MAC      destination; given several times, they take turns;
//                                           without one, the port's own address
//                              src=MAC      source
//                              rate=PPS     frames a second; 0, the default, is as fast as possible
//                              count=N      stop after N frames; 0, the default, never
//                              start=FILE   nothing before this file exists
//                              vlan=ID      802.1Q tag, 4 bytes of the size
//
// Thread rule: one thread at a time.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "frame.h"

namespace zecorx::soft82599 {

class Wire {
  public:
    virtual ~Wire() = default;
    Wire(const Wire&) = delete;
    Wire& operator=(const Wire&) = delete;

    // Appends at most `max` frames that have arrived. Never blocks.
    virtual void receive(unsigned max, std::vector<Frame>& frames) = 0;
    virtual void send(FrameView frame) = 0;
    // Readable when frames have arrived; -1: there is nothing to wait for.
    virtual int readable_fd() const { return -1; }

  protected:
    Wire() = default;
};

// Throws std::runtime_error with one sentence for the operator. Null for "none".
std::unique_ptr<Wire> make_wire(std::string_view spec, const MacAddress& port_mac);

std::unique_ptr<Wire> make_tap_wire(std::string_view name);
std::unique_ptr<Wire> make_pcap_wire(std::string_view files);
std::unique_ptr<Wire> make_generator_wire(std::string_view options, const MacAddress& port_mac);

}  // namespace zecorx::soft82599
