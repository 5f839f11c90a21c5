// Which keys a query sees: one span of its own row, and itself. One predicate for CPU and CUDA.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define TORCHREC_GR_HOST_DEVICE __host__ __device__
#else
#define TORCHREC_GR_HOST_DEVICE
#endif

namespace torchrec_gr {

// The keys of one query: those in [start, end), and `own` unless it is -1. Positions are counted
// inside the row; the span may reach past either end of it.
struct Span {
  int32_t start;
  int32_t end;
  int32_t own;
};

TORCHREC_GR_HOST_DEVICE inline bool sees(const Span& span, int32_t key) {
  return (span.start <= key && key < span.end) || key == span.own;
}

}  // namespace torchrec_gr
