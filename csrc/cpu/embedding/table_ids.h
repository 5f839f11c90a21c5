// Ids that come table by table.
#pragma once

#include <algorithm>
#include <cstdint>

namespace torchrec_gr::embedding {

// Table t's ids are data[offsets[t]:offsets[t + 1]].
struct TableIds {
  const int64_t* data;
  const int64_t* offsets;
  int64_t num_tables;

  int64_t count() const { return offsets[num_tables]; }

  // Calls visit(table, first, last) for every part of begin:end that is of one table.
  template <typename Visit>
  void for_each_table(int64_t begin, int64_t end, const Visit& visit) const {
    const int64_t* behind = std::upper_bound(offsets, offsets + num_tables, begin);
    for (int64_t table = behind - offsets - 1; table < num_tables && offsets[table] < end;
         ++table) {
      const int64_t first = std::max(begin, offsets[table]);
      const int64_t last = std::min(end, offsets[table + 1]);
      if (first < last) visit(table, first, last);
    }
  }
};

}  // namespace torchrec_gr::embedding
