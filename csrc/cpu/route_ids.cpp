// Ids sorted by the process that owns them: see embedding/route_ids.h.
#include "embedding/route_ids.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <cstdint>
#include <limits>
#include <tuple>

#include "embedding_arguments.h"

namespace torchrec_gr::embedding {
namespace {

std::tuple<at::Tensor, at::Tensor> routed_ids(const at::Tensor& ids, const at::Tensor& offsets,
                                              int64_t num_owners) {
  constexpr int64_t kMostOwners = std::numeric_limits<int32_t>::max();
  TORCH_CHECK_VALUE(1 <= num_owners && num_owners <= kMostOwners, "num_owners: expected from 1 to ",
                    kMostOwners, ", got ", num_owners);
  const CheckedIds checked = check_ids(ids, offsets);
  const TableIds table_ids = checked.view();
  at::Tensor order = at::empty_like(checked.ids);
  at::Tensor lengths = at::empty({num_owners * table_ids.num_tables}, order.options());
  route_ids(table_ids, num_owners, order.mutable_data_ptr<int64_t>(),
            lengths.mutable_data_ptr<int64_t>(), parallel_for);
  return {order, lengths};
}

}  // namespace
}  // namespace torchrec_gr::embedding

TORCH_LIBRARY_IMPL(torchrec_gr, CPU, m) {
  m.impl("route_ids", &torchrec_gr::embedding::routed_ids);
}

// Not differentiable: integers in, integers out.
TORCH_LIBRARY_IMPL(torchrec_gr, Autograd, m) {
  m.impl("route_ids", torch::CppFunction::makeFallthrough());
}
