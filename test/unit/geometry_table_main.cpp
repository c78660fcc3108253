// Prints the tables of docs/geometry.md.
#include <cstdio>

#include "geometry_table.h"

int main() { std::fputs(zecorx::test::geometry_tables().c_str(), stdout); }
