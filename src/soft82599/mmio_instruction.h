// Decodes and completes the one instruction with which a driver touches a trapped register.
#pragma once

#include <ucontext.h>

#include <cstdint>

#include "mmio_trap.h"

namespace zecorx::soft82599 {

// Performs the access at `offset` on the handler's device and moves RIP past the instruction.
// False: an instruction the model does not know; nothing was done. Known are the moves a compiler
// makes from volatile accesses: mov and movdiri of 1 to 8 bytes from and to general registers, mov
// of an immediate, movzx.
bool perform_access(ucontext_t& context, std::uint32_t offset, MmioHandler& handler);

}  // namespace zecorx::soft82599
