// The queries of a block, or the gradients of their outputs, in the two layouts that products read.
#pragma once

#include "packed_keys.h"

namespace torchrec_gr::cpu {
namespace {

template <class Word>
class PackedQueries {
 public:
  explicit PackedQueries(Width<Word> width)
      : width_(width), by_width_(kQueryBlock * width.padded_words) {}

  template <class Element>
  void pack(TokenRows<const Element> rows) {
    pack_by_width<Word>(rows, by_width_.data(), width_.padded_words);
    if constexpr (Word::kDepth > 1) {
      const int num_words = (rows.count + Word::kDepth - 1) / Word::kDepth;
      by_query_.pack(rows, width_);
      if constexpr (Word::kTransposedByRows) {
        transpose<typename Word::Type>(
            round_up(num_words, kLanes), width_.lanes, {by_query_.block(0).data, width_.lanes},
            {transposed_.with_room_for(width_.lanes * kQueryBlock), kQueryBlock});
      }
    }
  }

  // [queries, width], the width being the depth.
  LeftFactor<Word> by_width(int query) const {
    return {by_width_.data() + query * width_.padded_words, width_.padded_words, 1};
  }

  // [width, queries], the queries being the depth.
  LeftFactor<Word> transposed(int query) const {
    if constexpr (Word::kDepth == 1) {
      return {by_width_.data() + query * width_.padded_words, 1, width_.padded_words};
    } else if constexpr (Word::kTransposedByRows) {
      return {transposed_.data() + query / Word::kDepth, kQueryBlock, 1};
    } else {
      return {by_query_.block(0).at(query / Word::kDepth, 0).data, 1, width_.lanes};
    }
  }

 private:
  Width<Word> width_;
  Buffer<typename Word::Type> by_width_;
  RowBlocks<Word> by_query_;                // for pairs along the queries
  Buffer<typename Word::Type> transposed_;  // for tiles
};

}  // namespace
}  // namespace torchrec_gr::cpu
