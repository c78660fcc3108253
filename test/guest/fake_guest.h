// A guest connected to a backend: the frontend and the driver in one.
//
//   FakeMemory memory(64_MiB);
//   FakeGuest guest = connect_device(path, memory);
//   guest.net.refill();
//   guest.net.send(make_frame({.seq = 1}));
//   auto frames = guest.net.receive_until(1, 5s);
//   const VringBases bases = guest.stop_device();
#pragma once

#include <string>
#include <utility>

#include "frontend.h"
#include "net_driver.h"

namespace zecorx::test {

struct FakeGuest {
    FakeMemory& memory;
    Frontend frontend;
    NetDriver net;

    // `bases` as Frontend::start_device() takes them.
    void start_device(const VringBases& bases = {});
    VringBases stop_device() { return frontend.stop_device(); }
    // After disconnect() or the backend's death: the same driver state on a new connection.
    void reconnect(Frontend new_connection);
};

// Negotiates on a fresh connection, builds the driver for what came out and starts both queues.
// `options.features` is overwritten by the outcome. `memory` must outlive the guest.
FakeGuest connect_device(Frontend frontend, FakeMemory& memory, NetDriverOptions options = {},
                         const Negotiation& wanted = {});
FakeGuest connect_device(const std::string& path, FakeMemory& memory, NetDriverOptions options = {},
                         const Negotiation& wanted = {});

}  // namespace zecorx::test
