// Rows of tables: read, updated and made anew.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "embedding/initial_values.h"
#include "embedding/row_optimizers.h"
#include "embedding_arguments.h"

namespace torchrec_gr::embedding {
namespace {

constexpr int64_t kGrain = 32 * 1024;  // values worth waking a thread for
constexpr int64_t kAhead = 1024;       // values asked for before they are needed

// As many rows of some width as have so many values.
int64_t rows_of(int64_t num_values, int64_t width) {
  return std::max<int64_t>(1, num_values / std::max<int64_t>(1, width));
}

// Of rows; 0 where there is none to tell.
int64_t width_of(const char* name, at::TensorList chunks) {
  if (chunks.empty()) return 0;
  TORCH_CHECK_VALUE(chunks[0].dim() == 2, name, ": expected [r, D] float32, got ",
                    described(chunks[0]));
  return chunks[0].size(1);
}

// The optimizer's state of rows. Chunks of different tables may have states of different widths.
struct States {
  std::vector<Chunk<float>> list;
  std::vector<int64_t> widths;

  int64_t width(int64_t slot) const { return widths[chunk_of(slot)]; }

  float* row(int64_t slot) const { return list[chunk_of(slot)].data + row_of(slot) * width(slot); }

  void prefetch(int64_t slot) const {
    if (slot != kNoSlot) __builtin_prefetch(row(slot));
  }
};

// [r] or [r, any] for each chunk of weights.
States check_states(at::TensorList states, const Chunks<float>& weights) {
  TORCH_CHECK_VALUE(states.size() == weights.list.size(), "states: expected the ",
                    weights.list.size(), " chunks of weights, got ", states.size());
  States checked;
  for (size_t i = 0; i < states.size(); ++i) {
    const at::Tensor& state = states[i];
    const int64_t num_rows = weights.list[i].num_rows;
    TORCH_CHECK_VALUE((state.dim() == 1 || state.dim() == 2) && state.size(0) == num_rows &&
                          state.scalar_type() == at::kFloat && state.is_contiguous(),
                      "states: expected contiguous [", num_rows, "] or [", num_rows,
                      ", any] float32, got ", state.is_contiguous() ? "" : "strided ",
                      described(state), " as number ", i);
    check_on_cpu("states", state);
    checked.list.push_back({data_of<float>(state), static_cast<int32_t>(num_rows)});
    checked.widths.push_back(state.dim() == 1 ? 1 : state.size(1));
  }
  return checked;
}

// That the rows of slots have states as wide as an optimizer's.
void check_widths(const States& states, const int64_t* slots, int64_t num_slots, int64_t width,
                  std::string_view optimizer) {
  for (int64_t i = 0; i < num_slots; ++i) {
    TORCH_CHECK_VALUE(slots[i] == kNoSlot || states.width(slots[i]) == width, "states: expected ",
                      width, " values a row for ", optimizer, ", got ", states.width(slots[i]),
                      " in chunk ", chunk_of(slots[i]));
  }
}

at::Tensor gather_rows(at::TensorList weights, const at::Tensor& slots, int64_t dim) {
  TORCH_CHECK_VALUE(dim >= 1, "dim: expected 1 or more, got ", dim);
  const auto chunks = check_chunks<const float>("weights", weights, dim, /*is_vector=*/false);
  const at::Tensor checked_slots = check_vector<int64_t>("slots", slots);
  const auto* rows = checked_slots.const_data_ptr<int64_t>();
  const int64_t num = checked_slots.numel();
  check_slots("slots", rows, num, chunks, /*may_be_none=*/true);
  at::Tensor gathered = at::empty({num, dim}, slots.options().dtype(at::kFloat));
  auto* to = gathered.mutable_data_ptr<float>();
  const int64_t num_ahead = rows_of(kAhead, dim);
  parallel_for(num, rows_of(kGrain, dim), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      chunks.prefetch(rows[std::min(i + num_ahead, end - 1)]);
      if (rows[i] == kNoSlot) {
        std::fill_n(to + i * dim, dim, 0.0f);
      } else {
        std::copy_n(chunks.row(rows[i]), dim, to + i * dim);
      }
    }
  });
  return gathered;
}

Optimizer optimizer_of(std::string_view name) {
  if (name == "sgd") return Optimizer::kSGD;
  if (name == "adagrad") return Optimizer::kAdagrad;
  if (name == "rowwise_adagrad") return Optimizer::kRowWiseAdagrad;
  TORCH_CHECK_VALUE(false, "optimizer: expected sgd, adagrad or rowwise_adagrad, got ", name);
}

void update_rows_(at::TensorList weights, at::TensorList states, const at::Tensor& slots,
                  const at::Tensor& grads, std::string_view optimizer, double lr, double eps) {
  const OptimizerStep step{optimizer_of(optimizer), static_cast<float>(lr),
                           static_cast<float>(eps)};
  TORCH_CHECK_VALUE(grads.dim() == 2 && grads.size(1) >= 1 && grads.scalar_type() == at::kFloat,
                    "grads: expected [n, D >= 1] float32, got ", described(grads));
  const int64_t width = grads.size(1);
  const auto weight_rows = check_chunks<float>("weights", weights, width, /*is_vector=*/false);
  const States state_rows = check_states(states, weight_rows);
  const at::Tensor checked_slots = check_vector<int64_t>("slots", slots, grads.size(0));
  const auto* rows = checked_slots.const_data_ptr<int64_t>();
  check_slots("slots", rows, grads.size(0), weight_rows, /*may_be_none=*/true);
  check_widths(state_rows, rows, grads.size(0), step.state_width(width), optimizer);
  const at::Tensor dense = grads.contiguous();
  const auto* grad = dense.const_data_ptr<float>();
  const int64_t num_ahead = rows_of(kAhead, width);
  parallel_for(grads.size(0), rows_of(kGrain, width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t ahead = rows[std::min(i + num_ahead, end - 1)];
      weight_rows.prefetch(ahead);
      state_rows.prefetch(ahead);
      if (rows[i] == kNoSlot) continue;
      step.update(weight_rows.row(rows[i]), state_rows.row(rows[i]), grad + i * width, width);
    }
  });
}

Distribution distribution_of(std::string_view name) {
  if (name == "uniform") return Distribution::kUniform;
  if (name == "normal") return Distribution::kNormal;
  TORCH_CHECK_VALUE(false, "distribution: expected uniform or normal, got ", name);
}

void init_rows_(at::TensorList weights, at::TensorList states, const at::Tensor& slots,
                const at::Tensor& ids, int64_t seed, std::string_view distribution, double scale) {
  TORCH_CHECK_VALUE(0 <= scale && scale <= std::numeric_limits<float>::max(),
                    "scale: expected a finite number from 0 on, got ", scale);
  const InitialValues values(seed, distribution_of(distribution), static_cast<float>(scale));
  const auto weight_rows = check_chunks<float>("weights", weights, width_of("weights", weights),
                                               /*is_vector=*/false);
  const States state_rows = check_states(states, weight_rows);
  const at::Tensor checked_slots = check_vector<int64_t>("slots", slots);
  const int64_t num = checked_slots.numel();
  const at::Tensor checked_ids = check_vector<int64_t>("ids", ids, num);
  const auto* rows = checked_slots.const_data_ptr<int64_t>();
  const auto* id = checked_ids.const_data_ptr<int64_t>();
  check_slots("slots", rows, num, weight_rows, /*may_be_none=*/false);
  parallel_for(num, rows_of(kGrain, weight_rows.width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      values.fill(id[i], weight_rows.row(rows[i]), weight_rows.width);
      std::fill_n(state_rows.row(rows[i]), state_rows.width(rows[i]), 0.0f);
    }
  });
}

}  // namespace
}  // namespace torchrec_gr::embedding

TORCH_LIBRARY_IMPL(torchrec_gr, CPU, m) {
  using namespace torchrec_gr::embedding;
  m.impl("gather_rows", &gather_rows);
  m.impl("update_rows_", &update_rows_);
  m.impl("init_rows_", &init_rows_);
}

// Not differentiable: what reads rows hands their gradients to update_rows_.
TORCH_LIBRARY_IMPL(torchrec_gr, Autograd, m) {
  m.impl("gather_rows", torch::CppFunction::makeFallthrough());
  m.impl("update_rows_", torch::CppFunction::makeFallthrough());
  m.impl("init_rows_", torch::CppFunction::makeFallthrough());
}
