// The different ids of a batch: see embedding/unique_ids.h.
#include "embedding/unique_ids.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "embedding_arguments.h"

namespace torchrec_gr::embedding {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> unique_ids(
    const at::Tensor& ids, const at::Tensor& offsets, const std::optional<at::Tensor>& counts) {
  const CheckedIds checked = check_ids(ids, offsets);
  const TableIds table_ids = checked.view();
  at::Tensor given;
  if (counts) given = check_vector<int64_t>("counts", *counts, table_ids.count());
  TORCH_CHECK_VALUE(table_ids.count() <= kMostIds, "ids: expected at most ", kMostIds, ", got ",
                    table_ids.count());
  at::Tensor unique_offsets = at::empty_like(checked.offsets);
  at::Tensor inverse = at::empty_like(checked.ids);
  auto* numbers = inverse.mutable_data_ptr<int64_t>();
  find_first_positions(table_ids, numbers, parallel_for);
  const std::vector<int64_t> unique =
      number_ids(table_ids, numbers, unique_offsets.mutable_data_ptr<int64_t>());
  at::Tensor sums = at::zeros({static_cast<int64_t>(unique.size())}, inverse.options());
  auto* sum = sums.mutable_data_ptr<int64_t>();
  const int64_t* times = counts ? given.const_data_ptr<int64_t>() : nullptr;
  for (int64_t i = 0; i < table_ids.count(); ++i) sum[numbers[i]] += times ? times[i] : 1;
  return {at::tensor(unique, inverse.options()), unique_offsets, inverse, sums};
}

}  // namespace
}  // namespace torchrec_gr::embedding

TORCH_LIBRARY_IMPL(torchrec_gr, CPU, m) {
  m.impl("unique_ids", &torchrec_gr::embedding::unique_ids);
}

// Not differentiable: integers in, integers out.
TORCH_LIBRARY_IMPL(torchrec_gr, Autograd, m) {
  m.impl("unique_ids", torch::CppFunction::makeFallthrough());
}
