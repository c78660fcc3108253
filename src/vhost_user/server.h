// The vhost-user sockets of all VMs, served by one thread that waits for nobody in particular: half
// a message, or a frontend that does not read its replies, holds up no other.
//
// Thread rule: constructed and destroyed on the main thread, as are the Sockets, without the
// control mutex held. The thread takes the mutex for every event.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "session.h"
#include "zecorx/unique_fd.h"

namespace zecorx::vhost_user {

// Serializes the control side: the server's thread and the main thread.
using ControlMutex = std::mutex;

class Endpoint;

class Server {
  public:
    explicit Server(ControlMutex& mutex);
    // REQUIRES: no Socket is left.
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

  private:
    friend class Socket;

    void add(Endpoint& endpoint);
    void remove(Endpoint& endpoint);
    void wake();
    void run();

    ControlMutex& mutex_;
    UniqueFd wake_;
    bool stop_ = false;                 // under the mutex
    std::uint64_t changes_ = 0;         // of endpoints_, under the mutex
    std::vector<Endpoint*> endpoints_;  // under the mutex
    std::thread thread_;
};

// A VM's socket for as long as it lives: a listening one, whose file it removes again, or one that
// connects to the frontend's socket and tries again for ever. Its end ends the sessions on it.
class Socket {
  public:
    // Throws std::runtime_error with the remedy.
    Socket(Server& server, std::string path, bool client, SessionHost& host);
    ~Socket();
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;

    const std::string& path() const;

  private:
    Server& server_;
    std::unique_ptr<Endpoint> endpoint_;
};

}  // namespace zecorx::vhost_user
