// How often and when rows were seen, and which of them to evict: see embedding/eviction.h.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "embedding/eviction.h"
#include "embedding_arguments.h"

namespace torchrec_gr::embedding {
namespace {

constexpr int64_t kGrain = 8192;  // rows worth waking a thread for
constexpr int64_t kAhead = 16;    // rows asked for before they are needed
constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

void check_step(int64_t step) {
  TORCH_CHECK_VALUE(0 <= step && step <= kMost, "step: expected from 0 to ", kMost, ", got ", step);
}

at::Tensor touch_rows_(at::TensorList seen, const at::Tensor& slots, const at::Tensor& counts,
                       int64_t step) {
  check_step(step);
  const auto chunks = check_chunks<int32_t>("seen", seen, 2, /*is_vector=*/false);
  const at::Tensor checked_slots = check_vector<int64_t>("slots", slots);
  const int64_t num = checked_slots.numel();
  const at::Tensor checked_counts = check_vector<int64_t>("counts", counts, num);
  const auto* rows = checked_slots.const_data_ptr<int64_t>();
  const auto* count = checked_counts.const_data_ptr<int64_t>();
  check_slots("slots", rows, num, chunks, /*may_be_none=*/true);
  at::Tensor totals = at::zeros_like(checked_counts);
  auto* total = totals.mutable_data_ptr<int64_t>();
  parallel_for(num, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      chunks.prefetch(rows[std::min(i + kAhead, end - 1)]);
      if (rows[i] == kNoSlot) continue;
      int32_t* row = chunks.row(rows[i]);
      total[i] = std::clamp<int64_t>(row[0] + std::min(kMost, count[i]), 0, kMost);
      row[0] = static_cast<int32_t>(total[i]);
      row[1] = static_cast<int32_t>(step);
    }
  });
  return totals;
}

Policy policy_of(std::string_view name) {
  if (name == "lru") return Policy::kLeastRecent;
  if (name == "lfu") return Policy::kLeastFrequent;
  TORCH_CHECK_VALUE(false, "policy: expected lru or lfu, got ", name);
}

at::Tensor rows_to_evict_op(at::TensorList chunk_ids, at::TensorList seen, at::IntArrayRef chunks,
                            int64_t num, std::string_view policy, int64_t step) {
  TORCH_CHECK_VALUE(num >= 0, "num: expected 0 or more, got ", num);
  const auto ids = check_chunks<const int64_t>("chunk_ids", chunk_ids);
  const auto seen_rows = check_chunks<const int32_t>("seen", seen, 2, /*is_vector=*/false);
  check_same_chunks("seen", seen_rows, "chunk_ids", ids);
  for (int64_t chunk : chunks) {
    TORCH_CHECK_VALUE(0 <= chunk && chunk < static_cast<int64_t>(ids.list.size()),
                      "chunks: expected numbers of the ", ids.list.size(), " chunks, got ", chunk);
  }
  const std::vector<int64_t> slots =
      rows_to_evict(ids, seen_rows, chunks.vec(), num, policy_of(policy), step, parallel_for);
  return at::tensor(slots, at::kLong);
}

}  // namespace
}  // namespace torchrec_gr::embedding

TORCH_LIBRARY_IMPL(torchrec_gr, CPU, m) {
  m.impl("touch_rows_", &torchrec_gr::embedding::touch_rows_);
  m.impl("rows_to_evict", &torchrec_gr::embedding::rows_to_evict_op);
}

// Not differentiable: integers in, integers out.
TORCH_LIBRARY_IMPL(torchrec_gr, Autograd, m) {
  m.impl("touch_rows_", torch::CppFunction::makeFallthrough());
  m.impl("rows_to_evict", torch::CppFunction::makeFallthrough());
}
