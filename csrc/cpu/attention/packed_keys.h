// The keys and values of a row and head, in the layouts that the products read.
#pragma once

#include "buffer.h"
#include "packing.h"
#include "query_block.h"

namespace torchrec_gr::cpu {
namespace {

// The tokens of one head, as rows.
template <class Element>
TokenRows<Element> head_rows(const Rows& rows, int64_t first, int head, int count, int width) {
  Element* data = static_cast<Element*>(rows.data);
  return {data + first * rows.token_stride + head * rows.head_stride, rows.token_stride, count,
          width};
}

// How many words and lanes a width takes.
template <class Word>
struct Width {
  explicit Width(int elements)
      : elements(elements),
        words((elements + Word::kDepth - 1) / Word::kDepth),
        padded_words(round_up(words, kLanes)),
        lanes(round_up(elements, kLanes)) {}

  int elements;
  int words;         // along the depth of a product
  int padded_words;  // the same in whole vectors
  int lanes;         // along the columns of a product
};

// Blocks of kKeyBlock tokens, each a right factor whose depth is the width and whose columns are
// the tokens: [words, kKeyBlock].
template <class Word>
class TransposedBlocks {
 public:
  template <class Element>
  void pack(TokenRows<const Element> rows, Width<Word> width) {
    block_size_ = width.padded_words * kKeyBlock;
    const int num_blocks = (rows.count + kKeyBlock - 1) / kKeyBlock;
    auto* words = words_.with_room_for(num_blocks * block_size_);
    for (int block = 0; block < num_blocks; ++block) {
      const auto tokens = rows.from(block * kKeyBlock, kKeyBlock);
      transpose<typename Word::Type>(round_up(tokens.count, kLanes), width.padded_words,
                                     whole_vectors(tokens, width),
                                     {words + block * block_size_, kKeyBlock});
    }
  }

  ByRows<const typename Word::Type> block(int index) const {
    return {words_.data() + index * block_size_, kKeyBlock};
  }

 private:
  // The tokens as words, in whole vectors both ways: where they lie, or a copy with zeros around.
  template <class Element>
  ByRows<const typename Word::Type> whole_vectors(TokenRows<const Element> tokens,
                                                  Width<Word> width) {
    if (kStoredAsWords<Word, Element> && tokens.count % kLanes == 0 &&
        width.elements == width.padded_words * Word::kDepth && tokens.step % Word::kDepth == 0) {
      return {reinterpret_cast<const typename Word::Type*>(tokens.data),
              tokens.step / Word::kDepth};
    }
    auto* copy = copy_.with_room_for(block_size_);
    pack_by_width<Word>(tokens, copy, width.padded_words);
    std::fill(copy + tokens.count * width.padded_words,
              copy + round_up(tokens.count, kLanes) * width.padded_words, 0);
    return {copy, width.padded_words};
  }

  int64_t block_size_ = 0;
  Buffer<typename Word::Type> words_;
  Buffer<typename Word::Type> copy_;
};

// Blocks of kKeyBlock tokens, each a right factor whose depth is the tokens and whose columns are
// the width: [kKeyBlock / kDepth, lanes].
template <class Word>
class RowBlocks {
 public:
  template <class Element>
  void pack(TokenRows<const Element> rows, Width<Word> width) {
    step_ = width.lanes;
    const int num_words = (rows.count + Word::kDepth - 1) / Word::kDepth;
    const int padded = round_up(num_words, kLanes);
    pack_by_row<Word>(rows, words_.with_room_for(padded * step_), step_, padded);
  }

  ByRows<const typename Word::Type> block(int index) const {
    return {words_.data() + index * (kKeyBlock / Word::kDepth) * step_, step_};
  }

 private:
  int64_t step_ = 0;
  Buffer<typename Word::Type> words_;
};

}  // namespace
}  // namespace torchrec_gr::cpu
