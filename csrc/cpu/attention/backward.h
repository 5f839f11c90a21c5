// The backward pass of attention over a task's rows.
//
// For a block of queries, block after block of the keys that they see, with g the gradient of the
// output; weights and gradients of scores are those of a block, never of a row:
//     scores          = queries * keys^T
//     weight_gradient = g * values^T
//     weights, score_gradient from both, 0 where a query does not see the key
//     dqueries += score_gradient * keys
//     dkeys^T   += queries^T * score_gradient
//     dvalues^T += g^T * weights
// A row that is cut into parts leaves the sums of its keys in `partials`, to be added up.
#pragma once

#include "forward.h"
#include "partial_sums.h"
#include "score_block.h"

namespace torchrec_gr::cpu {
namespace {

template <class Element, class Word, class Activation>
class Backward {
  static constexpr int kGroup = Word::kGroup;
  using Block = QueryBlock<kGroup>;

 public:
  Backward(const AttentionProblem& problem, const AttentionGradients& gradients,
           const PaddedLines& position_table, PartialSums& partials)
      : problem_(problem),
        gradients_(gradients),
        partials_(partials),
        qk_(problem.qk_dim),
        v_(problem.v_dim),
        bias_(problem, position_table),
        bias_gradients_(problem),
        queries_(qk_),
        grads_(v_) {}

  const BiasGradients& bias_gradients() const { return bias_gradients_; }

  void run(const Task& task) {
    for (int64_t index = task.row_begin; index < task.row_end; ++index) {
      const Row row = row_of(problem_, index);
      const int q_end = std::min(task.q_end, row.num_queries);
      if (bias_.present() && row.num_keys > 0) bias_.set_row(row);
      for (int head = task.head_begin; head < task.head_end; ++head) {
        begin_keys(row, head);
        for (int first = task.q_begin; first < q_end; first += kQueryBlock) {
          attend(row, head, Block(problem_, row, first, q_end));
        }
        finish_keys(row, head, task);
      }
    }
  }

 private:
  // Of a block of scores, what holds anything.
  struct VisibleBlock {
    int key_block;
    KeyRange groups;
    KeyRange columns;
    KeyRange seen[kMostGroups];

    VisibleBlock(const Block& queries, int key_block) : key_block(key_block) {
      for (int group = 0; group < queries.num_groups(); ++group) {
        seen[group] = queries.visible_part(group, key_block);
        if (!seen[group].empty()) groups = groups.unite({group, group + 1});
        columns = columns.unite(seen[group].in_steps_of(kLanes));
      }
    }

    // The groups among which are all that see a vector of keys.
    KeyRange groups_at(int column) const {
      KeyRange seeing;
      for (int group = groups.begin; group < groups.end; ++group) {
        const KeyRange part = seen[group].in_steps_of(kLanes);
        if (part.begin <= column && column < part.end) seeing = seeing.unite({group, group + 1});
      }
      return seeing;
    }
  };

  void begin_keys(const Row& row, int head) {
    const auto k =
        head_rows<const Element>(problem_.k, row.first_key, head, row.num_keys, qk_.elements);
    const auto v =
        head_rows<const Element>(problem_.v, row.first_key, head, row.num_keys, v_.elements);
    keys_transposed_.pack(k, qk_);
    keys_.pack(k, qk_);
    values_transposed_.pack(v, v_);
    const size_t num_blocks = (row.num_keys + kKeyBlock - 1) / kKeyBlock;
    const size_t dkeys_size = num_blocks * qk_.lanes * kKeyBlock;
    const size_t dvalues_size = num_blocks * v_.lanes * kKeyBlock;
    std::fill_n(dkeys_.with_room_for(dkeys_size), dkeys_size, 0.0f);
    std::fill_n(dvalues_.with_room_for(dvalues_size), dvalues_size, 0.0f);
  }

  void attend(const Row& row, int head, const Block& block) {
    read_queries(row, head, block);
    std::fill_n(dqueries_.with_room_for(kQueryBlock * qk_.lanes), block.count * qk_.lanes, 0.0f);
    const KeyRange key_blocks = block.key_blocks();
    for (int key_block = key_blocks.begin; key_block < key_blocks.end; ++key_block) {
      const VisibleBlock visible(block, key_block);
      for (int group = visible.groups.begin; group < visible.groups.end; ++group) {
        clear_unseen(group, visible);
        if (!visible.seen[group].empty()) {
          attend_group(head, block, group, key_block, visible.seen[group]);
        }
      }
      add_to_keys(visible, block.count);
    }
    write_rows<Element>({dqueries_.data(), qk_.lanes}, problem_.alpha * problem_.scale,
                        head_rows<Element>(gradients_.dq, row.first_query + block.first, head,
                                           block.count, qk_.elements));
  }

  void read_queries(const Row& row, int head, const Block& block) {
    const int64_t first = row.first_query + block.first;
    queries_.pack(head_rows<const Element>(problem_.q, first, head, block.count, qk_.elements));
    const auto grads =
        head_rows<const Element>(gradients_.grad_output, first, head, block.count, v_.elements);
    grads_.pack(grads);
    if constexpr (Activation::kNormalized) {
      const auto outputs =
          head_rows<const Element>(gradients_.output, first, head, block.count, v_.elements);
      for (int query = 0; query < block.count; ++query) {
        float delta = 0;
        for (int i = 0; i < v_.elements; ++i) {
          delta += to_float(grads.data[query * grads.step + i]) *
                   to_float(outputs.data[query * outputs.step + i]);
        }
        statistics_[query] = {gradients_.log_sum_exp[(first + query) * problem_.num_heads + head],
                              delta};
      }
    }
  }

  // Zeros where other groups see keys and this one does not: the products over queries read them.
  void clear_unseen(int group, const VisibleBlock& visible) {
    const KeyRange part = visible.seen[group].in_steps_of(kLanes);
    for (int query = group * kGroup; query < (group + 1) * kGroup; ++query) {
      for (int column = visible.columns.begin; column < visible.columns.end; column += kLanes) {
        if (part.begin <= column && column < part.end) continue;
        weights_.set(query, column, Floats{});
        score_gradients_.set(query, column, Floats{});
      }
    }
  }

  void attend_group(int head, const Block& block, int group, int key_block, KeyRange seen) {
    const int first = group * kGroup, count = block.group_size(group);
    const KeyRange part = seen.in_steps_of(kLanes), depth = seen.in_steps_of(Word::kDepthStep);
    float* products = products_.data() + part.begin;
    float* weight_gradients = weight_gradients_.data() + part.begin;
    multiply<Word, Sum::kBegin>(count, part.size(), qk_.words, queries_.by_width(first),
                                keys_transposed_.block(key_block).at(0, part.begin),
                                {products, kKeyBlock});
    multiply<Word, Sum::kBegin>(count, part.size(), v_.words, grads_.by_width(first),
                                values_transposed_.block(key_block).at(0, part.begin),
                                {weight_gradients, kKeyBlock});
    for (int i = 0; i < count; ++i) {
      const int query = first + i;
      if (bias_.present()) {
        bias_.set_query(head, block.first + query, block.spans[query]);
        weigh<true>(head, block.spans[query], query, key_block * kKeyBlock, part);
      } else {
        weigh<false>(head, block.spans[query], query, key_block * kKeyBlock, part);
      }
    }
    multiply<Word, Sum::kContinue>(count, qk_.lanes, depth.size() / Word::kDepth,
                                   score_gradients_.by_query(first, depth.begin),
                                   keys_.block(key_block).at(depth.begin / Word::kDepth, 0),
                                   {dqueries_.data() + first * qk_.lanes, qk_.lanes});
  }

  // Turns the products of one query into its weights and the gradients of its scores.
  template <bool kBiased>
  void weigh(int head, const Span& span, int query, int first_key, KeyRange part) {
    const float* products = products_.data() + query % kGroup * kKeyBlock;
    const float* weight_gradients = weight_gradients_.data() + query % kGroup * kKeyBlock;
    const QueryStatistics statistics = statistics_[query];
    for (int column = part.begin; column < part.end; column += kLanes) {
      const int key = first_key + column;
      Floats score = problem_.alpha * load<Floats>(products + column);
      BiasTerms terms;
      if constexpr (kBiased) {
        terms = bias_.terms(key);
        score += terms.value;
      }
      auto [weight, gradient] =
          Activation::backward(score, load<Floats>(weight_gradients + column), statistics);
      if (!all_visible(span, key)) {
        const Ints visible = visible_lanes(span, key);
        weight = visible ? weight : Floats{};
        gradient = visible ? gradient : Floats{};
      }
      weights_.set(query, column, weight);
      score_gradients_.set(query, column, gradient);
      if constexpr (kBiased) bias_gradients_.add(head, terms, gradient);
    }
  }

  // Adds what the queries of a block give to the gradients of its keys and values. Neighbouring
  // vectors of keys that the same groups see go together.
  void add_to_keys(const VisibleBlock& visible, int num_queries) {
    const KeyRange columns = visible.columns;
    for (int column = columns.begin; column < columns.end;) {
      const KeyRange groups = visible.groups_at(column);
      int end = column + kLanes;
      while (end < columns.end && visible.groups_at(end) == groups) end += kLanes;
      if (!groups.empty()) {
        const int first = groups.begin * kGroup;
        const int count = std::min(groups.end * kGroup, num_queries) - first;
        const int depth = (count + Word::kDepth - 1) / Word::kDepth;
        multiply<Word, Sum::kContinue>(qk_.elements, end - column, depth,
                                       queries_.transposed(first),
                                       score_gradients_.by_key(first, column),
                                       block_of(dkeys_, qk_, visible.key_block).at(0, column));
        multiply<Word, Sum::kContinue>(v_.elements, end - column, depth, grads_.transposed(first),
                                       weights_.by_key(first, column),
                                       block_of(dvalues_, v_, visible.key_block).at(0, column));
      }
      column = end;
    }
  }

  // The sums of a block of keys: [width, keys].
  static ByRows<float> block_of(const Buffer<float>& sums, const Width<Word>& width, int block) {
    return {sums.data() + static_cast<int64_t>(block) * width.lanes * kKeyBlock, kKeyBlock};
  }

  void finish_keys(const Row& row, int head, const Task& task) {
    const float of_keys = problem_.alpha * problem_.scale, of_values = problem_.scale;
    if (task.cut >= 0) {
      write_keys(dkeys_, qk_, of_keys, partials_.dkeys(task.cut, task.part));
      write_keys(dvalues_, v_, of_values, partials_.dvalues(task.cut, task.part));
      return;
    }
    const int64_t first = row.first_key;
    write_keys(dkeys_, qk_, of_keys,
               head_rows<Element>(gradients_.dk, first, head, row.num_keys, qk_.elements));
    write_keys(dvalues_, v_, of_values,
               head_rows<Element>(gradients_.dv, first, head, row.num_keys, v_.elements));
  }

  template <class Out>
  void write_keys(const Buffer<float>& sums, const Width<Word>& width, float factor,
                  TokenRows<Out> rows) {
    float* by_key = by_key_.with_room_for(kKeyBlock * width.lanes);
    for (int block = 0; block * kKeyBlock < rows.count; ++block) {
      const auto of_block = block_of(sums, width, block);
      transpose<float>(width.lanes, kKeyBlock, {of_block.data, of_block.step},
                       {by_key, width.lanes});
      write_rows<Out>({by_key, width.lanes}, factor, rows.from(block * kKeyBlock, kKeyBlock));
    }
  }

  const AttentionProblem& problem_;
  const AttentionGradients& gradients_;
  PartialSums& partials_;
  const Width<Word> qk_;
  const Width<Word> v_;
  RowBias bias_;
  BiasGradients bias_gradients_;
  TransposedBlocks<Word> keys_transposed_;
  TransposedBlocks<Word> values_transposed_;
  RowBlocks<Word> keys_;
  PackedQueries<Word> queries_;
  PackedQueries<Word> grads_;
  QueryStatistics statistics_[kQueryBlock];
  Buffer<float> products_{kGroup * kKeyBlock};          // of queries and keys
  Buffer<float> weight_gradients_{kGroup * kKeyBlock};  // those of outputs and values
  ScoreBlock<Word, Layouts::kByKey> weights_;
  ScoreBlock<Word, Layouts::kByKeyAndQuery> score_gradients_;
  Buffer<float> dqueries_;  // [kQueryBlock, lanes of qk]
  Buffer<float> dkeys_;     // [blocks, lanes of qk, kKeyBlock]
  Buffer<float> dvalues_;   // [blocks, lanes of v, kKeyBlock]
  Buffer<float> by_key_;    // [kKeyBlock, lanes]
};

}  // namespace
}  // namespace torchrec_gr::cpu
