// Sums of rows: of a bag's, and of what several places say of one row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace torchrec_gr::embedding {

// Writes the sum of `num` rows of `dim` floats, zeros for none; row(i) is one, scale(i) its factor.
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

// Rows by index, in bags: bag b has the places bounds[b]:bounds[b + 1] of `index`, or b alone where
// there are no bounds. A place's factor is 1 where there are none.
struct Bags {
  const int64_t* index;
  int64_t num_places;
  const int64_t* bounds;
  int64_t num_bags;
  const float* factors;

  int64_t begin(int64_t bag) const { return bounds ? bounds[bag] : bag; }
  int64_t end(int64_t bag) const { return bounds ? bounds[bag + 1] : bag + 1; }
  float factor(int64_t place) const { return factors ? factors[place] : 1.0f; }
};

constexpr int64_t kMostPlaces = UINT32_MAX;

// The places of bags, row by row: row r's are order[starts[r]:starts[r + 1]], rising. Of at most
// kMostPlaces places and bags.
class PlacesOfRows {
 public:
  PlacesOfRows(const Bags& bags, int64_t num_rows)
      : bags_(bags), starts_(num_rows + 1), order_(bags.num_places) {
    for (int64_t i = 0; i < bags.num_places; ++i) ++starts_[bags.index[i] + 1];
    for (int64_t r = 0; r < num_rows; ++r) starts_[r + 1] += starts_[r];
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    for (int64_t b = 0; b < bags.num_bags; ++b) {
      for (int64_t i = bags.begin(b); i < bags.end(b); ++i) {
        order_[next[bags.index[i]]++] = {static_cast<uint32_t>(b), static_cast<uint32_t>(i)};
      }
    }
  }

  // Units of work: a row counts as its places and one more.
  int64_t work() const { return starts_.back() + static_cast<int64_t>(starts_.size()) - 1; }

  // Calls visit(first_row, last_row) for the rows that begin in a share of the work.
  template <typename Visit>
  void for_share(int64_t begin, int64_t end, const Visit& visit) const {
    const int64_t first = row_at(begin), last = row_at(end);
    if (first < last) visit(first, last);
  }

  // Writes the sum of a row's gradients, from those of the bags.
  void sum(int64_t row, const float* grads, int64_t dim, float* out) const {
    const Place* places = order_.data() + starts_[row];
    write_sum(
        out, starts_[row + 1] - starts_[row], dim,
        [&](int64_t i) { return grads + int64_t{places[i].bag} * dim; },
        [&](int64_t i) { return bags_.factor(places[i].place); });
  }

  // Into the cache: the first of a row's gradients.
  void prefetch(int64_t row, const float* grads, int64_t dim) const {
    if (starts_[row] == starts_[row + 1]) return;
    const auto* line =
        reinterpret_cast<const char*>(grads + int64_t{order_[starts_[row]].bag} * dim);
    const char* end = line + dim * sizeof(float);
    for (; line < end; line += 64) __builtin_prefetch(line);
  }

 private:
  struct Place {  // small, since as many of them are written here and there as there are places
    uint32_t bag;
    uint32_t place;
  };

  // The first row that begins at a unit of work or later.
  int64_t row_at(int64_t unit) const {
    int64_t first = 0, last = static_cast<int64_t>(starts_.size()) - 1;
    while (first < last) {
      const int64_t middle = (first + last) / 2;
      if (starts_[middle] + middle < unit) {
        first = middle + 1;
      } else {
        last = middle;
      }
    }
    return first;
  }

  Bags bags_;
  std::vector<int64_t> starts_;
  std::vector<Place> order_;
};

}  // namespace torchrec_gr::embedding
