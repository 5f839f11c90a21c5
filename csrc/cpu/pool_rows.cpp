// Rows read by index, alone or pooled in bags, and the sums of their gradients. Every sum is taken
// by one thread in the order of the batch, so that results do not depend on the threads.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <optional>

#include "bags.h"

namespace torchrec_gr::embedding {
namespace {

constexpr int64_t kGrain = 16384;  // floats worth waking a thread for

at::Tensor check_rows(const char* name, const at::Tensor& rows) {
  TORCH_CHECK_VALUE(rows.dim() == 2 && rows.scalar_type() == at::kFloat, name,
                    ": expected rows, [n, D] float32, got ", described(rows));
  check_on_cpu(name, rows);
  return rows.contiguous();
}

int64_t grain_of(int64_t num_floats, int64_t num_shares) {
  const int64_t floats = std::max<int64_t>(1, num_floats / std::max<int64_t>(1, num_shares));
  return std::max<int64_t>(1, kGrain / floats);
}

at::Tensor pool_rows(const at::Tensor& rows, const at::Tensor& index,
                     const std::optional<at::Tensor>& offsets,
                     const std::optional<at::Tensor>& weights) {
  const at::Tensor from = check_rows("rows", rows);
  const CheckedBags checked = check_bags(index, offsets, "weights", weights, from.size(0));
  const Bags bags = checked.view();
  const int64_t dim = from.size(1);
  at::Tensor pooled = at::empty({bags.num_bags, dim}, from.options());
  const auto* row = from.const_data_ptr<float>();
  auto* out = pooled.mutable_data_ptr<float>();
  const int64_t grain = grain_of(dim * bags.num_places, bags.num_bags);
  parallel_for(bags.num_bags, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = bags.begin(b);
      write_sum(
          out + b * dim, bags.end(b) - first, dim,
          [&](int64_t i) { return row + bags.index[first + i] * dim; },
          [&](int64_t i) { return bags.factor(first + i); });
    }
  });
  return pooled;
}

at::Tensor sum_rows(const at::Tensor& grad, const at::Tensor& index,
                    const std::optional<at::Tensor>& offsets,
                    const std::optional<at::Tensor>& weights, c10::SymInt num) {
  const int64_t num_rows = num.expect_int();
  TORCH_CHECK_VALUE(num_rows >= 0, "num_rows: expected a count, got ", num_rows);
  const at::Tensor from = check_rows("grad", grad);
  const CheckedBags checked = check_bags(index, offsets, "weights", weights, num_rows);
  const Bags bags = checked.view();
  TORCH_CHECK_VALUE(from.size(0) == bags.num_bags, "grad: expected one row for each of the ",
                    bags.num_bags, offsets ? " bags" : " places of index", ", got ", from.sizes());
  const int64_t dim = from.size(1);
  const PlacesOfRows places(bags, num_rows);
  at::Tensor sums = at::empty({num_rows, dim}, from.options());
  const auto* grads = from.const_data_ptr<float>();
  auto* out = sums.mutable_data_ptr<float>();
  parallel_for(places.work(), grain_of(dim, 1), [&](int64_t begin, int64_t end) {
    places.for_share(begin, end, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        places.prefetch(std::min(r + 4, last - 1), grads, dim);
        places.sum(r, grads, dim, out + r * dim);
      }
    });
  });
  return sums;
}

}  // namespace
}  // namespace torchrec_gr::embedding

TORCH_LIBRARY_IMPL(torchrec_gr, CPU, m) {
  m.impl("pool_rows", &torchrec_gr::embedding::pool_rows);
  m.impl("sum_rows", &torchrec_gr::embedding::sum_rows);
}
