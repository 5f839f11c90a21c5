// The attention kernels for AVX-512.
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
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#define TORCHREC_GR_VECTOR_BYTES 64
#include "kernels.h"

namespace torchrec_gr::cpu {

InstructionSet avx512_kernels() { return instruction_set<FloatWord>("avx512"); }

}  // namespace torchrec_gr::cpu
