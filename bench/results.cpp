#include "results.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace zecorx::bench {
namespace {

using Json = nlohmann::ordered_json;

// More digits than the machine repeats would only make the file long.
double rounded(double value) {
    constexpr double kDigits = 1e4;
    return std::round(value * kDigits) / kDigits;
}

Json to_json(const Summary& summary) {
    return {{"min", rounded(summary.min)},
            {"median", rounded(summary.median)},
            {"max", rounded(summary.max)}};
}

Json to_json(const Point& point) {
    const Setup& setup = point.setup;
    Json json{{"guest", name_of(setup.guest)},
              {"buffers", setup.buffers},
              {"ring", setup.ring},
              {"layout", setup.packed ? "packed" : "split"},
              {"mrg_rxbuf", setup.mergeable},
              {"nic_buffer", setup.nic_buffer},
              {"mtu", setup.mtu},
              {"cache", name_of(point.cache)},
              {"size", point.size}};
    for (const auto& [backend, figures] : point.backends) {
        Json& entry = json["backends"][name_of(backend)];
        entry["cycles"] = to_json(figures.cycles);
        if (figures.zero_copied) entry["zero_copy_share"] = rounded(*figures.zero_copied);
    }
    for (const auto& [ratio, summary] : point.ratios) {
        json["ratios"][ratio.name()] = to_json(summary);
    }
    return json;
}

Json to_json(const VmsFigures& figures) {
    return {{"vms", figures.vms},
            {"cache", name_of(figures.cache)},
            {"size", figures.size},
            {"cycles", to_json(figures.cycles)},
            {"ratio_to_one", to_json(figures.to_one)},
            {"floor_cycles", to_json(figures.floor)},
            {"floor_ratio_to_one", to_json(figures.floor_to_one)}};
}

Json to_json(const IdleFigures& figures) {
    return {{"idle_vms", figures.idle_vms},
            {"cycles_per_poll", to_json(figures.cycles)},
            {"cycles_per_poll_all_idle", to_json(figures.all_idle)}};
}

Json to_json(const StalledFigures& figures) {
    return {{"size", figures.size},
            {"cycles_alone", to_json(figures.alone)},
            {"cycles_beside", to_json(figures.beside)},
            {"ratio_to_alone", to_json(figures.to_alone)},
            {"cycles_stalled", to_json(figures.stalled)}};
}

Json to_json(const LatencyFigures& figures) {
    return {{"backend", name_of(figures.backend)},
            {"cache", name_of(figures.cache)},
            {"size", figures.size},
            {"load", figures.load},
            {"unit", "ns"},
            {"p50", to_json(figures.p50)},
            {"p99", to_json(figures.p99)}};
}

Json to_json(const AttachFigures& figures) {
    return {{"backend", name_of(figures.backend)},
            {"memory_mib", figures.memory},
            {"page", "2 MiB"},
            {"attach_ms", to_json(figures.attach)},
            {"first_frame_ms", to_json(figures.first_frame)},
            {"detach_ms", to_json(figures.detach)}};
}

Json to_json(const MemoryFigures& figures) {
    Json json{{"per_vm_bytes", std::lround(figures.per_vm)},
              {"nic_ring", Bed::nic_ring()},
              {"parts", Json::object()}};
    for (const auto& [name, bytes] : figures.parts) json["parts"][name] = std::lround(bytes);
    return json;
}

Json to_json(const Target& target) {
    Json json{{"name", target.name}, {"wanted", target.wanted()}};
    json["measured"] = target.measured ? Json(rounded(*target.measured)) : Json();
    json["met"] = target.met() ? Json(*target.met()) : Json();
    if (!target.where.empty()) json["where"] = target.where;
    return json;
}

template <class Figures>
void add_section(Json& json, const char* name, const std::vector<Figures>& all) {
    for (const Figures& figures : all) json[name].push_back(to_json(figures));
}

}  // namespace

std::string describe(const Setup& setup) {
    return fmt::format(
        "{} guest, {} buffers, {} ring, {} entries, mrg_rxbuf {}, NIC buffers of {} bytes",
        name_of(setup.guest), setup.buffers, setup.packed ? "packed" : "split", setup.ring,
        setup.mergeable ? "on" : "off", setup.nic_buffer);
}

std::string Ratio::name() const { return fmt::format("{}/{}", name_of(of), name_of(to)); }

double Point::ratio(const Ratio& which) const {
    const auto found = ratios.find(which);
    return found == ratios.end() ? std::numeric_limits<double>::quiet_NaN() : found->second.median;
}

std::string Target::wanted() const {
    const char* sign = bound == Bound::kAtMost ? "<=" : bound == Bound::kAtLeast ? ">=" : ">";
    return fmt::format("{} {}", sign, limit);
}

std::optional<bool> Target::met() const {
    if (!measured) return std::nullopt;
    switch (bound) {
        case Bound::kAtMost:
            return *measured <= limit;
        case Bound::kAtLeast:
            return *measured >= limit;
        case Bound::kMoreThan:
            break;
    }
    return *measured > limit;
}

void add_to(Json& json, const Results& results) {
    add_section(json, "receive", results.receive);
    add_section(json, "segmented", results.segmented);
    add_section(json, "jumbo", results.jumbo);
    add_section(json, "vms", results.vms);
    add_section(json, "idle", results.idle);
    add_section(json, "stalled", results.stalled);
    add_section(json, "latency", results.latency);
    add_section(json, "attach", results.attach);
    if (results.memory) json["memory"] = to_json(*results.memory);
}

void add_to(Json& json, const std::vector<Target>& targets) {
    add_section(json, "targets", targets);
}

}  // namespace zecorx::bench
