#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>
#include <string>

#include "soft82599/wire.h"
#include "zecorx/numbered_payload.h"

using namespace zecorx;
using namespace zecorx::soft82599;

namespace {

constexpr MacAddress kPortMac{{0x52, 0x54, 0x00, 0x82, 0x59, 0x07}};

std::vector<Frame> pull(Wire& wire, unsigned max) {
    std::vector<Frame> frames;
    wire.receive(max, frames);
    return frames;
}

class TemporaryDirectory {
  public:
    TemporaryDirectory() {
        std::string name = "/tmp/soft82599-wire-XXXXXX";
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    std::string file(const std::string& name) const { return path_ + "/" + name; }

  private:
    std::string path_;
};

}  // namespace

TEST_CASE("a generator sends frames of the asked size to the port until its count", "[soft82599]") {
    const auto wire = make_wire("gen:size=64,count=5", kPortMac);
    const auto frames = pull(*wire, 3);
    REQUIRE(frames.size() == 3);
    CHECK(frames[0].size() == 60);
    CHECK(MacAddress::from_wire(frames[0]) == kPortMac);
    CHECK(pull(*wire, 32).size() == 2);
    CHECK(pull(*wire, 32).empty());
}

TEST_CASE("a generator alternates destinations and tags", "[soft82599]") {
    const auto wire = make_wire(
        "gen:size=128,vlan=9,src=02:00:00:00:00:05,dst=52:54:00:00:00:01,dst=52:54:00:00:00:02",
        kPortMac);
    const auto frames = pull(*wire, 4);
    REQUIRE(frames.size() == 4);
    CHECK(frames[0] == frames[2]);
    CHECK(frames[0] != frames[1]);
    CHECK(frames[0].size() == 124);
    CHECK(parse_frame(frames[0], 0x8100).vlan == 9);
}

TEST_CASE("a generator numbers the frames to each destination and varies their sizes") {
    const auto wire = make_wire(
        "gen:size=64-1518,payload=numbered,dst=52:54:00:00:00:01,dst=52:54:00:00:00:02", kPortMac);
    std::set<std::size_t> sizes;
    const auto frames = pull(*wire, 4000);
    REQUIRE(frames.size() == 4000);
    for (std::uint32_t i = 0; i < frames.size(); ++i) {
        const auto found = check_numbered(FrameView(frames[i]).subspan(kEthernetHeader));
        REQUIRE(found);
        REQUIRE(found->seq == i / 2);
        REQUIRE(found->len == frames[i].size() - kEthernetHeader);
        sizes.insert(frames[i].size());
    }
    CHECK(*sizes.begin() >= 60);
    CHECK(*sizes.rbegin() <= 1514);
    CHECK(sizes.size() > 500);
}

TEST_CASE("a rate bounds what a generator sends at once", "[soft82599]") {
    const auto wire = make_wire("gen:rate=1", kPortMac);
    CHECK(pull(*wire, 32).empty());  // the first frame is due after a second
}

TEST_CASE("a generator told to wait for a file starts when it exists", "[soft82599]") {
    const TemporaryDirectory directory;
    const std::string file = directory.file("start");
    const auto wire = make_wire("gen:count=5,start=" + file, kPortMac);
    CHECK(pull(*wire, 32).empty());
    std::ofstream(file).close();
    CHECK(pull(*wire, 3).size() == 3);
    std::filesystem::remove(file);
    CHECK(pull(*wire, 32).size() == 2);
}

TEST_CASE("what is sent to a capture can be received from it", "[soft82599]") {
    const TemporaryDirectory directory;
    const std::string path = directory.file("out.pcap");
    std::vector<Frame> sent;
    {
        const auto writer = make_wire("pcap:," + path, kPortMac);
        for (std::size_t length : {60u, 1514u, 9014u}) {
            sent.emplace_back(length, static_cast<std::byte>(length));
            writer->send(sent.back());
        }
        CHECK(pull(*writer, 8).empty());
    }
    const auto reader = make_wire("pcap:" + path + ",-", kPortMac);
    CHECK(pull(*reader, 2).size() == 2);
    CHECK(pull(*reader, 8) == std::vector<Frame>{sent[2]});
    CHECK(pull(*reader, 8).empty());
}

TEST_CASE("wires that make no sense are refused", "[soft82599]") {
    for (const char* spec :
         {"rope", "gen:size=63", "gen:size=99999", "gen:dst=x", "gen:speed=1", "gen:vlan=4096",
          "gen:size", "gen:start=", "gen:payload=x", "gen:size=128-64", "gen:size=64-",
          "tap:", "tap:a-name-that-is-too-long", "tap:a,b", "pcap:/nonexistent"}) {
        INFO(spec);
        CHECK_THROWS_AS(make_wire(spec, kPortMac), std::runtime_error);
    }
    CHECK(make_wire("none", kPortMac) == nullptr);
}
