#include "schedule.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

namespace torchrec_gr::cpu {
namespace {

// What a token costs beside its products, in visible pairs: it is packed, and its sums written out.
constexpr int64_t kTokenWork = 24;

struct WeighedTask {
  Task task;
  int64_t work;
};

int64_t num_visible(const AttentionProblem& problem, int64_t query, int64_t num_keys) {
  const int64_t start = std::max<int64_t>(problem.start[query], 0);
  const int64_t end = std::min<int64_t>(problem.end[query], num_keys);
  return std::max<int64_t>(end - start, 0) + 1;
}

// The work of queries [begin, end) of a row and one head.
int64_t work_of(const AttentionProblem& problem, int64_t row, int64_t begin, int64_t end) {
  const int64_t num_keys = problem.k_offsets[row + 1] - problem.k_offsets[row];
  int64_t work = (end - begin + num_keys) * kTokenWork;
  for (int64_t query = begin; query < end; ++query) {
    work += num_visible(problem, problem.q_offsets[row] + query, num_keys);
  }
  return work;
}

class Cutter {
 public:
  Cutter(const AttentionProblem& problem, int num_threads, int query_block)
      : problem_(problem), num_threads_(num_threads), query_block_(query_block) {}

  // Tasks in the order of the rows: neighbouring short rows together, long rows head by head, and
  // those so long that threads would wait for them, in parts.
  void cut() {
    std::vector<int64_t> row_work(problem_.num_rows);
    int64_t total = 0;
    for (int64_t row = 0; row < problem_.num_rows; ++row) {
      row_work[row] = work_of(problem_, row, 0, num_queries(row));
      total += row_work[row] * problem_.num_heads;
    }
    const int64_t short_row = total / (32 * num_threads_) + 1;
    const int64_t too_long = total / (2 * num_threads_) + 1;
    for (int64_t row = 0; row < problem_.num_rows; ++row) {
      if (row_work[row] * problem_.num_heads <= short_row) {
        add_to_batch(row, row_work[row] * problem_.num_heads, short_row);
        continue;
      }
      close_batch(row);
      for (int head = 0; head < problem_.num_heads; ++head) {
        if (num_threads_ > 1 && row_work[row] > too_long && num_queries(row) > query_block_) {
          cut_row(row, head, row_work[row], too_long);
        } else {
          tasks.push_back({{row, row + 1, head, head + 1}, row_work[row]});
        }
      }
      batch_begin_ = row + 1;
    }
    close_batch(problem_.num_rows);
  }

  std::vector<WeighedTask> tasks;
  std::vector<CutRow> cuts;

 private:
  int64_t num_queries(int64_t row) const {
    return problem_.q_offsets[row + 1] - problem_.q_offsets[row];
  }

  void add_to_batch(int64_t row, int64_t work, int64_t enough) {
    batch_work_ += work;
    if (batch_work_ >= enough) close_batch(row + 1);
  }

  void close_batch(int64_t end) {
    if (batch_begin_ < end) {
      tasks.push_back({{batch_begin_, end, 0, problem_.num_heads}, batch_work_});
    }
    batch_begin_ = end;
    batch_work_ = 0;
  }

  // Cuts at blocks of queries, into parts of at least `enough` work but for the last.
  void cut_row(int64_t row, int head, int64_t work, int64_t too_long) {
    const int64_t enough = work / ((work + too_long - 1) / too_long);
    const int cut = static_cast<int>(cuts.size());
    cuts.push_back({row, head, 0});
    int64_t begin = 0, so_far = 0;
    for (int64_t block = 0; block < num_queries(row); block += query_block_) {
      const int64_t end = std::min(block + query_block_, num_queries(row));
      so_far += work_of(problem_, row, block, end);
      if (so_far < enough && end < num_queries(row)) continue;
      const int part = cuts.back().num_parts++;
      tasks.push_back({{row, row + 1, head, head + 1, static_cast<int>(begin),
                        static_cast<int>(end), cut, part},
                       so_far});
      begin = end;
      so_far = 0;
    }
  }

  const AttentionProblem& problem_;
  const int num_threads_;
  const int query_block_;
  int64_t batch_begin_ = 0;
  int64_t batch_work_ = 0;
};

}  // namespace

Schedule schedule(const AttentionProblem& problem, int num_threads, int query_block) {
  Cutter cutter(problem, num_threads, query_block);
  cutter.cut();
  std::vector<WeighedTask>& tasks = cutter.tasks;
  std::stable_sort(tasks.begin(), tasks.end(),
                   [](const WeighedTask& a, const WeighedTask& b) { return a.work > b.work; });
  // The heaviest task that is left goes to the thread that has the least to do.
  using Load = std::pair<int64_t, int>;
  std::priority_queue<Load, std::vector<Load>, std::greater<Load>> loads;
  for (int thread = 0; thread < num_threads; ++thread) loads.push({0, thread});
  Schedule schedule{std::vector<std::vector<Task>>(num_threads), std::move(cutter.cuts)};
  for (const WeighedTask& weighed : tasks) {
    const auto [work, thread] = loads.top();
    loads.pop();
    schedule.of_thread[thread].push_back(weighed.task);
    loads.push({work + weighed.work, thread});
  }
  return schedule;
}

}  // namespace torchrec_gr::cpu
