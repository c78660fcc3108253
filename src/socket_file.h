// The file of a listening vhost-user socket.
#pragma once

#include <string>

namespace zecorx {

// Makes `path` free to bind: removes a stale socket nobody listens on, refuses a live one with its
// owner named, and anything that is not a socket. Throws std::runtime_error.
void claim_socket_path(const std::string& path);

// Creates `directory` (owner and group only) if it is missing, and removes it again at the end if
// it created it and it is empty. Throws std::runtime_error.
class RuntimeDirectory {
  public:
    explicit RuntimeDirectory(std::string directory);
    ~RuntimeDirectory();
    RuntimeDirectory(const RuntimeDirectory&) = delete;
    RuntimeDirectory& operator=(const RuntimeDirectory&) = delete;

  private:
    std::string directory_;
    bool created_ = false;
};

}  // namespace zecorx
