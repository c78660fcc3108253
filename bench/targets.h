// What zecorx-vhost is to achieve, judged by what was measured.
#pragma once

#include <vector>

#include "results.h"

namespace zecorx::bench {

// Each by the worst that it is about; bench-report draws those whose name begins with a ratio.
std::vector<Target> judge(const Results& results);

// Prints the verdicts. False: a target is missed.
bool print_verdicts(const std::vector<Target>& targets);

}  // namespace zecorx::bench
