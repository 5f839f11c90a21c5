// The offsets of jagged rows, checked.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <limits>

namespace torchrec_gr {

// Returns offsets [B + 1], B >= 0, of a CPU tensor as contiguous int64. Row b holds the tokens
// offsets[b]:offsets[b + 1] of the argument `of`, which has num_tokens. Raises ValueError, naming
// the argument.
inline at::Tensor check_offsets(const char* name, const at::Tensor& offsets, const char* of,
                                int64_t num_tokens) {
  TORCH_CHECK_VALUE(offsets.dim() == 1 && offsets.numel() >= 1 &&
                        (offsets.scalar_type() == at::kInt || offsets.scalar_type() == at::kLong),
                    name, ": expected [B + 1] int32 or int64, got ", offsets.sizes(), " ",
                    c10::getDtypeNames(offsets.scalar_type()).first);
  at::Tensor checked = offsets.to(at::kLong).contiguous();
  const int64_t* bounds = checked.const_data_ptr<int64_t>();
  const int64_t num_rows = checked.numel() - 1;
  int64_t smallest_step = num_rows == 0 ? 0 : std::numeric_limits<int64_t>::max();
  for (int64_t row = 0; row < num_rows; ++row) {
    smallest_step = std::min(smallest_step, bounds[row + 1] - bounds[row]);
  }
  TORCH_CHECK_VALUE(bounds[0] == 0 && bounds[num_rows] == num_tokens && smallest_step >= 0, name,
                    ": expected to rise from 0 to the ", num_tokens, " tokens of ", of,
                    ", got first ", bounds[0], ", last ", bounds[num_rows], ", smallest step ",
                    smallest_step);
  return checked;
}

}  // namespace torchrec_gr
