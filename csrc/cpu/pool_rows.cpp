// Rows read by index, alone or pooled in bags, and the sums of their gradients. Every sum is taken
// by one thread in the order of the batch, so that results do not depend on the threads.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "../offsets.h"

namespace torchrec_gr {
namespace {

constexpr int64_t kGrain = 16384;  // floats worth waking a thread for

// Writes the sum of `num` rows of `dim` floats, zeros for none; row(i) is one, scale its factor.
template <typename Row, typename Scale>
void write_sum(float* __restrict sum, int64_t num, int64_t dim, const Row& row,
               const Scale& scale) {
  if (num == 0) std::memset(sum, 0, dim * sizeof(float));
  for (int64_t i = 0; i < num; ++i) {
    const float* __restrict from = row(i);
    const float factor = scale(i);
    if (i == 0) {
      for (int64_t d = 0; d < dim; ++d) sum[d] = factor * from[d];
    } else {
      for (int64_t d = 0; d < dim; ++d) sum[d] += factor * from[d];
    }
  }
}

at::Tensor check_rows(const char* name, const at::Tensor& rows) {
  TORCH_CHECK_VALUE(rows.dim() == 2 && rows.scalar_type() == at::kFloat, name,
                    ": expected rows, [n, D] float32, got ", rows.sizes(), " ",
                    c10::getDtypeNames(rows.scalar_type()).first);
  return rows.contiguous();
}

at::Tensor check_index(const at::Tensor& index, int64_t num_rows) {
  TORCH_CHECK_VALUE(index.dim() == 1 && index.scalar_type() == at::kLong,
                    "index: expected [n] int64, got ", index.sizes(), " ",
                    c10::getDtypeNames(index.scalar_type()).first);
  at::Tensor checked = index.contiguous();
  const int64_t* places = checked.const_data_ptr<int64_t>();
  uint64_t largest = 0;  // negative places are the largest of all
  for (int64_t i = 0; i < checked.numel(); ++i) {
    largest = std::max(largest, static_cast<uint64_t>(places[i]));
  }
  TORCH_CHECK_VALUE(checked.numel() == 0 || largest < static_cast<uint64_t>(num_rows),
                    "index: expected places among the ", num_rows, " rows, got ",
                    static_cast<int64_t>(largest));
  return checked;
}

std::optional<at::Tensor> check_weights(const std::optional<at::Tensor>& weights, int64_t num) {
  if (!weights) return weights;
  TORCH_CHECK_VALUE(
      weights->dim() == 1 && weights->numel() == num && weights->scalar_type() == at::kFloat,
      "weights: expected [", num, "] float32, one for each of index, got ", weights->sizes(), " ",
      c10::getDtypeNames(weights->scalar_type()).first);
  return weights->contiguous();
}

at::Tensor pool_rows(const at::Tensor& rows, const at::Tensor& index,
                     const std::optional<at::Tensor>& offsets,
                     const std::optional<at::Tensor>& weights) {
  const at::Tensor from = check_rows("rows", rows);
  const at::Tensor places = check_index(index, from.size(0));
  const auto bounds =
      offsets ? check_offsets("offsets", *offsets, "index", places.numel()) : at::Tensor();
  const auto scales = check_weights(weights, places.numel());
  const int64_t num_bags = offsets ? bounds.numel() - 1 : places.numel();
  const int64_t dim = from.size(1);
  at::Tensor pooled = at::empty({num_bags, dim}, from.options());
  const float* row = from.const_data_ptr<float>();
  const int64_t* place = places.const_data_ptr<int64_t>();
  const int64_t* bag_bounds = offsets ? bounds.const_data_ptr<int64_t>() : nullptr;
  const float* scale = scales ? scales->const_data_ptr<float>() : nullptr;
  float* out = pooled.mutable_data_ptr<float>();
  const int64_t work = std::max<int64_t>(1, dim * places.numel() / std::max<int64_t>(1, num_bags));
  at::parallel_for(0, num_bags, std::max<int64_t>(1, kGrain / work), [&](int64_t b, int64_t last) {
    for (; b < last; ++b) {
      const int64_t first = bag_bounds ? bag_bounds[b] : b;
      const int64_t end = bag_bounds ? bag_bounds[b + 1] : b + 1;
      write_sum(
          out + b * dim, end - first, dim, [&](int64_t i) { return row + place[first + i] * dim; },
          [&](int64_t i) { return scale ? scale[first + i] : 1.0f; });
    }
  });
  return pooled;
}

// Which of n things belong to each of `num_rows` rows: those of row r, rising, are
// order[bounds[r]:bounds[r + 1]].
struct ByRow {
  std::vector<int64_t> bounds;
  std::vector<int64_t> order;

  ByRow(const int64_t* place, int64_t num, int64_t num_rows) : bounds(num_rows + 1), order(num) {
    for (int64_t i = 0; i < num; ++i) ++bounds[place[i] + 1];
    for (int64_t r = 0; r < num_rows; ++r) bounds[r + 1] += bounds[r];
    std::vector<int64_t> next(bounds.begin(), bounds.end() - 1);
    for (int64_t i = 0; i < num; ++i) order[next[place[i]]++] = i;
  }
};

std::vector<int64_t> bag_of_each(const int64_t* bounds, int64_t num_bags) {
  std::vector<int64_t> bag(bounds[num_bags]);
  for (int64_t b = 0; b < num_bags; ++b) {
    std::fill(bag.begin() + bounds[b], bag.begin() + bounds[b + 1], b);
  }
  return bag;
}

at::Tensor sum_rows(const at::Tensor& grad, const at::Tensor& index,
                    const std::optional<at::Tensor>& offsets,
                    const std::optional<at::Tensor>& weights, c10::SymInt num) {
  const int64_t num_rows = num.expect_int();
  const at::Tensor from = check_rows("grad", grad);
  TORCH_CHECK_VALUE(num_rows >= 0, "num_rows: expected a count, got ", num_rows);
  const at::Tensor places = check_index(index, num_rows);
  const auto scales = check_weights(weights, places.numel());
  std::vector<int64_t> bags;
  int64_t num_bags = places.numel();
  if (offsets) {
    const at::Tensor bounds = check_offsets("offsets", *offsets, "index", places.numel());
    num_bags = bounds.numel() - 1;
    bags = bag_of_each(bounds.const_data_ptr<int64_t>(), num_bags);
  }
  TORCH_CHECK_VALUE(from.size(0) == num_bags, "grad: expected one row for each of the ", num_bags,
                    offsets ? " bags" : " places of index", ", got ", from.sizes());
  const int64_t dim = from.size(1);
  const ByRow by_row(places.const_data_ptr<int64_t>(), places.numel(), num_rows);
  at::Tensor sums = at::empty({num_rows, dim}, from.options());
  const float* row = from.const_data_ptr<float>();
  const float* scale = scales ? scales->const_data_ptr<float>() : nullptr;
  float* out = sums.mutable_data_ptr<float>();
  const int64_t work = std::max<int64_t>(1, dim * places.numel() / std::max<int64_t>(1, num_rows));
  at::parallel_for(0, num_rows, std::max<int64_t>(1, kGrain / work), [&](int64_t r, int64_t last) {
    for (; r < last; ++r) {
      const int64_t* order = by_row.order.data() + by_row.bounds[r];
      write_sum(
          out + r * dim, by_row.bounds[r + 1] - by_row.bounds[r], dim,
          [&](int64_t i) { return row + (offsets ? bags[order[i]] : order[i]) * dim; },
          [&](int64_t i) { return scale ? scale[order[i]] : 1.0f; });
    }
  });
  return sums;
}

}  // namespace
}  // namespace torchrec_gr

TORCH_LIBRARY_IMPL(torchrec_gr, CPU, m) {
  m.impl("pool_rows", &torchrec_gr::pool_rows);
  m.impl("sum_rows", &torchrec_gr::sum_rows);
}
