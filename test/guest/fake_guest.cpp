#include "fake_guest.h"

#include <array>

namespace zecorx::test {

void FakeGuest::start_device(const VringBases& bases) {
    const std::array<QueueDriver*, 2> queues{&net.rx().queue(), &net.tx().queue()};
    frontend.start_device(memory, queues, bases);
}

void FakeGuest::reconnect(Frontend new_connection) {
    // The driver goes on with the features it has: a backend that offers fewer cannot serve it.
    const std::uint64_t features = frontend.features();
    const std::uint64_t protocol_features = frontend.protocol_features();
    frontend = std::move(new_connection);
    if (frontend.negotiate({features, protocol_features}) != features) {
        throw FrontendError("the backend offers fewer features than before the reconnect");
    }
    start_device();
}

FakeGuest connect_device(Frontend frontend, FakeMemory& memory, NetDriverOptions options,
                         const Negotiation& wanted) {
    options.features = frontend.negotiate(wanted);
    FakeGuest guest{memory, std::move(frontend), NetDriver(memory, std::move(options))};
    guest.start_device();
    return guest;
}

FakeGuest connect_device(const std::string& path, FakeMemory& memory, NetDriverOptions options,
                         const Negotiation& wanted) {
    return connect_device(Frontend::connect(path), memory, std::move(options), wanted);
}

}  // namespace zecorx::test
