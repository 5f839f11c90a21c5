// The attention kernels for AMX: tiles for the products of bfloat16, AVX-512 for the rest.
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

#ifdef TORCHREC_GR_TILES_HEADER  // a test's: tiles in software
#include TORCHREC_GR_TILES_HEADER
#endif

// The standard headers stand above this line: their inline functions are shared with other files,
// and must run on every machine.
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")
#define TORCHREC_GR_VECTOR_BYTES 64
#define TORCHREC_GR_BFLOAT16_PAIRS
#define TORCHREC_GR_TILES
#include "kernels.h"

namespace torchrec_gr::cpu {

InstructionSet amx_kernels() { return instruction_set<TileWord>("amx"); }

}  // namespace torchrec_gr::cpu
