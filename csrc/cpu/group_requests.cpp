// Equal rows of a jagged batch. Rows are hashed by all threads, then met one after the other in a
// hash table; rows of one hash are compared id by id, so that no collision merges two rows.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <ranges>
#include <tuple>
#include <vector>

#include "../offsets.h"

namespace torchrec_gr {
namespace {

constexpr int kHashBits = 61;
constexpr uint64_t kPrime = (uint64_t{1} << kHashBits) - 1;
constexpr int64_t kHashingGrain = 16384;  // tokens and rows worth waking a thread for

// a * b modulo kPrime, at most kPrime + 3, for a < 2^62 and b < 2^61.
inline uint64_t multiply(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  const uint64_t sum =
      (static_cast<uint64_t>(product) & kPrime) + static_cast<uint64_t>(product >> kHashBits);
  return (sum & kPrime) + (sum >> kHashBits);
}

// A row's 32-bit words w_0 ... w_(n-1) as the coefficients of a polynomial modulo kPrime, taken at
// the point r that the seed gives:
//     r^(n+1) + w_0 r^n + ... + w_(n-1) r
// Two different rows of at most n words agree at n + 1 points of 2^61 at most: ids cannot be chosen
// to collide by one who does not know the seed.
class RowHash {
 public:
  explicit RowHash(int64_t seed)
      : point_(static_cast<uint64_t>(seed) % kPrime),
        point_4_(multiply(multiply(point_, point_), multiply(point_, point_)) % kPrime) {}

  // Horner's rule, on four words at a time because a multiplication waits for the one before it.
  uint64_t operator()(const char* row, int64_t num_bytes) const {
    const char* end = row + num_bytes;
    uint64_t lanes[4] = {0, 0, 0, 1};
    for (; end - row >= 16; row += 16) {
      uint32_t words[4];
      std::memcpy(words, row, 16);
      for (int i = 0; i < 4; ++i) lanes[i] = multiply(lanes[i], point_4_) + words[i];
    }
    uint64_t hash = 0;
    for (uint64_t lane : lanes) hash = multiply(hash, point_) + lane;
    for (; row < end; row += 4) {
      uint32_t word;
      std::memcpy(&word, row, 4);
      hash = multiply(hash, point_) + word;
    }
    return multiply(hash, point_);
  }

 private:
  uint64_t point_;
  uint64_t point_4_;
};

// Row b is the bytes of the tokens offsets[b]:offsets[b + 1].
struct JaggedRows {
  const char* data;
  const int64_t* offsets;
  int64_t num_rows;
  int64_t token_bytes;

  const char* row(int64_t b) const { return data + offsets[b] * token_bytes; }
  int64_t num_tokens(int64_t b) const { return offsets[b + 1] - offsets[b]; }
  int64_t num_bytes(int64_t b) const { return num_tokens(b) * token_bytes; }

  bool equal(int64_t a, int64_t b) const {
    return num_tokens(a) == num_tokens(b) &&
           (num_bytes(a) == 0 || std::memcmp(row(a), row(b), num_bytes(a)) == 0);
  }
};

// By all threads, in shares of equally many tokens and rows: row b begins at offsets[b] + b of
// both.
std::vector<uint64_t> hash_rows(const JaggedRows& rows, const RowHash& hash) {
  std::vector<uint64_t> hashes(rows.num_rows);
  const auto all = std::views::iota(int64_t{0}, rows.num_rows);
  const int64_t work = rows.offsets[rows.num_rows] + rows.num_rows;
  at::parallel_for(0, work, kHashingGrain, [&](int64_t begin, int64_t end) {
    const auto starts_before = [&](int64_t b, int64_t place) {
      return rows.offsets[b] + b < place;
    };
    const auto first =
        std::ranges::partition_point(all, [&](int64_t b) { return starts_before(b, begin); });
    for (auto b = first; b != all.end() && starts_before(*b, end); ++b) {
      hashes[*b] = hash(rows.row(*b), rows.num_bytes(*b));
    }
  });
  return hashes;
}

// Groups in order of first appearance. Fills each row's group, returns each group's first row.
std::vector<int64_t> group_rows(const JaggedRows& rows, const std::vector<uint64_t>& hashes,
                                int64_t* inverse) {
  struct Slot {
    uint64_t hash;
    int64_t group = -1;
  };
  const uint64_t num_slots = std::bit_ceil(static_cast<uint64_t>(2 * rows.num_rows + 2));
  const int shift = kHashBits - std::countr_zero(num_slots);
  const uint64_t mask = num_slots - 1;
  std::vector<Slot> slots(num_slots);
  std::vector<int64_t> requests;
  for (int64_t b = 0; b < rows.num_rows; ++b) {
    uint64_t place = (hashes[b] >> shift) & mask;
    while (slots[place].group >= 0 &&
           !(slots[place].hash == hashes[b] && rows.equal(requests[slots[place].group], b))) {
      place = (place + 1) & mask;
    }
    if (slots[place].group < 0) {
      slots[place] = {hashes[b], static_cast<int64_t>(requests.size())};
      requests.push_back(b);
    }
    inverse[b] = slots[place].group;
  }
  return requests;
}

std::tuple<at::Tensor, at::Tensor> group_requests(const at::Tensor& values,
                                                  const at::Tensor& offsets, int64_t seed) {
  TORCH_CHECK_VALUE((values.dim() == 1 || values.dim() == 2) &&
                        (values.scalar_type() == at::kInt || values.scalar_type() == at::kLong),
                    "values: expected ids, [T] or [T, F] int32 or int64, got ", values.sizes(), " ",
                    c10::getDtypeNames(values.scalar_type()).first);
  const at::Tensor bounds = check_offsets("offsets", offsets, "values", values.size(0));
  const at::Tensor ids = values.contiguous();
  const int64_t ids_a_token = values.dim() == 1 ? 1 : values.size(1);
  const JaggedRows rows{static_cast<const char*>(ids.const_data_ptr()),
                        bounds.const_data_ptr<int64_t>(), bounds.numel() - 1,
                        ids_a_token * static_cast<int64_t>(ids.element_size())};
  at::Tensor inverse = at::empty({rows.num_rows}, values.options().dtype(at::kLong));
  const std::vector<int64_t> requests =
      group_rows(rows, hash_rows(rows, RowHash(seed)), inverse.mutable_data_ptr<int64_t>());
  return {at::tensor(requests, inverse.options()), inverse};
}

}  // namespace
}  // namespace torchrec_gr

TORCH_LIBRARY_IMPL(torchrec_gr, CPU, m) { m.impl("group_requests", &torchrec_gr::group_requests); }

// Not differentiable: integers in, integers out.
TORCH_LIBRARY_IMPL(torchrec_gr, Autograd, m) {
  m.impl("group_requests", torch::CppFunction::makeFallthrough());
}
