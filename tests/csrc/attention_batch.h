// Random inputs of a case, in buffers that end where the tensors end.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "attention.h"
#include "attention_cases.h"

namespace torchrec_gr {

// A tensor [tokens, heads, width] of a layout. Bytes that nobody has written are 0xff: elements of
// such bytes are NaN.
class Tensor {
 public:
  Tensor() = default;

  // `border`: elements before the first and after the last, which are not the tensor's. An empty
  // tensor has no memory at all.
  Tensor(ElementType type, int64_t num_tokens, int num_heads, int width,
         Layout layout = Layout::kContiguous, int64_t border = 0)
      : type_(type),
        layout_(layout),
        num_tokens_(num_tokens),
        num_heads_(num_heads),
        width_(width) {
    const int gap = layout == Layout::kContiguous ? 0 : 3;
    const bool heads_first = layout == Layout::kHeadsFirst;
    head_stride_ = heads_first ? num_tokens * (width + gap) : width + gap;
    token_stride_ = heads_first ? width + gap : num_heads * (width + gap) + gap;
    if (num_tokens * num_heads * width == 0) return;
    first_ = border;
    const int64_t last = index(num_tokens - 1, num_heads - 1, width - 1);
    bytes_.assign((last + 1 + border) * element_size(), '\xff');
  }

  // Of the same type, shape and layout, nothing written.
  Tensor unwritten(int64_t border) const {
    return Tensor(type_, num_tokens_, num_heads_, width_, layout_, border);
  }

  Tensor copy_without_border() const {
    Tensor copy = unwritten(0);
    for_each([&](int64_t token, int head, int column) {
      copy.set(token, head, column, get(token, head, column));
    });
    return copy;
  }

  ElementType type() const { return type_; }
  int width() const { return width_; }
  const std::vector<char>& bytes() const { return bytes_; }

  void* data() { return bytes_.empty() ? nullptr : &bytes_[first_ * element_size()]; }
  float* floats() { return static_cast<float*>(data()); }
  Rows rows() { return {data(), token_stride_, head_stride_}; }

  float get(int64_t token, int head, int column) const {
    const char* from = &bytes_[index(token, head, column) * element_size()];
    if (type_ == ElementType::kFloat32) return read<float>(from);
    return std::bit_cast<float>(static_cast<uint32_t>(read<uint16_t>(from)) << 16);
  }

  // Rounds to the nearest bfloat16, ties to even, where that is the type.
  void set(int64_t token, int head, int column, float value) {
    char* to = &bytes_[index(token, head, column) * element_size()];
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint16_t upper = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    if (type_ == ElementType::kFloat32) {
      std::memcpy(to, &value, sizeof value);
    } else {
      std::memcpy(to, &upper, sizeof upper);
    }
  }

  // Calls visit(token, head, column) for every element.
  template <class Visit>
  void for_each(Visit visit) const {
    for (int64_t token = 0; token < num_tokens_; ++token) {
      for (int head = 0; head < num_heads_; ++head) {
        for (int column = 0; column < width_; ++column) visit(token, head, column);
      }
    }
  }

  // Whether only elements of the tensor were written, neither gaps nor borders.
  bool is_clean_around() const {
    Tensor rest = *this;
    for (int64_t token = 0; token < num_tokens_; ++token) {
      for (int head = 0; head < num_heads_; ++head) {
        std::memset(&rest.bytes_[index(token, head, 0) * element_size()], 0xff,
                    width_ * element_size());
      }
    }
    return std::all_of(rest.bytes_.begin(), rest.bytes_.end(),
                       [](char byte) { return byte == '\xff'; });
  }

 private:
  template <class Type>
  static Type read(const char* from) {
    Type value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }

  int64_t element_size() const { return type_ == ElementType::kFloat32 ? 4 : 2; }

  int64_t index(int64_t token, int head, int column) const {
    return first_ + token * token_stride_ + head * head_stride_ + column;
  }

  ElementType type_ = ElementType::kFloat32;
  Layout layout_ = Layout::kContiguous;
  int64_t num_tokens_ = 0;
  int num_heads_ = 0;
  int width_ = 0;
  int64_t token_stride_ = 0;
  int64_t head_stride_ = 0;
  int64_t first_ = 0;
  std::vector<char> bytes_;
};

inline Tensor normal_tensor(Draw& draw, ElementType type, int64_t num_tokens, int num_heads,
                            int width, Layout layout = Layout::kContiguous, float deviation = 1) {
  Tensor tensor(type, num_tokens, num_heads, width, layout);
  tensor.for_each([&](int64_t token, int head, int column) {
    tensor.set(token, head, column, deviation * draw.normal());
  });
  return tensor;
}

// The inputs of a case. No vector has room to spare: a sanitizer finds what is read past the last
// element.
class Batch {
 public:
  Batch(const Case& c, ElementType type)
      : case_(c), type_(type), draw_(std::hash<std::string>()(c.name)) {
    for (const Lengths& row : c.rows) {
      q_offsets_.push_back(q_offsets_.back() + row.num_queries);
      k_offsets_.push_back(k_offsets_.back() + row.num_keys);
      max_seq_len_ = std::max({max_seq_len_, row.num_queries, row.num_keys});
    }
    for (const Lengths& row : c.rows) {
      draw_spans(row);
      draw_times(row);
      draw_positions(row);
    }
    const int heads = c.num_heads, lines = c.bias.is_shared ? 1 : heads;
    q = normal_tensor(draw_, type, num_queries(), heads, c.qk_dim, c.layout);
    k = normal_tensor(draw_, type, num_keys(), heads, c.qk_dim, c.layout);
    v = normal_tensor(draw_, type, num_keys(), heads, c.v_dim, c.layout);
    grad_output = normal_tensor(draw_, type, num_queries(), heads, c.v_dim, c.layout);
    slopes = table(c.bias.slopes, heads, 1);
    position_table = table(c.bias.position_table, lines, 2 * max_seq_len_ - 1);
    time_table = table(c.bias.time_table, lines, kNumBuckets);
    for (auto* places : {&start_, &end_, &own_, &q_positions_, &k_positions_}) {
      places->shrink_to_fit();
    }
    for (auto* values : {&q_offsets_, &k_offsets_, &q_times_, &k_times_}) values->shrink_to_fit();
  }

  int64_t num_queries() const { return q_offsets_.back(); }
  int64_t num_keys() const { return k_offsets_.back(); }
  int max_seq_len() const { return max_seq_len_; }

  AttentionProblem problem(float scale) {
    AttentionProblem problem{};
    problem.type = type_;
    problem.num_rows = static_cast<int64_t>(case_.rows.size());
    problem.num_heads = case_.num_heads;
    problem.qk_dim = case_.qk_dim;
    problem.v_dim = case_.v_dim;
    problem.max_seq_len = max_seq_len_;
    problem.q_offsets = q_offsets_.data();
    problem.k_offsets = k_offsets_.data();
    problem.start = start_.data();
    problem.end = end_.data();
    problem.own = case_.own == Own::kTrailing ? nullptr : own_.data();
    problem.q = q.rows();
    problem.k = k.rows();
    problem.v = v.rows();
    problem.bias = bias();
    problem.alpha = 1 / std::sqrt(static_cast<float>(case_.qk_dim));
    problem.scale = scale;
    return problem;
  }

  Tensor q, k, v, grad_output;
  Tensor slopes, position_table, time_table;  // empty where the bias lacks the term

 private:
  static constexpr int kNumBuckets = 20;
  static constexpr int64_t kUnknown = std::numeric_limits<int64_t>::min();

  Tensor table(bool is_there, int num_lines, int width) {
    constexpr float kSmall = 0.1f;  // times a long distance, a slope still leaves other terms a say
    if (!is_there) return Tensor();
    return normal_tensor(draw_, ElementType::kFloat32, num_lines, 1, width, Layout::kContiguous,
                         kSmall);
  }

  Bias bias() {
    const auto table = [this](Tensor& tensor) {
      return BiasTable{tensor.floats(), case_.bias.is_shared ? 0 : tensor.width(), tensor.width()};
    };
    Bias bias;
    bias.slopes = slopes.floats();
    bias.position_table = table(position_table);
    bias.time_table = table(time_table);
    bias.k_times = k_times_.data();
    if (case_.bias.is_given) {
      bias.q_positions = q_positions_.data();
      bias.k_positions = k_positions_.data();
      bias.q_times = q_times_.data();
    }
    return bias;
  }

  void draw_spans(const Lengths& row) {
    const auto [queries, keys] = row;
    const int history = keys - keys / 4;
    for (int query = 0; query < queries; ++query) {
      const int own = draw_own(row, query), place = own < 0 ? draw_.between(0, keys) : own;
      own_.push_back(own);
      switch (case_.spans) {
        case Spans::kCausal:
          push_span(0, place);
          break;
        case Spans::kWindow:
          push_span(place - 5, place);
          break;
        case Spans::kCandidates:
          push_span(0, std::min(place, history));
          break;
        case Spans::kRandom:
          push_span(random_place(keys), random_place(keys));
      }
    }
  }

  // -1, for none, where the row has no key; at times also where no term of the bias needs one.
  int draw_own(const Lengths& row, int query) {
    if (case_.own == Own::kTrailing) return row.num_keys - row.num_queries + query;
    const BiasKind& bias = case_.bias;
    const bool is_needed =
        !bias.is_given && (bias.slopes || bias.position_table || bias.time_table);
    if (case_.own == Own::kNone || row.num_keys == 0) return -1;
    return draw_.between(is_needed ? 0 : -1, row.num_keys - 1);
  }

  void push_span(int start, int end) {
    start_.push_back(start);
    end_.push_back(end);
  }

  // In the row, a little outside of it or as far as can be.
  int random_place(int num_keys) {
    constexpr int kFar = std::numeric_limits<int>::max();
    return draw_.one_in(10) ? draw_.among({-kFar - 1, kFar}) : draw_.between(-3, num_keys + 3);
  }

  // From second to second, year to year and all between, in order but for those not known.
  void draw_times(const Lengths& row) {
    int64_t time = 1'600'000'000;
    for (int key = 0; key < row.num_keys; ++key) {
      k_times_.push_back(draw_.one_in(10) ? kUnknown : time);
      time += draw_.one_in(4) ? 0 : int64_t{1} << draw_.between(0, 28);
    }
    for (int query = 0; query < row.num_queries; ++query) {
      q_times_.push_back(draw_.one_in(10) ? kUnknown : time - (1 << draw_.between(0, 28)));
    }
  }

  // Keys follow each other from some place on, or stand anywhere.
  void draw_positions(const Lengths& row) {
    const int last = max_seq_len_ - 1, first = draw_.between(0, last - row.num_keys);
    const bool consecutive = draw_.one_in(2);
    for (int key = 0; key < row.num_keys; ++key) {
      k_positions_.push_back(consecutive ? first + key : draw_.between(0, last));
    }
    for (int query = 0; query < row.num_queries; ++query) {
      q_positions_.push_back(draw_.between(0, last));
    }
  }

  const Case& case_;
  const ElementType type_;
  Draw draw_;
  int max_seq_len_ = 1;
  std::vector<int64_t> q_offsets_{0}, k_offsets_{0};
  std::vector<int32_t> start_, end_, own_;
  std::vector<int32_t> q_positions_, k_positions_;
  std::vector<int64_t> q_times_, k_times_;
};

}  // namespace torchrec_gr
