// The forward pass of attention over a task's rows.
//
// For a block of queries, block after block of the keys that they see:
//     scores  = queries * keys^T          (8 queries at a time, the keys that one of them sees)
//     weights = activation(alpha * scores + bias), 0 where a query does not see the key
//     output += weights * values
// Nothing is larger than a block of scores. Softmax keeps every query's largest score and sum of
// weights so far, and scales the output down when a larger score comes (Milakov and Gimelshein,
// 1805.02867).
#pragma once

#include <cmath>
#include <limits>

#include "activation.h"
#include "bias.h"
#include "packed_queries.h"
#include "schedule.h"

namespace torchrec_gr::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class Element, class Word, class Activation>
class Forward {
  static constexpr int kGroup = Word::kGroup;
  using Block = QueryBlock<kGroup>;

 public:
  Forward(const AttentionProblem& problem, const AttentionOutput& output,
          const PaddedLines& position_table)
      : problem_(problem),
        output_(output),
        qk_(problem.qk_dim),
        v_(problem.v_dim),
        bias_(problem, position_table),
        queries_(qk_),
        sums_(kQueryBlock * v_.lanes) {}

  void run(const Task& task) {
    for (int64_t index = task.row_begin; index < task.row_end; ++index) {
      const Row row = row_of(problem_, index);
      const int q_end = std::min(task.q_end, row.num_queries);
      if (task.q_begin >= q_end) continue;
      if (bias_.present() && row.num_keys > 0) bias_.set_row(row);
      for (int head = task.head_begin; head < task.head_end; ++head) {
        keys_.pack(
            head_rows<const Element>(problem_.k, row.first_key, head, row.num_keys, qk_.elements),
            qk_);
        values_.pack(
            head_rows<const Element>(problem_.v, row.first_key, head, row.num_keys, v_.elements),
            v_);
        for (int first = task.q_begin; first < q_end; first += kQueryBlock) {
          attend(row, head, Block(problem_, row, first, q_end));
        }
      }
    }
  }

 private:
  void attend(const Row& row, int head, const Block& block) {
    queries_.pack(head_rows<const Element>(problem_.q, row.first_query + block.first, head,
                                           block.count, qk_.elements));
    std::fill_n(sums_.data(), block.count * v_.lanes, 0.0f);
    std::fill_n(largest_, kQueryBlock, -kInfinity);
    std::fill_n(total_, kQueryBlock, 0.0f);
    const KeyRange key_blocks = block.key_blocks();
    for (int key_block = key_blocks.begin; key_block < key_blocks.end; ++key_block) {
      for (int group = 0; group < block.num_groups(); ++group) {
        const KeyRange seen = block.visible_part(group, key_block);
        if (!seen.empty()) attend_group(head, block, group, key_block, seen);
      }
    }
    write_output(row, head, block);
  }

  void attend_group(int head, const Block& block, int group, int key_block, KeyRange seen) {
    const int first = group * kGroup, count = block.group_size(group);
    const KeyRange part = seen.in_steps_of(kLanes), depth = seen.in_steps_of(Word::kDepthStep);
    multiply<Word, Sum::kBegin>(count, part.size(), qk_.words, queries_.by_width(first),
                                keys_.block(key_block).at(0, part.begin),
                                {scores_.data() + part.begin, kKeyBlock});
    for (int i = 0; i < count; ++i) {
      const int query = first + i;
      if (bias_.present()) {
        bias_.set_query(head, block.first + query, block.spans[query]);
        weigh<true>(block.spans[query], query, i, key_block * kKeyBlock, part);
      } else {
        weigh<false>(block.spans[query], query, i, key_block * kKeyBlock, part);
      }
    }
    multiply<Word, Sum::kContinue>(
        count, v_.lanes, depth.size() / Word::kDepth,
        {weights_.data() + depth.begin / Word::kDepth, kKeyBlock / Word::kDepth, 1},
        values_.block(key_block).at(depth.begin / Word::kDepth, 0),
        {sums_.data() + first * v_.lanes, v_.lanes});
  }

  // alpha * q.k + bias of kLanes keys.
  template <bool kBiased>
  Floats score(const float* products, int key) const {
    Floats score = problem_.alpha * load<Floats>(products);
    if constexpr (kBiased) {
      const BiasTerms terms = bias_.terms(key);
      score += terms.value;
    }
    return score;
  }

  // Turns the scores of one query into weights.
  template <bool kBiased>
  void weigh(const Span& span, int query, int place, int first_key, KeyRange part) {
    float* scores = scores_.data() + place * kKeyBlock;
    auto* weights = reinterpret_cast<typename Word::Element*>(weights_.data()) + place * kKeyBlock;
    if constexpr (Activation::kNormalized) {
      weigh_normalized<kBiased>(span, query, scores, weights, first_key, part);
    } else {
      for (int column = part.begin; column < part.end; column += kLanes) {
        const int key = first_key + column;
        Floats weight = Activation::weight(score<kBiased>(scores + column, key));
        if (!all_visible(span, key)) weight = visible_lanes(span, key) ? weight : Floats{};
        store_as(weights + column, weight);
      }
    }
  }

  template <bool kBiased>
  void weigh_normalized(const Span& span, int query, float* scores, typename Word::Element* weights,
                        int first_key, KeyRange part) {
    Floats largest_lanes = broadcast(largest_[query]);
    for (int column = part.begin; column < part.end; column += kLanes) {
      const int key = first_key + column;
      Floats x = score<kBiased>(scores + column, key);
      if (!all_visible(span, key)) x = visible_lanes(span, key) ? x : broadcast(-kInfinity);
      largest_lanes = x > largest_lanes ? x : largest_lanes;
      store(scores + column, x);
    }
    const float largest = max(largest_lanes);
    if (largest > largest_[query]) scale_down(query, largest);
    Floats total{};
    for (int column = part.begin; column < part.end; column += kLanes) {
      const Floats x = load<Floats>(scores + column);
      // A query that has seen no key has a largest score of -inf, from which x must not be taken.
      const Floats weight = x == -kInfinity ? Floats{} : exp(x - largest);
      total += weight;
      store_as(weights + column, weight);
    }
    total_[query] += sum(total);
  }

  void scale_down(int query, float largest) {
    const float factor = std::exp(largest_[query] - largest);
    float* sums = sums_.data() + query * v_.lanes;
    for (int column = 0; column < v_.lanes; column += kLanes) {
      store(sums + column, load<Floats>(sums + column) * factor);
    }
    total_[query] *= factor;
    largest_[query] = largest;
  }

  void write_output(const Row& row, int head, const Block& block) {
    const auto rows = head_rows<Element>(output_.output, row.first_query + block.first, head,
                                         block.count, v_.elements);
    if constexpr (!Activation::kNormalized) {
      write_rows<Element>({sums_.data(), v_.lanes}, problem_.scale, rows);
    } else {
      for (int query = 0; query < block.count; ++query) {
        const float total = total_[query];
        write_rows<Element>({sums_.data() + query * v_.lanes, v_.lanes},
                            total == 0 ? 0.0f : 1.0f / total, rows.from(query, 1));
        const int64_t token = row.first_query + block.first + query;
        output_.log_sum_exp[token * problem_.num_heads + head] =
            total == 0 ? -kInfinity : largest_[query] + std::log(total);
      }
    }
  }

  const AttentionProblem& problem_;
  const AttentionOutput& output_;
  const Width<Word> qk_;
  const Width<Word> v_;
  RowBias bias_;
  TransposedBlocks<Word> keys_;
  RowBlocks<Word> values_;
  PackedQueries<Word> queries_;
  Buffer<float> scores_{kGroup * kKeyBlock};
  Buffer<typename Word::Type> weights_{kGroup * kKeyBlock};
  Buffer<float> sums_;          // [kQueryBlock, lanes of v]
  float largest_[kQueryBlock];  // of every query's scores so far
  float total_[kQueryBlock];    // of exp(score - largest)
};

}  // namespace
}  // namespace torchrec_gr::cpu
