// Ids sorted by the process that owns them.
#pragma once

#include <cstdint>

#include "../../mix.h"
#include "grouping.h"
#include "shares.h"
#include "table_ids.h"

namespace torchrec_gr::embedding {

// Fills `order`, the positions of the ids sorted stably by (owner, table), and `lengths`, how many
// ids are for owner * num_tables + table.
inline void route_ids(const TableIds& ids, int64_t num_owners, int64_t* order, int64_t* lengths,
                      const ParallelFor& parallel_for) {
  const Owners owner_of(num_owners);
  const auto for_each = [&](int64_t begin, int64_t end, const auto& visit) {
    ids.for_each_table(begin, end, [&](int64_t table, int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        visit(owner_of(ids.data[i]) * ids.num_tables + table, i);
      }
    });
  };
  const int64_t num_groups = num_owners * ids.num_tables;
  const auto starts = sort_by_group(ids.count(), num_groups, for_each, order, parallel_for);
  for (int64_t group = 0; group < num_groups; ++group) {
    lengths[group] = starts[group + 1] - starts[group];
  }
}

}  // namespace torchrec_gr::embedding
