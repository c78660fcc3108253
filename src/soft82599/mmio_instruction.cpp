#include "mmio_instruction.h"

#include <Zydis/Zydis.h>

#include <array>
#include <optional>

namespace zecorx::soft82599 {
namespace {

struct Instruction {
    ZydisDecodedInstruction info;
    std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operands;
};

std::optional<Instruction> decode_at(std::uintptr_t rip) {
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    Instruction result{};
    // Only as much of the next page is read as the instruction needs: it may not be mapped.
    constexpr std::uintptr_t kPage = 4096;
    const std::uintptr_t left_in_page = kPage - rip % kPage;
    for (const std::uintptr_t length :
         {left_in_page, left_in_page + ZYDIS_MAX_INSTRUCTION_LENGTH}) {
        const ZyanStatus status =
            ZydisDecoderDecodeFull(&decoder, reinterpret_cast<const void*>(rip), length,
                                   &result.info, result.operands.data());
        if (ZYAN_SUCCESS(status)) return result;
        if (status != ZYDIS_STATUS_NO_MORE_DATA) return std::nullopt;
    }
    return std::nullopt;
}

// Index of a general register in the saved context; no value for AH..BH and anything else.
std::optional<int> context_index(ZydisRegister reg) {
    static constexpr std::array<int, 16> kIndex = {
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
        REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) return std::nullopt;
    const ZydisRegister full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    if (full < ZYDIS_REGISTER_RAX || full > ZYDIS_REGISTER_R15) return std::nullopt;
    return kIndex[static_cast<std::size_t>(full - ZYDIS_REGISTER_RAX)];
}

constexpr std::uint64_t low_bits(unsigned count) {
    return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

// Registers are 32 bits wide; other widths are parts or pairs of them.
std::uint64_t read_device(MmioHandler& handler, std::uint32_t offset, unsigned width) {
    const std::uint32_t aligned = offset & ~3u;
    std::uint64_t value = handler.mmio_read(aligned);
    if (width == 64) value |= std::uint64_t{handler.mmio_read(aligned + 4)} << 32;
    return value >> (8 * (offset & 3)) & low_bits(width);
}

void write_device(MmioHandler& handler, std::uint32_t offset, unsigned width, std::uint64_t value) {
    // The hardware ignores byte enables on registers; no driver writes less than a register.
    handler.mmio_write(offset & ~3u, static_cast<std::uint32_t>(value));
    if (width == 64) {
        handler.mmio_write((offset & ~3u) + 4, static_cast<std::uint32_t>(value >> 32));
    }
}

bool load(ucontext_t& context, const Instruction& instruction, std::uint32_t offset,
          MmioHandler& handler) {
    const ZydisDecodedOperand& target = instruction.operands[0];
    const auto index = context_index(target.reg.value);
    if (!index) return false;
    const std::uint64_t value = read_device(handler, offset, instruction.operands[1].size);
    auto& saved = context.uc_mcontext.gregs[*index];
    // A 32-bit result clears the upper half of the register, smaller ones keep the rest.
    const std::uint64_t kept =
        target.size >= 32 ? 0 : static_cast<std::uint64_t>(saved) & ~low_bits(target.size);
    saved = static_cast<greg_t>(kept | value);
    return true;
}

std::optional<std::uint64_t> stored_value(const ucontext_t& context,
                                          const ZydisDecodedOperand& source) {
    if (source.type == ZYDIS_OPERAND_TYPE_IMMEDIATE) return source.imm.value.u;
    const auto index = context_index(source.reg.value);
    if (!index) return std::nullopt;
    return static_cast<std::uint64_t>(context.uc_mcontext.gregs[*index]);
}

bool store(const ucontext_t& context, const Instruction& instruction, std::uint32_t offset,
           MmioHandler& handler) {
    const auto value = stored_value(context, instruction.operands[1]);
    if (!value) return false;
    write_device(handler, offset, instruction.operands[0].size, *value);
    return true;
}

bool is_move(ZydisMnemonic mnemonic) {
    return mnemonic == ZYDIS_MNEMONIC_MOV || mnemonic == ZYDIS_MNEMONIC_MOVZX ||
           mnemonic == ZYDIS_MNEMONIC_MOVDIRI;
}

}  // namespace

bool perform_access(ucontext_t& context, std::uint32_t offset, MmioHandler& handler) {
    greg_t& rip = context.uc_mcontext.gregs[REG_RIP];
    const auto instruction = decode_at(static_cast<std::uintptr_t>(rip));
    if (!instruction || !is_move(instruction->info.mnemonic)) return false;
    const bool stores = instruction->operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    const bool done = stores ? store(context, *instruction, offset, handler)
                             : load(context, *instruction, offset, handler);
    if (done) rip += instruction->info.length;
    return done;
}

}  // namespace zecorx::soft82599
