// The arguments that ops on embedding rows share, checked. Every error is a Python ValueError that
// reads "name: expected ..., got ...".
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "embedding/chunks.h"
#include "embedding/id_map.h"
#include "embedding/shares.h"
#include "embedding/table_ids.h"

namespace torchrec_gr::embedding {

// PyTorch's threads.
inline void parallel_for(int64_t count, int64_t grain, const Share& share) {
  at::parallel_for(0, count, grain, share);
}

inline std::string described(const at::Tensor& x) {
  return c10::str(x.sizes(), " ", c10::getDtypeNames(x.scalar_type()).first);
}

template <typename T>
constexpr at::ScalarType dtype_of = c10::CppTypeToScalarType<std::remove_const_t<T>>::value;

template <typename T>
T* data_of(const at::Tensor& x) {
  if constexpr (std::is_const_v<T>) {
    return x.const_data_ptr<std::remove_const_t<T>>();
  } else {
    return x.mutable_data_ptr<T>();
  }
}

inline void check_on_cpu(const char* name, const at::Tensor& x) {
  TORCH_CHECK_VALUE(x.is_cpu(), name, ": expected the device cpu, got ", x.device());
}

// [n] of one dtype; n of any size for -1.
template <typename T>
at::Tensor check_vector(const char* name, const at::Tensor& x, int64_t size = -1) {
  TORCH_CHECK_VALUE(
      x.dim() == 1 && (size == -1 || x.numel() == size) && x.scalar_type() == dtype_of<T>, name,
      ": expected [", size == -1 ? "n" : std::to_string(size), "] ",
      c10::getDtypeNames(dtype_of<T>).first, ", got ", described(x));
  check_on_cpu(name, x);
  return x.contiguous();
}

// Ids beside their offsets, which it keeps alive.
struct CheckedIds {
  at::Tensor ids;
  at::Tensor offsets;

  TableIds view() const {
    return {ids.const_data_ptr<int64_t>(), offsets.const_data_ptr<int64_t>(), offsets.numel() - 1};
  }
};

CheckedIds check_ids(const at::Tensor& ids, const at::Tensor& offsets);

// [capacity], a capacity that a map may have.
Places check_entries(const at::Tensor& entries);

// That every slot, but for kNoSlot where it is allowed, is a row of the chunks.
template <typename T>
void check_slots(const char* name, const int64_t* slots, int64_t num_slots, const Chunks<T>& chunks,
                 bool may_be_none) {
  for (int64_t i = 0; i < num_slots; ++i) {
    const bool fits = chunks.has(slots[i]) || (may_be_none && slots[i] == kNoSlot);
    TORCH_CHECK_VALUE(fits, name, ": expected rows of the ", chunks.list.size(), " chunks",
                      may_be_none ? " or -1" : "", ", got ", slots[i], " (chunk ",
                      chunk_of(slots[i]), ", row ", row_of(slots[i]), ") at ", i);
  }
}

// A list of chunks, [r, width] each, or [r] where no width is given. They are read or, T not being
// const, written where they lie.
template <typename T>
Chunks<T> check_chunks(const char* name, at::TensorList list, int64_t width = 0,
                       bool is_vector = true) {
  TORCH_CHECK_VALUE(static_cast<int64_t>(list.size()) <= kMaxChunks, name, ": expected at most ",
                    kMaxChunks, " chunks, got ", list.size());
  Chunks<T> chunks;
  chunks.width = is_vector ? 1 : width;
  chunks.list.reserve(list.size());
  for (const at::Tensor& chunk : list) {
    const bool fits = chunk.dim() == (is_vector ? 1 : 2) && chunk.size(0) <= kMaxRows &&
                      (is_vector || chunk.size(1) == width) && chunk.scalar_type() == dtype_of<T> &&
                      chunk.is_contiguous();
    TORCH_CHECK_VALUE(fits, name, ": expected contiguous chunks [r <= ", kMaxRows,
                      is_vector ? "" : c10::str(", ", width), "] ",
                      c10::getDtypeNames(dtype_of<T>).first, ", got ",
                      chunk.is_contiguous() ? "" : "strided ", described(chunk), " as number ",
                      chunks.list.size());
    check_on_cpu(name, chunk);
    chunks.list.push_back({data_of<T>(chunk), static_cast<int32_t>(chunk.size(0))});
  }
  return chunks;
}

// That two lists are of the same chunks.
template <typename T, typename U>
void check_same_chunks(const char* name, const Chunks<T>& chunks, const char* of,
                       const Chunks<U>& others) {
  TORCH_CHECK_VALUE(chunks.list.size() == others.list.size(), name, ": expected the ",
                    others.list.size(), " chunks of ", of, ", got ", chunks.list.size());
  for (size_t i = 0; i < chunks.list.size(); ++i) {
    TORCH_CHECK_VALUE(chunks.list[i].num_rows == others.list[i].num_rows, name, ": expected the ",
                      others.list[i].num_rows, " rows of ", of, " in chunk ", i, ", got ",
                      chunks.list[i].num_rows);
  }
}

}  // namespace torchrec_gr::embedding
