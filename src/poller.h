// Who polls a datapath: a Worker on an lcore of its own, or a benchmark in its own rhythm.
#pragma once

namespace zecorx {

class Datapath;

// Thread rule: control side, one caller at a time.
class Poller {
  public:
    Poller() = default;
    virtual ~Poller() = default;
    Poller(const Poller&) = delete;
    Poller& operator=(const Poller&) = delete;

    // From the return on the datapath is polled.
    virtual void add(Datapath& datapath) = 0;
    // From the return on it is not, and is the caller's again.
    virtual void remove(Datapath& datapath) = 0;
};

}  // namespace zecorx
