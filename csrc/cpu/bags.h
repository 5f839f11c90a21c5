// The arguments that say which rows are read into which bags, checked.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <optional>

#include "../offsets.h"
#include "embedding/row_sums.h"
#include "embedding_arguments.h"

namespace torchrec_gr::embedding {

// Bags beside the tensors that they lie in.
struct CheckedBags {
  at::Tensor index;
  at::Tensor bounds;
  at::Tensor factors;

  Bags view() const {
    return {index.const_data_ptr<int64_t>(), index.numel(),
            bounds.defined() ? bounds.const_data_ptr<int64_t>() : nullptr,
            bounds.defined() ? bounds.numel() - 1 : index.numel(),
            factors.defined() ? factors.const_data_ptr<float>() : nullptr};
  }
};

// index [n] int64, places among `num_rows` rows; offsets [B + 1] of its bags; the factors, an
// argument of some name, [n] float32.
inline CheckedBags check_bags(const at::Tensor& index, const std::optional<at::Tensor>& offsets,
                              const char* factors_name, const std::optional<at::Tensor>& factors,
                              int64_t num_rows) {
  CheckedBags checked;
  checked.index = check_vector<int64_t>("index", index);
  const int64_t* places = checked.index.const_data_ptr<int64_t>();
  const int64_t num = checked.index.numel();
  uint64_t largest = 0;  // negative places are the largest of all
  for (int64_t i = 0; i < num; ++i) largest = std::max<uint64_t>(largest, places[i]);
  TORCH_CHECK_VALUE(num == 0 || largest < static_cast<uint64_t>(num_rows),
                    "index: expected places among the ", num_rows, " rows, got ",
                    static_cast<int64_t>(largest));
  TORCH_CHECK_VALUE(num <= kMostPlaces && (!offsets || offsets->numel() <= kMostPlaces),
                    "index: expected at most ", kMostPlaces, " places and bags, got ", num);
  if (offsets) checked.bounds = check_offsets("offsets", *offsets, "index", num);
  if (factors) checked.factors = check_vector<float>(factors_name, *factors, num);
  return checked;
}

}  // namespace torchrec_gr::embedding
