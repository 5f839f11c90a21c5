// From rows of a tensor to the factors of products, and from sums back to rows.
#pragma once

#include <utility>

#include "product.h"
#ifdef TORCHREC_GR_TILES
#include "tile_product.h"
#endif

namespace torchrec_gr::cpu {
namespace {

constexpr int round_up(int count, int multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

// Some tokens' vectors of one head: `count` rows of `width` elements, `step` apart.
template <class Element>
struct TokenRows {
  Element* data;
  int64_t step;
  int count;
  int width;

  TokenRows from(int first, int most) const {
    return {data + first * step, step, std::min(count - first, most), width};
  }
};

// Whether elements next to each other already are the words of a product.
template <class Word, class Element>
constexpr bool kStoredAsWords = sizeof(Element) * Word::kDepth == sizeof(typename Word::Type);

// Rows as a left factor: words along the width, [count, step], zeros after the last of them.
template <class Word, class Element>
void pack_by_width(TokenRows<const Element> rows, typename Word::Type* packed, int step) {
  const int whole = rows.width / Word::kDepth;
  for (int row = 0; row < rows.count; ++row) {
    const Element* from = rows.data + row * rows.step;
    typename Word::Type* to = packed + static_cast<int64_t>(row) * step;
    if constexpr (kStoredAsWords<Word, Element>) {
      std::memcpy(to, from, whole * sizeof(typename Word::Type));
    } else {
      for (int word = 0; word < whole; ++word) to[word] = Word::pack(from + word, 1);
    }
    int word = whole;
    if (rows.width % Word::kDepth != 0) to[word++] = Word::pack_last(from + rows.width - 1);
    for (; word < step; ++word) to[word] = 0;
  }
}

// Rows as a right factor whose depth they are: words along the rows, [words, width], zeros up to
// `step` columns and `num_words` words.
template <class Word, class Element>
void pack_by_row(TokenRows<const Element> rows, typename Word::Type* packed, int step,
                 int num_words) {
  for (int word = 0; word < num_words; ++word) {
    const int row = word * Word::kDepth;
    const Element* from = rows.data + row * rows.step;
    typename Word::Type* to = packed + static_cast<int64_t>(word) * step;
    int column = 0;
    if (row + Word::kDepth <= rows.count) {
      for (; column < rows.width; ++column) to[column] = Word::pack(from + column, rows.step);
    } else if (row < rows.count) {
      for (; column < rows.width; ++column) to[column] = Word::pack_last(from + column);
    }
    for (; column < step; ++column) to[column] = 0;
  }
}

template <int kStep>
inline void swap_blocks(Floats (&lines)[kLanes]) {
  Ints upper, lower;
  for (int lane = 0; lane < kLanes; ++lane) {
    upper[lane] = lane & kStep ? kLanes + lane - kStep : lane;
    lower[lane] = lane & kStep ? kLanes + lane : lane + kStep;
  }
#pragma GCC unroll 16
  for (int line = 0; line < kLanes; ++line) {
    if (line & kStep) continue;
    const Floats first = lines[line], second = lines[line + kStep];
    lines[line] = __builtin_shuffle(first, second, upper);
    lines[line + kStep] = __builtin_shuffle(first, second, lower);
  }
  if constexpr (kStep > 1) swap_blocks<kStep / 2>(lines);
}

// to[column, row] = from[row, column] of a square of kLanes: halves off the diagonal change places,
// then their halves, down to single words.
inline void transpose_square(const float* from, int64_t from_step, float* to, int64_t to_step) {
  Floats lines[kLanes];
#pragma GCC unroll 16
  for (int line = 0; line < kLanes; ++line) lines[line] = load<Floats>(from + line * from_step);
  swap_blocks<kLanes / 2>(lines);
#pragma GCC unroll 16
  for (int line = 0; line < kLanes; ++line) store(to + line * to_step, lines[line]);
}

// to[columns, rows] = from[rows, columns], words of any kind; both counts are multiples of kLanes.
template <class Type>
void transpose(int rows, int columns, ByRows<const Type> from, ByRows<Type> to) {
  static_assert(sizeof(Type) == sizeof(float));
  for (int row = 0; row < rows; row += kLanes) {
    for (int column = 0; column < columns; column += kLanes) {
      transpose_square(reinterpret_cast<const float*>(from.at(row, column).data), from.step,
                       reinterpret_cast<float*>(to.at(column, row).data), to.step);
    }
  }
}

// Writes sums [count, width] times a factor to rows of a tensor, rounded to its elements.
template <class Element>
void write_rows(ByRows<const float> sums, float factor, TokenRows<Element> rows) {
  for (int row = 0; row < rows.count; ++row) {
    const float* from = sums.data + row * sums.step;
    Element* to = rows.data + row * rows.step;
    int column = 0;
    for (; column + kLanes <= rows.width; column += kLanes) {
      store_as(to + column, load<Floats>(from + column) * factor);
    }
    if (column < rows.width) {
      Element last[kLanes];
      store_as(last, load<Floats>(from + column) * factor);
      std::memcpy(to + column, last, (rows.width - column) * sizeof(Element));
    }
  }
}

}  // namespace
}  // namespace torchrec_gr::cpu
