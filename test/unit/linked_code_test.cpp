#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <string>

#include "support/process.h"

namespace zecorx::test {

using Catch::Matchers::ContainsSubstring;

// What the daemon asks its libraries for, and which it is linked to.
TEST_CASE("the daemon has no vhost library, no crypto and no GSO library in it") {
    const std::string symbols = run_command({"nm", "-D", ZECORX_VHOST});
    CHECK_THAT(symbols, ContainsSubstring("rte_eal_init"));  // the list is one
    for (const char* prefix : {"rte_vhost", "rte_gso", "rte_crypto", "rte_vduse", "rte_vdpa"}) {
        CHECK_THAT(symbols, !ContainsSubstring(prefix));
    }
    const std::string libraries = run_command({"readelf", "-d", ZECORX_VHOST});
    CHECK_THAT(libraries, ContainsSubstring("librte_eal"));
    for (const char* name : {"librte_vhost", "librte_gso", "librte_cryptodev", "librte_vdpa"}) {
        CHECK_THAT(libraries, !ContainsSubstring(name));
    }
}

}  // namespace zecorx::test
