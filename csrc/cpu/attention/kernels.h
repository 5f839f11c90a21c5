// The four kernels of an instruction set, which the file that includes this compiles for it.
#pragma once

#include <memory>
#include <vector>

#include "../attention_kernels.h"
#include "backward.h"
#include "instruction_set.h"

namespace torchrec_gr::cpu {
namespace {

PaddedLines padded_position_table(const AttentionProblem& problem) {
  const BiasTable& table = problem.bias.position_table;
  if (table.data == nullptr) return {};
  PaddedLines lines(table, problem.num_heads);
  lines.copy_from(table, problem.num_heads);
  return lines;
}

template <class Element, class Word, class Activation>
void run_forward(const AttentionProblem& problem, const AttentionOutput& output,
                 const Threads& threads) {
  const Schedule plan = schedule(problem, threads.count, kQueryBlock);
  const PaddedLines position_table = padded_position_table(problem);
  threads.run([&](int thread) {
    [[maybe_unused]] typename Word::Session session;
    Forward<Element, Word, Activation> forward(problem, output, position_table);
    for (const Task& task : plan.of_thread[thread]) forward.run(task);
  });
}

template <class Element, class Word, class Activation>
void run_backward(const AttentionProblem& problem, const AttentionGradients& gradients,
                  const Threads& threads) {
  const Schedule plan = schedule(problem, threads.count, kQueryBlock);
  const PaddedLines position_table = padded_position_table(problem);
  PartialSums partials(problem, plan.cuts);
  std::vector<std::unique_ptr<BiasGradients>> of_thread(threads.count);
  threads.run([&](int thread) {
    [[maybe_unused]] typename Word::Session session;
    Backward<Element, Word, Activation> backward(problem, gradients, position_table, partials);
    for (const Task& task : plan.of_thread[thread]) backward.run(task);
    of_thread[thread] = std::make_unique<BiasGradients>(backward.bias_gradients());
  });
  threads.run([&](int thread) {
    for (int cut = thread; cut < static_cast<int>(plan.cuts.size()); cut += threads.count) {
      partials.add_up<Element>(cut, gradients);
    }
  });
  BiasGradients::clear(problem, gradients);
  for (const auto& sums : of_thread) sums->add_to(problem, problem.scale, gradients);
}

template <class BFloat16Word, class Activation>
ActivationKernels activation_kernels() {
  return {
      [](const AttentionProblem& problem, const AttentionOutput& output, const Threads& threads) {
        problem.type == ElementType::kFloat32
            ? run_forward<float, FloatWord, Activation>(problem, output, threads)
            : run_forward<BFloat16, BFloat16Word, Activation>(problem, output, threads);
      },
      [](const AttentionProblem& problem, const AttentionGradients& gradients,
         const Threads& threads) {
        problem.type == ElementType::kFloat32
            ? run_backward<float, FloatWord, Activation>(problem, gradients, threads)
            : run_backward<BFloat16, BFloat16Word, Activation>(problem, gradients, threads);
      }};
}

// BFloat16Word: what products of bfloat16 tensors are made of.
template <class BFloat16Word>
InstructionSet instruction_set(const char* name) {
  return {name, activation_kernels<BFloat16Word, Silu>(),
          activation_kernels<BFloat16Word, Softmax>()};
}

}  // namespace
}  // namespace torchrec_gr::cpu
