// Where it was measured, and with what.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace zecorx::bench {

// REQUIRES: EAL runs, or ran.
nlohmann::ordered_json describe_machine();
nlohmann::ordered_json describe_versions();

}  // namespace zecorx::bench
