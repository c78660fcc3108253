#include <pcap/pcap.h>
#include <sys/time.h>

#include <array>
#include <memory>
#include <stdexcept>
#include <string>

#include "wire.h"

namespace zecorx::soft82599 {
namespace {

struct PcapClose {
    void operator()(pcap_t* handle) const { pcap_close(handle); }
    void operator()(pcap_dumper_t* dumper) const { pcap_dump_close(dumper); }
};
using PcapHandle = std::unique_ptr<pcap_t, PcapClose>;
using PcapDumper = std::unique_ptr<pcap_dumper_t, PcapClose>;

PcapHandle open_input(const std::string& path) {
    std::array<char, PCAP_ERRBUF_SIZE> error{};
    PcapHandle handle(pcap_open_offline(path.c_str(), error.data()));
    if (!handle) throw std::runtime_error("cannot read capture: " + std::string(error.data()));
    if (pcap_datalink(handle.get()) != DLT_EN10MB) {
        throw std::runtime_error("capture '" + path + "' does not hold Ethernet frames");
    }
    return handle;
}

class PcapWire : public Wire {
  public:
    PcapWire(const std::string& input, const std::string& output) {
        if (!input.empty()) input_ = open_input(input);
        if (output.empty()) return;
        output_format_.reset(pcap_open_dead(DLT_EN10MB, 65535));
        output_.reset(pcap_dump_open(output_format_.get(), output.c_str()));
        if (!output_) {
            throw std::runtime_error("cannot write capture: " +
                                     std::string(pcap_geterr(output_format_.get())));
        }
    }

    void receive(unsigned max, std::vector<Frame>& frames) override {
        for (; max != 0 && input_; --max) {
            pcap_pkthdr* header = nullptr;
            const u_char* data = nullptr;
            if (pcap_next_ex(input_.get(), &header, &data) != 1) {
                input_.reset();  // the end, or a damaged record
                return;
            }
            const auto* bytes = reinterpret_cast<const std::byte*>(data);
            frames.emplace_back(bytes, bytes + header->caplen);
        }
    }

    void send(FrameView frame) override {
        if (!output_) return;
        pcap_pkthdr header{};
        gettimeofday(&header.ts, nullptr);
        header.caplen = static_cast<bpf_u_int32>(frame.size());
        header.len = header.caplen;
        pcap_dump(reinterpret_cast<u_char*>(output_.get()), &header,
                  reinterpret_cast<const u_char*>(frame.data()));
        pcap_dump_flush(output_.get());
    }

  private:
    PcapHandle input_;
    PcapHandle output_format_;
    PcapDumper output_;
};

std::string file_or_none(std::string_view name) {
    return name == "-" ? std::string() : std::string(name);
}

}  // namespace

std::unique_ptr<Wire> make_pcap_wire(std::string_view files) {
    const std::size_t comma = files.find(',');
    const std::string input = file_or_none(files.substr(0, comma));
    const std::string output =
        comma == std::string_view::npos ? std::string() : file_or_none(files.substr(comma + 1));
    return std::make_unique<PcapWire>(input, output);
}

}  // namespace zecorx::soft82599
