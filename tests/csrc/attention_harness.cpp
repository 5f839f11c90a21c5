// Runs the CPU attention kernels without torch, so that sanitizers see all that runs:
//
//     attention_harness --quick | --long
//
// Every case runs with every instruction set of the machine, on one thread and on several, and is
// compared with the plainest instruction set on one thread. Outputs are NaN before, and so are
// their borders and gaps: what is not written shows, and what is written beside them. A second run
// must give the same bits.
#include <barrier>
#include <cstdio>
#include <deque>
#include <functional>
#include <thread>

#include "attention_batch.h"
#include "cpu/attention/instruction_set.h"
#include "cpu/attention/schedule.h"

namespace torchrec_gr::cpu {
namespace {

// Threads that live from run to run, as those of a real pool do.
class ThreadPool {
 public:
  explicit ThreadPool(int count) : count_(count), barrier_(count) {
    for (int thread = 1; thread < count; ++thread) {
      workers_.emplace_back([this, thread] { work(thread); });
    }
  }

  ~ThreadPool() {
    body_ = nullptr;
    barrier_.arrive_and_wait();
  }

  int count() const { return count_; }

  Threads threads() {
    return {count_, [this](const std::function<void(int)>& body) {
              body_ = &body;
              barrier_.arrive_and_wait();
              body(0);
              barrier_.arrive_and_wait();
            }};
  }

 private:
  void work(int thread) {
    for (;;) {
      barrier_.arrive_and_wait();
      if (body_ == nullptr) return;
      (*body_)(thread);
      barrier_.arrive_and_wait();
    }
  }

  const int count_;
  std::barrier<> barrier_;  // passed by all before a body and after it
  const std::function<void(int)>* body_ = nullptr;
  std::vector<std::jthread> workers_;
};

// Those that this machine can run.
std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets = {default_kernels()};
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return sets;
  sets.push_back(avx2_kernels());
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return sets;
  }
  sets.push_back(avx512_kernels());
  if (!__builtin_cpu_supports("avx512bf16")) return sets;
  sets.push_back(avx512_bf16_kernels());
#ifdef TORCHREC_GR_TILES_HEADER
  sets.push_back(amx_kernels());
#endif
  return sets;
}

struct Op {
  const char* name;
  ActivationKernels InstructionSet::* kernels;
  bool is_softmax;
};

constexpr Op kOps[] = {{"hstu", &InstructionSet::hstu, false},
                       {"softmax", &InstructionSet::softmax, true}};

constexpr std::pair<const char*, ElementType> kPrecisions[] = {
    {"float32", ElementType::kFloat32}, {"bfloat16", ElementType::kBFloat16}};

// Of a difference, relative to the largest value. A bfloat16 is rounded to 2^-9 of itself; kernels
// may round weights too.
constexpr float tolerance(ElementType type) {
  return type == ElementType::kFloat32 ? 1e-5f : 3.0f / 256;
}

// All that an op writes.
struct Results {
  Tensor output, log_sum_exp, dq, dk, dv, dslopes, dposition_table, dtime_table;
};

constexpr std::pair<const char*, Tensor Results::*> kResults[] = {
    {"output", &Results::output},
    {"log_sum_exp", &Results::log_sum_exp},
    {"dq", &Results::dq},
    {"dk", &Results::dk},
    {"dv", &Results::dv},
    {"dslopes", &Results::dslopes},
    {"dposition_table", &Results::dposition_table},
    {"dtime_table", &Results::dtime_table}};

// The usual size of a result's values. A sum over the batch may be small by chance, its terms being
// of either sign: its rounding errors are not. A query's terms are as many as its keys, or have the
// size of one term together where weights add up to 1.
float usual_size(Tensor Results::* result, const Op& op, const Batch& batch) {
  const int64_t num_terms = batch.num_queries() * (op.is_softmax ? 1 : batch.max_seq_len());
  const float of_sum = std::sqrt(std::max<float>(num_terms, 1));
  if (result == &Results::dslopes) return of_sum * batch.max_seq_len();  // of terms times distances
  if (result == &Results::dposition_table || result == &Results::dtime_table) return of_sum;
  return 1;
}

Results nothing_written(const Case& c, const Op& op, const Batch& batch) {
  constexpr int kBorder = 61;  // odd: what lies behind it is not aligned to vectors
  Results results;
  results.output = batch.grad_output.unwritten(kBorder);
  results.dq = batch.q.unwritten(kBorder);
  results.dk = batch.k.unwritten(kBorder);
  results.dv = batch.v.unwritten(kBorder);
  results.dslopes = batch.slopes.unwritten(kBorder);
  results.dposition_table = batch.position_table.unwritten(kBorder);
  results.dtime_table = batch.time_table.unwritten(kBorder);
  if (op.is_softmax) {
    results.log_sum_exp = Tensor(ElementType::kFloat32, batch.num_queries(), c.num_heads, 1,
                                 Layout::kContiguous, kBorder);
  }
  return results;
}

// The largest difference of two tensors, relative to the largest value and to the usual size at
// least; infinity where one of them is NaN, or infinite and the other is not.
float difference(const Tensor& expected, const Tensor& actual, float usual_size) {
  float largest = usual_size, difference = 0;
  expected.for_each([&](int64_t token, int head, int column) {
    const float e = expected.get(token, head, column), a = actual.get(token, head, column);
    if (std::isfinite(e)) largest = std::max(largest, std::abs(e));
    const float distance = e == a ? 0 : std::isfinite(e - a) ? std::abs(e - a) : INFINITY;
    difference = std::max(difference, distance);
  });
  return difference / largest;
}

// What came out of a case in one precision.
struct Findings {
  float largest_difference = 0;
  std::vector<std::string> failures;
};

// One op on one batch, whose backward pass is always given the same forward pass's results.
class Trial {
 public:
  Trial(const Case& c, const Op& op, Batch& batch, ThreadPool& one_thread)
      : case_(c), op_(op), batch_(batch) {
    Results expected = nothing_written(c, op, batch);
    forward(default_kernels(), one_thread, expected);
    if (op.is_softmax) {
      output_ = expected.output.copy_without_border();
      log_sum_exp_ = expected.log_sum_exp.copy_without_border();
    }
    backward(default_kernels(), one_thread, expected);
    expected_ = std::move(expected);
  }

  Results run(const InstructionSet& set, ThreadPool& pool) {
    Results results = nothing_written(case_, op_, batch_);
    forward(set, pool, results);
    backward(set, pool, results);
    return results;
  }

  // Compares two runs with what is expected, and with each other.
  void check(const Results& first, const Results& second, const std::string& where,
             Findings& findings) const {
    for (const auto& [name, result] : kResults) {
      const Tensor &tensor = first.*result, &again = second.*result;
      const float off_by = difference(expected_.*result, tensor, usual_size(result, op_, batch_));
      findings.largest_difference = std::max(findings.largest_difference, off_by);
      const auto fail = [&, name = name](const std::string& what) {
        findings.failures.push_back(where + ": " + name + " " + what);
      };
      if (off_by > tolerance(tensor.type())) fail("is off by " + std::to_string(off_by));
      if (!tensor.is_clean_around()) fail("has something written beside it");
      if (tensor.bytes() != again.bytes()) fail("has other bits in a second run");
    }
  }

 private:
  AttentionProblem problem() { return batch_.problem(op_.is_softmax ? 1.0f : 0.5f); }

  void forward(const InstructionSet& set, ThreadPool& pool, Results& results) {
    (set.*op_.kernels)
        .forward(problem(), {results.output.rows(), results.log_sum_exp.floats()}, pool.threads());
  }

  void backward(const InstructionSet& set, ThreadPool& pool, Results& results) {
    AttentionGradients gradients;
    gradients.grad_output = batch_.grad_output.rows();
    gradients.output = output_.rows();
    gradients.log_sum_exp = log_sum_exp_.floats();
    gradients.dq = results.dq.rows();
    gradients.dk = results.dk.rows();
    gradients.dv = results.dv.rows();
    gradients.dslopes = results.dslopes.floats();
    gradients.dposition_table = results.dposition_table.floats();
    gradients.dtime_table = results.dtime_table.floats();
    (set.*op_.kernels).backward(problem(), gradients, pool.threads());
  }

  const Case& case_;
  const Op& op_;
  Batch& batch_;
  Tensor output_, log_sum_exp_;
  Results expected_;
};

class Harness {
 public:
  explicit Harness(const std::vector<int>& thread_counts) {
    for (int count : thread_counts) pools_.emplace_back(count);
  }

  Findings run(const Case& c, ElementType type) {
    Findings findings;
    Batch batch(c, type);
    for (const Op& op : kOps) run(c, op, batch, findings);
    if (c.is_cut) check_that_a_row_is_cut(batch, findings);
    return findings;
  }

  const std::vector<InstructionSet>& sets() const { return sets_; }

 private:
  void run(const Case& c, const Op& op, Batch& batch, Findings& findings) {
    Trial trial(c, op, batch, pools_.front());
    for (const InstructionSet& set : sets_) {
      for (ThreadPool& pool : pools_) {
        const std::string where = std::string(op.name) + ", " + set.name + ", " +
                                  std::to_string(pool.count()) + " threads";
        const Results first = trial.run(set, pool), second = trial.run(set, pool);
        trial.check(first, second, where, findings);
      }
    }
  }

  // A case that no longer does what it is there for must not pass.
  void check_that_a_row_is_cut(Batch& batch, Findings& findings) const {
    constexpr int kQueryBlock = 64;
    for (const ThreadPool& pool : pools_) {
      if (pool.count() > 1 && schedule(batch.problem(1), pool.count(), kQueryBlock).cuts.empty()) {
        findings.failures.push_back("no row is cut for " + std::to_string(pool.count()) +
                                    " threads");
      }
    }
  }

  const std::vector<InstructionSet> sets_ = instruction_sets();
  std::deque<ThreadPool> pools_;
};

void print_failures(const Findings& findings) {
  constexpr size_t kMost = 10;
  const std::vector<std::string>& failures = findings.failures;
  for (size_t i = 0; i < std::min(failures.size(), kMost); ++i) {
    std::printf("    %s\n", failures[i].c_str());
  }
  if (failures.size() > kMost) std::printf("    and %zu more\n", failures.size() - kMost);
}

// Whether a case passes; prints a line for each precision.
bool passes(Harness& harness, const Case& c) {
  bool all_well = true;
  for (const auto& [precision, type] : kPrecisions) {
    const Findings findings = harness.run(c, type);
    const bool well = findings.failures.empty();
    std::printf("%-20s %-9s %6zu rows   largest difference %.1e   %s\n", c.name.c_str(), precision,
                c.rows.size(), findings.largest_difference, well ? "ok" : "FAILED");
    print_failures(findings);
    std::fflush(stdout);  // before a sanitizer ends the process
    all_well &= well;
  }
  return all_well;
}

// Whether all cases pass.
bool run_all(const CaseSet& set) {
  Harness harness(set.thread_counts);
  std::printf("instruction sets:");
  for (const InstructionSet& kernels : harness.sets()) std::printf(" %s", kernels.name);
  std::printf("\n");
  const auto failed = std::count_if(set.cases.begin(), set.cases.end(),
                                    [&](const Case& c) { return !passes(harness, c); });
  std::printf("%td of %zu cases failed\n", failed, set.cases.size());
  return failed == 0;
}

}  // namespace
}  // namespace torchrec_gr::cpu

int main(int argc, char** argv) {
  const std::string choice = argc == 2 ? argv[1] : "";
  if (choice != "--quick" && choice != "--long") {
    std::fprintf(stderr, "usage: %s --quick | --long\n", argv[0]);
    return 2;
  }
  using namespace torchrec_gr;
  return cpu::run_all(choice == "--quick" ? quick_set() : long_set()) ? 0 : 1;
}
