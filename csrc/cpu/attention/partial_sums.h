// The gradients of keys and values that several tasks share, kept apart and added up at the end, in
// the order of the row's parts.
#pragma once

#include <vector>

#include "packed_keys.h"
#include "schedule.h"

namespace torchrec_gr::cpu {
namespace {

class PartialSums {
 public:
  PartialSums(const AttentionProblem& problem, const std::vector<CutRow>& cuts)
      : problem_(problem), cuts_(cuts) {
    for (const CutRow& cut : cuts) {
      begins_.push_back(sums_.size());
      sums_.resize(sums_.size() + cut.num_parts * part_size(cut));
    }
  }

  TokenRows<float> dkeys(int cut, int part) {
    const int width = problem_.qk_dim;
    return {part_of(cut, part), width, num_keys(cuts_[cut]), width};
  }

  TokenRows<float> dvalues(int cut, int part) {
    const int width = problem_.v_dim, keys = num_keys(cuts_[cut]);
    return {part_of(cut, part) + static_cast<int64_t>(keys) * problem_.qk_dim, width, keys, width};
  }

  template <class Element>
  void add_up(int cut, const AttentionGradients& gradients) {
    const CutRow& row = cuts_[cut];
    float* total = part_of(cut, 0);
    for (int part = 1; part < row.num_parts; ++part) {
      const float* of_part = part_of(cut, part);
      for (int64_t i = 0; i < part_size(row); ++i) total[i] += of_part[i];
    }
    const int64_t first_key = problem_.k_offsets[row.row];
    copy(dkeys(cut, 0),
         head_rows<Element>(gradients.dk, first_key, row.head, num_keys(row), problem_.qk_dim));
    copy(dvalues(cut, 0),
         head_rows<Element>(gradients.dv, first_key, row.head, num_keys(row), problem_.v_dim));
  }

 private:
  int num_keys(const CutRow& cut) const { return row_of(problem_, cut.row).num_keys; }

  int64_t part_size(const CutRow& cut) const {
    return static_cast<int64_t>(num_keys(cut)) * (problem_.qk_dim + problem_.v_dim);
  }

  float* part_of(int cut, int part) {
    return sums_.data() + begins_[cut] + part * part_size(cuts_[cut]);
  }

  template <class Element>
  static void copy(TokenRows<float> from, TokenRows<Element> to) {
    std::vector<float> line(round_up(from.width, kLanes));
    for (int row = 0; row < from.count; ++row) {
      std::copy_n(from.data + row * from.step, from.width, line.begin());
      write_rows<Element>({line.data(), 0}, 1.0f, to.from(row, 1));
    }
  }

  const AttentionProblem& problem_;
  const std::vector<CutRow>& cuts_;
  std::vector<int64_t> begins_;
  std::vector<float> sums_;
};

}  // namespace
}  // namespace torchrec_gr::cpu
