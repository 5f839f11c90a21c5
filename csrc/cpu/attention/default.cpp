// The attention kernels for any x86-64.
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

#define TORCHREC_GR_VECTOR_BYTES 16
#include "kernels.h"

namespace torchrec_gr::cpu {

InstructionSet default_kernels() { return instruction_set<FloatWord>("default"); }

}  // namespace torchrec_gr::cpu
