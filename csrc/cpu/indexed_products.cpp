// Products of vectors with rows read by index. Every sum is taken by one thread in the order of the
// batch, so that results do not depend on the threads.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <tuple>

#include "../indexed_products_arguments.h"

namespace torchrec_gr {
namespace {

constexpr int64_t kLanes = 16;  // floats of a block: what the widest registers hold
constexpr int64_t kAhead = 8;   // rows asked for before they are read
constexpr int64_t kGrain = 1 << 16;
constexpr int64_t kMostDim = 256;

// Lies anywhere; becomes as many registers as the instruction set needs for it.
using Block [[gnu::vector_size(kLanes * sizeof(float)), gnu::aligned(4), gnu::may_alias]] = float;

// What is multiplied: vectors and rows of whole blocks, filled up with zeros.
struct Problem {
  const float* left;     // [P, dim]
  const float* rows;     // [R, dim]
  const int64_t* index;  // [P, N]
  int64_t num_products;  // N
  int64_t dim;           // whole blocks

  // Of vector i.
  const int64_t* places(int64_t i) const { return index + i * num_products; }

  // Brings the row of a product that comes soon into the cache.
  [[gnu::always_inline]] void prefetch(const float* from, const int64_t* places, int64_t n) const {
    const float* row = from + places[std::min(n + kAhead, num_products - 1)] * dim;
    for (int64_t d = 0; d < dim; d += kLanes) __builtin_prefetch(row + d);
  }
};

// A vector of some blocks, a number that is known when this is compiled.
template <int kBlocks>
struct Vector {
  Block block[kBlocks];

  [[gnu::always_inline]] static Vector read(const float* from) {
    Vector vector;
    for (int b = 0; b < kBlocks; ++b) {
      vector.block[b] = *reinterpret_cast<const Block*>(from + b * kLanes);
    }
    return vector;
  }

  [[gnu::always_inline]] void write(float* to) const {
    for (int b = 0; b < kBlocks; ++b) *reinterpret_cast<Block*>(to + b * kLanes) = block[b];
  }

  [[gnu::always_inline]] void add(float factor, const Vector& other) {
    for (int b = 0; b < kBlocks; ++b) block[b] += factor * other.block[b];
  }

  [[gnu::always_inline]] float dot(const Vector& other) const {
    Block products = block[0] * other.block[0];
    for (int b = 1; b < kBlocks; ++b) products += block[b] * other.block[b];
    float sums[kLanes];
    *reinterpret_cast<Block*>(sums) = products;
    for (int64_t half = kLanes / 2; half > 0; half /= 2) {
      for (int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    }
    return sums[0];
  }
};

template <int kBlocks>
[[gnu::always_inline]] inline void products_of(const Problem& p, int64_t begin, int64_t end,
                                               float* out) {
  for (int64_t i = begin; i < end; ++i) {
    const auto left = Vector<kBlocks>::read(p.left + i * p.dim);
    const int64_t* places = p.places(i);
    for (int64_t n = 0; n < p.num_products; ++n) {
      p.prefetch(p.rows, places, n);
      const auto row = Vector<kBlocks>::read(p.rows + places[n] * p.dim);
      out[i * p.num_products + n] = left.dot(row);
    }
  }
}

template <int kBlocks>
[[gnu::always_inline]] inline void left_gradients_of(const Problem& p, const float* grad,
                                                     int64_t begin, int64_t end, float* out) {
  for (int64_t i = begin; i < end; ++i) {
    Vector<kBlocks> sum = {};
    const int64_t* places = p.places(i);
    for (int64_t n = 0; n < p.num_products; ++n) {
      p.prefetch(p.rows, places, n);
      sum.add(grad[i * p.num_products + n], Vector<kBlocks>::read(p.rows + places[n] * p.dim));
    }
    sum.write(out + i * p.dim);
  }
}

// Compiled for each of these, and chosen when it runs.
#define TORCHREC_GR_CLONES [[gnu::target_clones("default", "avx2", "avx512f")]]

// Widths of so many blocks have code of their own.
#define TORCHREC_GR_BY_BLOCKS(FUNCTION, ...)          \
  switch (p.dim / kLanes) {                           \
    case 1:                                           \
      return FUNCTION<1>(__VA_ARGS__);                \
    case 2:                                           \
      return FUNCTION<2>(__VA_ARGS__);                \
    case 3:                                           \
      return FUNCTION<3>(__VA_ARGS__);                \
    case 4:                                           \
      return FUNCTION<4>(__VA_ARGS__);                \
    case 8:                                           \
      return FUNCTION<8>(__VA_ARGS__);                \
    case 16:                                          \
      return FUNCTION<16>(__VA_ARGS__);               \
    default:                                          \
      TORCH_CHECK(false, "blocks: ", p.dim / kLanes); \
  }

TORCHREC_GR_CLONES
void write_products(const Problem& p, int64_t begin, int64_t end, float* out) {
  TORCHREC_GR_BY_BLOCKS(products_of, p, begin, end, out);
}

TORCHREC_GR_CLONES
void write_left_gradients(const Problem& p, const float* grad, int64_t begin, int64_t end,
                          float* out) {
  TORCHREC_GR_BY_BLOCKS(left_gradients_of, p, grad, begin, end, out);
}

// Blocks begin to end of every row's gradient, from all vectors: threads that share rows out would
// each have to skip what is another's.
TORCHREC_GR_CLONES
void add_row_gradients(const Problem& p, const float* grad, int64_t num_left, int64_t begin,
                       int64_t end, float* out) {
  for (int64_t first = begin * kLanes; first < end * kLanes; first += kLanes) {
    for (int64_t i = 0; i < num_left; ++i) {
      const auto left = Vector<1>::read(p.left + i * p.dim + first);
      const int64_t* places = p.places(i);
      for (int64_t n = 0; n < p.num_products; ++n) {
        const int64_t ahead = places[std::min(n + kAhead, p.num_products - 1)];
        __builtin_prefetch(out + ahead * p.dim + first);
        float* to = out + places[n] * p.dim + first;
        auto sum = Vector<1>::read(to);
        sum.add(grad[i * p.num_products + n], left);
        sum.write(to);
      }
    }
  }
}

// Arguments checked, contiguous, and filled up to whole blocks.
struct Arguments {
  at::Tensor left, rows, index;
  int64_t dim;  // of the caller

  Problem view() const {
    return {left.const_data_ptr<float>(), rows.const_data_ptr<float>(),
            index.const_data_ptr<int64_t>(), index.size(1), left.size(1)};
  }
};

// To 1, 2, 3, 4, 8 or 16 blocks, whose code is compiled.
at::Tensor filled_up(const at::Tensor& x) {
  int64_t blocks = std::max<int64_t>(1, (x.size(1) + kLanes - 1) / kLanes);
  if (blocks > 4) blocks = blocks <= 8 ? 8 : 16;
  return at::constant_pad_nd(x, {0, blocks * kLanes - x.size(1)}).contiguous();
}

// Of arguments whose shapes and dtypes are right.
Arguments prepared(const at::Tensor& left, const at::Tensor& rows, const at::Tensor& index) {
  TORCH_CHECK_VALUE(left.size(1) <= kMostDim, "left: expected a width of at most ", kMostDim,
                    ", got ", left.size(1));
  const Arguments arguments{filled_up(left), filled_up(rows), index.contiguous(), left.size(1)};
  const int64_t* places = arguments.index.const_data_ptr<int64_t>();
  uint64_t largest = 0;  // negative places are the largest of all
  for (int64_t i = 0; i < index.numel(); ++i) largest = std::max<uint64_t>(largest, places[i]);
  TORCH_CHECK_VALUE(index.numel() == 0 || largest < static_cast<uint64_t>(rows.size(0)),
                    "index: expected places among the ", rows.size(0), " rows, got ",
                    static_cast<int64_t>(largest));
  return arguments;
}

// Runs a share of `num` units on each thread; a unit has `work` floats.
template <typename F>
void share_out(int64_t num, int64_t work, const F& run) {
  at::parallel_for(0, num, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work)), run);
}

at::Tensor indexed_products(const at::Tensor& left, const at::Tensor& rows,
                            const at::Tensor& index) {
  check_indexed_products(left, rows, index);
  const Arguments arguments = prepared(left, rows, index);
  const Problem problem = arguments.view();
  at::Tensor products = at::empty(index.sizes(), left.options());
  auto* out = products.mutable_data_ptr<float>();
  share_out(left.size(0), problem.num_products * problem.dim,
            [&](int64_t begin, int64_t end) { write_products(problem, begin, end, out); });
  return products;
}

std::tuple<at::Tensor, at::Tensor> indexed_products_backward(const at::Tensor& grad,
                                                             const at::Tensor& left,
                                                             const at::Tensor& rows,
                                                             const at::Tensor& index) {
  check_indexed_products(grad, left, rows, index);
  const Arguments arguments = prepared(left, rows, index);
  const at::Tensor dense = grad.contiguous();
  const auto* factors = dense.const_data_ptr<float>();
  const Problem problem = arguments.view();
  at::Tensor of_left = at::empty_like(arguments.left), of_rows = at::zeros_like(arguments.rows);
  auto* to_left = of_left.mutable_data_ptr<float>();
  auto* to_rows = of_rows.mutable_data_ptr<float>();
  const int64_t num_left = left.size(0);
  share_out(num_left, problem.num_products * problem.dim, [&](int64_t begin, int64_t end) {
    write_left_gradients(problem, factors, begin, end, to_left);
  });
  share_out(problem.dim / kLanes, index.numel() * kLanes, [&](int64_t begin, int64_t end) {
    add_row_gradients(problem, factors, num_left, begin, end, to_rows);
  });
  return {of_left.narrow(1, 0, arguments.dim).contiguous(),
          of_rows.narrow(1, 0, arguments.dim).contiguous()};
}

}  // namespace
}  // namespace torchrec_gr

TORCH_LIBRARY_IMPL(torchrec_gr, CPU, m) {
  m.impl("indexed_products", &torchrec_gr::indexed_products);
  m.impl("indexed_products_backward", &torchrec_gr::indexed_products_backward);
}
