// Rows of tables: read, updated and made anew.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "bags.h"
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

// Every slot once, where there is no index.
CheckedBags check_reading(const std::optional<at::Tensor>& index,
                          const std::optional<at::Tensor>& offsets,
                          const std::optional<at::Tensor>& factors, int64_t num_slots) {
  TORCH_CHECK_VALUE(index || (!offsets && !factors),
                    "index: expected one beside offsets or factors, got none");
  return check_bags(index ? *index : at::arange(num_slots), offsets, "factors", factors, num_slots);
}

at::Tensor gather_rows(at::TensorList weights, const at::Tensor& slots, int64_t dim,
                       const std::optional<at::Tensor>& index,
                       const std::optional<at::Tensor>& offsets,
                       const std::optional<at::Tensor>& factors) {
  TORCH_CHECK_VALUE(dim >= 1, "dim: expected 1 or more, got ", dim);
  const auto chunks = check_chunks<const float>("weights", weights, dim, /*is_vector=*/false);
  const at::Tensor checked_slots = check_vector<int64_t>("slots", slots);
  const auto* rows = checked_slots.const_data_ptr<int64_t>();
  check_slots("slots", rows, checked_slots.numel(), chunks, /*may_be_none=*/true);
  const CheckedBags checked = check_reading(index, offsets, factors, checked_slots.numel());
  const Bags bags = checked.view();
  at::Tensor gathered = at::empty({bags.num_bags, dim}, slots.options().dtype(at::kFloat));
  auto* to = gathered.mutable_data_ptr<float>();
  const std::vector<float> zeros(dim);
  const int64_t floats = dim * bags.num_places / std::max<int64_t>(1, bags.num_bags);
  const int64_t ahead = rows_of(kAhead, dim);
  parallel_for(bags.num_bags, rows_of(kGrain, floats), [&](int64_t begin, int64_t end) {
    const int64_t last = bags.end(end - 1);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = bags.begin(b);
      write_sum(
          to + b * dim, bags.end(b) - first, dim,
          [&](int64_t i) {
            chunks.prefetch(rows[bags.index[std::min(first + i + ahead, last - 1)]]);
            const int64_t slot = rows[bags.index[first + i]];
            return slot == kNoSlot ? zeros.data() : chunks.row(slot);
          },
          [&](int64_t i) { return bags.factor(first + i); });
    }
  });
  return gathered;
}

// What is done to a table's rows; nothing for "none".
std::optional<OptimizerStep> step_of(std::string_view name, double lr, double eps) {
  const auto step = [&](Optimizer optimizer) {
    return OptimizerStep{optimizer, static_cast<float>(lr), static_cast<float>(eps)};
  };
  if (name == "none") return std::nullopt;
  if (name == "sgd") return step(Optimizer::kSGD);
  if (name == "adagrad") return step(Optimizer::kAdagrad);
  if (name == "rowwise_adagrad") return step(Optimizer::kRowWiseAdagrad);
  TORCH_CHECK_VALUE(false, "optimizers: expected sgd, adagrad, rowwise_adagrad or none, got ",
                    name);
}

// Of each table, once the arguments are found right.
std::vector<std::optional<OptimizerStep>> check_steps(const std::vector<std::string>& optimizers,
                                                      at::ArrayRef<double> lrs,
                                                      at::ArrayRef<double> eps,
                                                      int64_t num_tables) {
  const auto check_size = [&](const char* name, size_t size) {
    TORCH_CHECK_VALUE(static_cast<int64_t>(size) == num_tables, name, ": expected one for each of ",
                      num_tables, " tables, got ", size);
  };
  check_size("optimizers", optimizers.size());
  check_size("lrs", lrs.size());
  check_size("eps", eps.size());
  std::vector<std::optional<OptimizerStep>> steps;
  for (int64_t t = 0; t < num_tables; ++t) steps.push_back(step_of(optimizers[t], lrs[t], eps[t]));
  return steps;
}

void update_rows_(at::TensorList weights, at::TensorList states, const at::Tensor& slots,
                  const at::Tensor& table_offsets, const at::Tensor& grads,
                  const std::optional<at::Tensor>& index, const std::optional<at::Tensor>& offsets,
                  const std::optional<at::Tensor>& factors,
                  const std::vector<std::string>& optimizers, at::ArrayRef<double> lrs,
                  at::ArrayRef<double> eps) {
  TORCH_CHECK_VALUE(grads.dim() == 2 && grads.size(1) >= 1 && grads.scalar_type() == at::kFloat,
                    "grads: expected [n, D] float32, D at least 1, got ", described(grads));
  check_on_cpu("grads", grads);
  const int64_t width = grads.size(1);
  const auto weight_rows = check_chunks<float>("weights", weights, width, /*is_vector=*/false);
  const States state_rows = check_states(states, weight_rows);
  const at::Tensor checked_slots = check_vector<int64_t>("slots", slots);
  const auto* rows = checked_slots.const_data_ptr<int64_t>();
  const int64_t num_rows = checked_slots.numel();
  check_slots("slots", rows, num_rows, weight_rows, /*may_be_none=*/true);
  const at::Tensor bounds = check_offsets("table_offsets", table_offsets, "slots", num_rows);
  const auto* of_table = bounds.const_data_ptr<int64_t>();
  const auto steps = check_steps(optimizers, lrs, eps, bounds.numel() - 1);
  for (size_t t = 0; t < steps.size(); ++t) {
    if (!steps[t]) continue;
    check_widths(state_rows, rows + of_table[t], of_table[t + 1] - of_table[t],
                 steps[t]->state_width(width), optimizers[t]);
  }
  const CheckedBags checked = check_reading(index, offsets, factors, num_rows);
  const Bags bags = checked.view();
  TORCH_CHECK_VALUE(grads.size(0) == bags.num_bags, "grads: expected one row for each of the ",
                    bags.num_bags, " that were read, got ", described(grads));
  const at::Tensor dense = grads.contiguous();
  const auto* grad = dense.const_data_ptr<float>();
  const PlacesOfRows places(bags, num_rows);
  const int64_t distance = rows_of(kAhead, width);
  parallel_for(places.work(), rows_of(kGrain, width), [&](int64_t begin, int64_t end) {
    std::vector<float> sum(width);
    places.for_share(begin, end, [&](int64_t first, int64_t last) {
      size_t table = 0;
      for (int64_t r = first; r < last; ++r) {
        while (r >= of_table[table + 1]) ++table;
        const int64_t ahead = std::min(r + distance, last - 1);
        weight_rows.prefetch(rows[ahead]);
        state_rows.prefetch(rows[ahead]);
        if (rows[r] == kNoSlot || !steps[table]) continue;
        places.prefetch(std::min(r + 4, last - 1), grad, width);
        places.sum(r, grad, width, sum.data());
        steps[table]->update(weight_rows.row(rows[r]), state_rows.row(rows[r]), sum.data(), width);
      }
    });
  });
}

void init_rows_(at::TensorList weights, at::TensorList states, const at::Tensor& slots,
                const at::Tensor& ids, int64_t seed, double deviation) {
  TORCH_CHECK_VALUE(0 <= deviation && deviation <= std::numeric_limits<float>::max(),
                    "std: expected a finite number from 0 on, got ", deviation);
  const InitialValues values(seed, static_cast<float>(deviation));
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
