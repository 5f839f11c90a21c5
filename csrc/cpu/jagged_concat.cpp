// Rows [a_row ; b_row] of two jagged tensors, and back: runs of tokens copied by all threads.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <ranges>
#include <tuple>

#include "../offsets.h"

namespace torchrec_gr {
namespace {

constexpr int64_t kCopyGrain = 128 * 1024;  // bytes worth waking a thread for

// Joined row r is the tokens a[r]:a[r + 1] of side a, then the tokens b[r]:b[r + 1] of side b.
struct JoinedRows {
  at::Tensor a_offsets;
  at::Tensor b_offsets;
  const int64_t* a = a_offsets.const_data_ptr<int64_t>();
  const int64_t* b = b_offsets.const_data_ptr<int64_t>();
  int64_t num_rows = a_offsets.numel() - 1;

  int64_t num_tokens() const { return a[num_rows] + b[num_rows]; }

  // Calls copy(is_b, token, place, count) for every run of tokens that the joined tokens begin:end
  // hold: those of a side from `token` on, which are the joined ones from `place` on.
  template <typename Copy>
  void for_each_run(int64_t begin, int64_t end, const Copy& copy) const {
    const auto run = [&](bool is_b, int64_t shift, int64_t first, int64_t last) {
      const int64_t place = std::max(first, begin);
      const int64_t count = std::min(last, end) - place;
      if (count > 0) copy(is_b, place - shift, place, count);
    };
    const auto row_of_begin =
        std::ranges::partition_point(std::views::iota(int64_t{0}, num_rows),
                                     [&](int64_t r) { return a[r + 1] + b[r + 1] <= begin; });
    for (int64_t r = *row_of_begin; r < num_rows && a[r] + b[r] < end; ++r) {
      run(false, b[r], a[r] + b[r], a[r + 1] + b[r]);
      run(true, a[r + 1], a[r + 1] + b[r], a[r + 1] + b[r + 1]);
    }
  }

  // The same for all joined tokens; the threads share them equally, however long a row is.
  template <typename Copy>
  void parallel_for_each_run(int64_t token_bytes, const Copy& copy) const {
    if (token_bytes == 0) return;
    const int64_t grain = std::max<int64_t>(1, kCopyGrain / token_bytes);
    at::parallel_for(0, num_tokens(), grain,
                     [&](int64_t begin, int64_t end) { for_each_run(begin, end, copy); });
  }
};

JoinedRows check_rows(const at::Tensor& a_offsets, const at::Tensor& b_offsets, int64_t num_a,
                      int64_t num_b) {
  JoinedRows rows{check_offsets("a_offsets", a_offsets, "a", num_a),
                  check_offsets("b_offsets", b_offsets, "b", num_b)};
  TORCH_CHECK_VALUE(rows.b_offsets.numel() == rows.a_offsets.numel(),
                    "b_offsets: expected as many rows as a_offsets has (", rows.num_rows, "), got ",
                    rows.b_offsets.numel() - 1);
  return rows;
}

at::Tensor empty_tokens(const at::Tensor& like, int64_t num_tokens) {
  at::DimVector shape(like.sizes());
  shape[0] = num_tokens;
  return at::empty(shape, like.options());
}

int64_t bytes_a_token(const at::Tensor& x) {
  return c10::multiply_integers(x.sizes().slice(1)) * static_cast<int64_t>(x.element_size());
}

at::Tensor jagged_concat(const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_offsets,
                         const at::Tensor& b_offsets) {
  TORCH_CHECK_VALUE(a.dim() >= 1, "a: expected [Ta, ...], got a tensor without axes");
  TORCH_CHECK_VALUE(b.dim() >= 1 && b.sizes().slice(1) == a.sizes().slice(1),
                    "b: expected [Tb, ...] with the trailing shape of a, ", a.sizes().slice(1),
                    ", got ", b.sizes());
  TORCH_CHECK_VALUE(b.scalar_type() == a.scalar_type(), "b: expected the dtype of a, ",
                    c10::getDtypeNames(a.scalar_type()).first, ", got ",
                    c10::getDtypeNames(b.scalar_type()).first);
  const JoinedRows rows = check_rows(a_offsets, b_offsets, a.size(0), b.size(0));
  at::Tensor joined = empty_tokens(a, rows.num_tokens());
  const int64_t width = bytes_a_token(a);
  const at::Tensor a_dense = a.contiguous(), b_dense = b.contiguous();
  const auto* from_a = static_cast<const char*>(a_dense.const_data_ptr());
  const auto* from_b = static_cast<const char*>(b_dense.const_data_ptr());
  auto* to = static_cast<char*>(joined.mutable_data_ptr());
  rows.parallel_for_each_run(width, [&](bool is_b, int64_t token, int64_t place, int64_t count) {
    std::memcpy(to + place * width, (is_b ? from_b : from_a) + token * width, count * width);
  });
  return joined;
}

std::tuple<at::Tensor, at::Tensor> jagged_split(const at::Tensor& values,
                                                const at::Tensor& a_offsets,
                                                const at::Tensor& b_offsets, int64_t num_a) {
  TORCH_CHECK_VALUE(values.dim() >= 1, "values: expected [T, ...], got a tensor without axes");
  TORCH_CHECK_VALUE(0 <= num_a && num_a <= values.size(0), "num_a: expected 0 to the ",
                    values.size(0), " tokens of values, got ", num_a);
  const JoinedRows rows = check_rows(a_offsets, b_offsets, num_a, values.size(0) - num_a);
  at::Tensor a = empty_tokens(values, num_a), b = empty_tokens(values, values.size(0) - num_a);
  const int64_t width = bytes_a_token(values);
  const at::Tensor dense = values.contiguous();
  const auto* from = static_cast<const char*>(dense.const_data_ptr());
  auto* to_a = static_cast<char*>(a.mutable_data_ptr());
  auto* to_b = static_cast<char*>(b.mutable_data_ptr());
  rows.parallel_for_each_run(width, [&](bool is_b, int64_t token, int64_t place, int64_t count) {
    std::memcpy((is_b ? to_b : to_a) + token * width, from + place * width, count * width);
  });
  return {a, b};
}

}  // namespace
}  // namespace torchrec_gr

TORCH_LIBRARY_IMPL(torchrec_gr, CPU, m) {
  m.impl("jagged_concat", &torchrec_gr::jagged_concat);
  m.impl("jagged_split", &torchrec_gr::jagged_split);
}
