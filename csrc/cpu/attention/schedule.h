// Who computes what: the batch cut into tasks of bounded work, dealt out to threads.
#pragma once

#include <limits>
#include <vector>

#include "../../attention.h"

namespace torchrec_gr::cpu {

// Rows [row_begin, row_end) of heads [head_begin, head_end), and of those rows queries
// [q_begin, q_end), cut to the row.
struct Task {
  int64_t row_begin;
  int64_t row_end;
  int head_begin;
  int head_end;
  int q_begin = 0;
  int q_end = std::numeric_limits<int>::max();
  int cut = -1;  // of a row that is too long for one task: which of `cuts`, and which part of it
  int part = 0;
};

// One head of a row whose queries are divided among several tasks.
struct CutRow {
  int64_t row;
  int head;
  int num_parts;
};

struct Schedule {
  std::vector<std::vector<Task>> of_thread;
  std::vector<CutRow> cuts;
};

// The same for the same spans and number of threads. The work of a query is counted as the keys
// that it sees; rows are cut at multiples of `query_block`.
Schedule schedule(const AttentionProblem& problem, int num_threads, int query_block);

}  // namespace torchrec_gr::cpu
