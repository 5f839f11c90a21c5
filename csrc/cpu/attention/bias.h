// The bias of scores, a vector of keys at a time, and the gradients of its tables.
#pragma once

#include <vector>

#include "../../time_buckets.h"
#include "query_block.h"
#include "time_bucket_ruler.h"

namespace torchrec_gr::cpu {
namespace {

// A table's lines with room after each: the lanes past a row's last key read and write there.
class PaddedLines {
 public:
  PaddedLines() = default;
  PaddedLines(const BiasTable& table, int num_heads)
      : shared_(table.head_stride == 0),
        width_(static_cast<int>(table.width)),
        step_(width_ + kLanes),
        data_(static_cast<size_t>(num_lines(num_heads)) * step_) {}

  void copy_from(const BiasTable& table, int num_heads) {
    for (int line = 0; line < num_lines(num_heads); ++line) {
      const float* from = table.data + line * table.head_stride;
      std::copy(from, from + width_, of_head(line));
    }
  }

  float* of_head(int head) { return data_.data() + (shared_ ? 0 : head) * step_; }
  const float* of_head(int head) const { return const_cast<PaddedLines*>(this)->of_head(head); }
  int num_lines(int num_heads) const { return shared_ ? 1 : num_heads; }
  int width() const { return width_; }

 private:
  bool shared_ = false;
  int width_ = 0;
  int64_t step_ = 0;
  std::vector<float> data_;
};

// What the bias of a query and kLanes keys is made of.
struct BiasTerms {
  Floats value{};
  Floats distance;        // |p_q - p_k|
  int position_entry;     // of the first key, where the keys' entries follow each other; or -1
  Ints position_entries;  // of every key, where they do not
  int time_bucket;        // of all keys; or -1
  Ints time_buckets;      // of every key, where they differ
};

// Many sums of floats: each has a float for every lane, so that a vector is added at once, or lane
// by lane without waiting for the lane before. Before these grow so long that they lose digits,
// they are added up in double.
class LaneSums {
 public:
  LaneSums() = default;
  explicit LaneSums(int64_t num_sums) : lanes_(num_sums * kLanes), totals_(num_sums) {}

  bool empty() const { return totals_.empty(); }

  void add(int64_t index, Floats x) {
    float* lanes = &lanes_[index * kLanes];
    store(lanes, load<Floats>(lanes) + x);
    if (++num_added_ == kMostAdded) add_up();
  }

  // Every lane to a sum of its own, `first` and what `places` says.
  void add_each(int64_t first, Ints places, Floats x) {
    float* lanes = &lanes_[first * kLanes];
    for (int lane = 0; lane < kLanes; ++lane) lanes[places[lane] * kLanes + lane] += x[lane];
    if (++num_added_ == kMostAdded) add_up();
  }

  void add_up() {
    for (size_t index = 0; index < totals_.size(); ++index) {
      totals_[index] += sum(load<Floats>(&lanes_[index * kLanes]));
    }
    std::fill(lanes_.begin(), lanes_.end(), 0.0f);
    num_added_ = 0;
  }

  // After add_up().
  double total(int64_t index) const { return totals_[index]; }

 private:
  static constexpr int kMostAdded = 512;

  std::vector<float> lanes_;
  std::vector<double> totals_;
  int num_added_ = 0;
};

// Sums of the tables' gradients over a thread's tasks.
class BiasGradients {
 public:
  explicit BiasGradients(const AttentionProblem& problem) : bias_(problem.bias) {
    const int heads = problem.num_heads;
    if (bias_.slopes != nullptr) slopes_ = LaneSums(heads);
    if (bias_.position_table.data != nullptr) positions_ = PaddedLines(bias_.position_table, heads);
    if (bias_.time_table.data != nullptr) times_ = LaneSums(num_entries(bias_.time_table, heads));
  }

  void add(int head, const BiasTerms& terms, Floats gradient) {
    if (!slopes_.empty()) slopes_.add(head, -gradient * terms.distance);
    if (positions_.width() > 0) add_position(positions_.of_head(head), terms, gradient);
    if (!times_.empty()) {
      const int64_t line = bias_.time_table.head_stride == 0 ? 0 : head * bias_.time_table.width;
      if (terms.time_bucket >= 0) {
        times_.add(line + terms.time_bucket, gradient);
      } else {
        times_.add_each(line, terms.time_buckets, gradient);
      }
    }
  }

  static void clear(const AttentionProblem& problem, const AttentionGradients& gradients) {
    const Bias& bias = problem.bias;
    const int heads = problem.num_heads;
    if (bias.slopes != nullptr) std::fill_n(gradients.dslopes, heads, 0.0f);
    std::fill_n(gradients.dposition_table, num_entries(bias.position_table, heads), 0.0f);
    std::fill_n(gradients.dtime_table, num_entries(bias.time_table, heads), 0.0f);
  }

  // Adds these sums, times a factor, to the gradients.
  void add_to(const AttentionProblem& problem, float factor, const AttentionGradients& to) {
    const int heads = problem.num_heads;
    slopes_.add_up();
    for (int head = 0; !slopes_.empty() && head < heads; ++head) {
      to.dslopes[head] += static_cast<float>(factor * slopes_.total(head));
    }
    for (int line = 0; positions_.width() > 0 && line < positions_.num_lines(heads); ++line) {
      float* gradient = to.dposition_table + static_cast<int64_t>(line) * positions_.width();
      for (int entry = 0; entry < positions_.width(); ++entry) {
        gradient[entry] += factor * positions_.of_head(line)[entry];
      }
    }
    times_.add_up();
    for (int64_t entry = 0; entry < num_entries(bias_.time_table, heads); ++entry) {
      to.dtime_table[entry] += static_cast<float>(factor * times_.total(entry));
    }
  }

 private:
  static int64_t num_entries(const BiasTable& table, int num_heads) {
    if (table.data == nullptr) return 0;
    return (table.head_stride == 0 ? 1 : num_heads) * table.width;
  }

  static void add_position(float* line, const BiasTerms& terms, Floats gradient) {
    if (terms.position_entry >= 0) {
      float* entries = line + terms.position_entry;
      store(entries, load<Floats>(entries) + gradient);
      return;
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      line[terms.position_entries[lane]] += gradient[lane];
    }
  }

  const Bias& bias_;
  LaneSums slopes_;        // [heads]
  PaddedLines positions_;  // [lines, width]
  LaneSums times_;         // [lines, buckets]
};

// The bias of one call, prepared for its rows one after the other.
class RowBias {
 public:
  RowBias(const AttentionProblem& problem, const PaddedLines& position_table)
      : problem_(problem), position_table_(position_table) {}

  bool present() const {
    return problem_.bias.uses_positions() || problem_.bias.time_table.data != nullptr;
  }

  // Reads the positions and times of a row's keys.
  void set_row(const Row& row) {
    row_ = row;
    const int padded = row.num_keys + kLanes;
    if (problem_.bias.uses_positions()) read_positions(padded);
    if (problem_.bias.time_table.data != nullptr) read_times(padded);
  }

  // Sets the query whose bias `terms` gives.
  void set_query(int head, int query, const Span& span) {
    const Bias& bias = problem_.bias;
    const int64_t token = row_.first_query + query;
    if (bias.uses_positions()) {
      q_position_ = bias.q_positions != nullptr ? bias.q_positions[token] : span.own;
    }
    if (bias.slopes != nullptr) slope_ = bias.slopes[head];
    if (bias.position_table.data != nullptr) {
      first_entry_ = static_cast<int>(problem_.max_seq_len) - 1 - q_position_;
      position_line_ = position_table_.of_head(head);
    }
    if (bias.time_table.data != nullptr) {
      q_time_ =
          bias.q_times != nullptr ? static_cast<double>(bias.q_times[token]) : k_times_[span.own];
      time_line_ = bias.time_table.data + head * bias.time_table.head_stride;
    }
  }

  BiasTerms terms(int key) const {
    BiasTerms terms;
    if (problem_.bias.slopes != nullptr) {
      terms.distance = abs(to_floats(load<Ints>(&k_positions_[key]) - q_position_));
      terms.value -= slope_ * terms.distance;
    }
    if (problem_.bias.position_table.data != nullptr) add_position(key, terms);
    if (problem_.bias.time_table.data != nullptr) add_time(key, terms);
    return terms;
  }

 private:
  void read_positions(int padded) {
    const int32_t* given = problem_.bias.k_positions;
    k_positions_.resize(padded);
    for (int key = 0; key < padded; ++key) {
      const int kept = std::min(key, row_.num_keys - 1);
      k_positions_[key] = given != nullptr ? given[row_.first_key + kept] : key;
    }
    consecutive_.resize(padded / kLanes);
    for (size_t vector = 0; vector < consecutive_.size(); ++vector) {
      const int32_t* positions = &k_positions_[vector * kLanes];
      const int known = std::min(row_.num_keys - static_cast<int>(vector) * kLanes, kLanes);
      consecutive_[vector] = true;
      for (int lane = 1; lane < known; ++lane) {
        if (positions[lane] != positions[0] + lane) consecutive_[vector] = false;
      }
    }
  }

  void read_times(int padded) {
    const int64_t* times = problem_.bias.k_times + row_.first_key;
    k_times_.resize(padded);
    for (int key = 0; key < padded; ++key) {
      k_times_[key] = static_cast<double>(times[std::min(key, row_.num_keys - 1)]);
    }
    earliest_.resize(padded / kLanes);
    latest_.resize(padded / kLanes);
    for (size_t vector = 0; vector < earliest_.size(); ++vector) {
      const auto first = k_times_.begin() + vector * kLanes;
      earliest_[vector] = *std::min_element(first, first + kLanes);
      latest_[vector] = *std::max_element(first, first + kLanes);
    }
  }

  void add_position(int key, BiasTerms& terms) const {
    const int vector = key / kLanes;
    if (consecutive_[vector]) {
      terms.position_entry = first_entry_ + k_positions_[key];
      terms.value += load<Floats>(position_line_ + terms.position_entry);
    } else {
      terms.position_entry = -1;
      terms.position_entries = first_entry_ + load<Ints>(&k_positions_[key]);
      terms.value += gather(position_line_, terms.position_entries);
    }
  }

  // Far keys mostly share a bucket, which their earliest and latest time tell at once.
  void add_time(int key, BiasTerms& terms) const {
    const int num_buckets = static_cast<int>(problem_.bias.time_table.width);
    const double early = q_time_ - earliest_[key / kLanes], late = q_time_ - latest_[key / kLanes];
    const bool between = early > 0 && late < 0;
    const double farther = std::max(std::abs(early), std::abs(late));
    const double nearer = between ? 0 : std::min(std::abs(early), std::abs(late));
    const int bucket = std::min(ruler_.bucket(farther), num_buckets - 1);
    if (bucket == std::min(ruler_.bucket(nearer), num_buckets - 1)) {
      terms.time_bucket = bucket;
      terms.value += time_line_[bucket];
      return;
    }
    terms.time_bucket = -1;
    int32_t buckets[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      buckets[lane] =
          std::min(ruler_.bucket(std::abs(q_time_ - k_times_[key + lane])), num_buckets - 1);
    }
    terms.time_buckets = load<Ints>(buckets);
    terms.value += gather(time_line_, terms.time_buckets);
  }

  const AttentionProblem& problem_;
  const PaddedLines& position_table_;
  const TimeBucketRuler& ruler_ = time_bucket_ruler();
  Row row_{};
  std::vector<int32_t> k_positions_;
  std::vector<char> consecutive_;  // of a vector of keys: do their positions follow each other?
  std::vector<double> k_times_;
  std::vector<double> earliest_, latest_;  // of a vector of keys
  int q_position_ = 0;
  float slope_ = 0;
  int first_entry_ = 0;
  const float* position_line_ = nullptr;
  double q_time_ = 0;
  const float* time_line_ = nullptr;
};

}  // namespace
}  // namespace torchrec_gr::cpu
