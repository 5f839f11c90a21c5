// PyTorch's threads, for the attention kernels.
#pragma once

#include <ATen/Parallel.h>

#include <cstdint>
#include <functional>

#include "attention_kernels.h"

namespace torchrec_gr::cpu {

// As many as torch.get_num_threads() says; the calling one alone inside of a parallel region. What
// a thread throws is thrown to the caller.
inline Threads attention_threads() {
  const int count = at::in_parallel_region() ? 1 : at::get_num_threads();
  return {count, [count](const std::function<void(int)>& body) {
            at::parallel_for(0, count, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
              for (int64_t thread = begin; thread < end; ++thread) body(static_cast<int>(thread));
            });
          }};
}

}  // namespace torchrec_gr::cpu
