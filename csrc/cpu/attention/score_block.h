// A block of numbers, one for a query and a key, in the layouts in which products read it.
#pragma once

#include "buffer.h"
#include "product.h"
#include "query_block.h"

namespace torchrec_gr::cpu {
namespace {

enum class Layouts { kByKey, kByKeyAndQuery };

// Floats lie in one place for both layouts.
template <class Word, Layouts kLayouts>
class ScoreBlock {
 public:
  void set(int query, int column, Floats values) {
    store(values_.data() + query * kKeyBlock + column, values);
  }

  // [queries, keys], the keys being the depth of a product.
  LeftFactor<Word> by_query(int query, int column) const {
    return {values_.data() + query * kKeyBlock + column, kKeyBlock, 1};
  }

  // [queries, keys], the queries being the depth.
  ByRows<const float> by_key(int query, int column) const {
    return {values_.data() + query * kKeyBlock + column, kKeyBlock};
  }

 private:
  Buffer<float> values_{kQueryBlock * kKeyBlock};
};

// Pairs along the keys lie apart from pairs along the queries.
template <class Word, Layouts kLayouts>
  requires(Word::kDepth == 2)
class ScoreBlock<Word, kLayouts> {
 public:
  void set(int query, int column, Floats values) {
    const Words rounded = round_to_upper_half(values);
    if constexpr (kLayouts == Layouts::kByKeyAndQuery) {
      store_upper_halves(by_query_.data() + query * kKeyBlock + column, rounded);
    }
    uint32_t* pairs = by_key_.data() + query / 2 * kKeyBlock + column;
    if (query % 2 == 0) {
      store(pairs, rounded >> 16);
    } else {
      store(pairs, load<Words>(pairs) | (rounded & 0xffff0000u));
    }
  }

  LeftFactor<Word> by_query(int query, int column) const {
    return {reinterpret_cast<const uint32_t*>(by_query_.data() + query * kKeyBlock + column),
            kKeyBlock / 2, 1};
  }

  ByRows<const uint32_t> by_key(int query, int column) const {
    return {by_key_.data() + query / 2 * kKeyBlock + column, kKeyBlock};
  }

 private:
  Buffer<uint16_t> by_query_{kQueryBlock * kKeyBlock};
  Buffer<uint32_t> by_key_{kQueryBlock / 2 * kKeyBlock};
};

}  // namespace
}  // namespace torchrec_gr::cpu
