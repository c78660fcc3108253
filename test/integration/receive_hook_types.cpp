// Compiles the daemon's receive path with a hook, over the PMD's mbufs.
#include "rx_pool.h"
#include "zecorx/decapsulation.h"

namespace zecorx {

template class ReceivePath<MbufBuffers, Decapsulation>;

}  // namespace zecorx
