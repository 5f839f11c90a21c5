// The attention kernels for AVX-512 with its dot products of bfloat16.
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
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#define TORCHREC_GR_VECTOR_BYTES 64
#define TORCHREC_GR_BFLOAT16_PAIRS
#include "kernels.h"

namespace torchrec_gr::cpu {

InstructionSet avx512_bf16_kernels() { return instruction_set<PairWord>("avx512_bf16"); }

}  // namespace torchrec_gr::cpu
