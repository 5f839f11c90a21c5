// The attention kernels for AVX2 and FMA.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <utility>
#include <vector>

// The standard headers stand above this line: their inline functions are shared with other files,
// and must run on every machine.
#pragma GCC target("avx2,fma")
#define TORCHREC_GR_VECTOR_BYTES 32
#include "kernels.h"

namespace torchrec_gr::cpu {

InstructionSet avx2_kernels() { return instruction_set<FloatWord>("avx2"); }

}  // namespace torchrec_gr::cpu
