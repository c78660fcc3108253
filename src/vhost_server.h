// The vhost-user side of the daemon: one socket a VM, and librte_vhost's events turned into calls
// on the VM.
//
// Thread rule: constructed and destroyed on the main thread without the control mutex held (the
// library calls back from unregister); the callbacks take the mutex themselves.
#pragma once

#include <mutex>
#include <string>

#include "vm.h"

namespace zecorx {

// Serializes the control side: librte_vhost's events thread and the main thread.
using ControlMutex = std::mutex;

class VhostSocket {
  public:
    // Serves `vm` on the unix socket `path`, as the listening side, or as the connecting side with
    // endless retry if `client`. Throws std::runtime_error with the remedy.
    VhostSocket(std::string path, bool client, Vm& vm, ControlMutex& mutex);
    // Ends a session in progress, and removes a listening socket's file.
    ~VhostSocket();
    VhostSocket(const VhostSocket&) = delete;
    VhostSocket& operator=(const VhostSocket&) = delete;

    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

}  // namespace zecorx
