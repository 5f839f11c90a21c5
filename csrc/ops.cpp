// The schema of every op of torchrec_gr.
#include <torch/library.h>

TORCH_LIBRARY(torchrec_gr, m) {
  // torchrec_gr/ops/hstu_attention.py says what the arguments are. Gradients come in the order
  // q, k, v, slopes, position_table, time_table; that of an absent table is empty.
  m.def(
      "hstu_attention(Tensor q, Tensor k, Tensor v, Tensor q_offsets, Tensor k_offsets, "
      "Tensor start, Tensor end, Tensor? own, Tensor? slopes, Tensor? position_table, "
      "Tensor? time_table, Tensor? q_positions, Tensor? k_positions, Tensor? q_times, "
      "Tensor? k_times, int max_seq_len, float alpha, float scale) -> Tensor");
  m.def(
      "hstu_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor q_offsets, "
      "Tensor k_offsets, Tensor start, Tensor end, Tensor? own, Tensor? slopes, "
      "Tensor? position_table, Tensor? time_table, Tensor? q_positions, Tensor? k_positions, "
      "Tensor? q_times, Tensor? k_times, int max_seq_len, float alpha, float scale) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");

  // torchrec_gr/ops/jagged_softmax_attention.py. Beside the output, log(sum(exp(score))) of every
  // query and head, [Tq, H] float32, which the backward reads.
  m.def(
      "jagged_softmax_attention(Tensor q, Tensor k, Tensor v, Tensor q_offsets, "
      "Tensor k_offsets, Tensor start, Tensor end, Tensor? own, Tensor? slopes, "
      "Tensor? position_table, Tensor? time_table, Tensor? q_positions, Tensor? k_positions, "
      "Tensor? q_times, Tensor? k_times, int max_seq_len, float alpha) -> (Tensor, Tensor)");
  m.def(
      "jagged_softmax_attention_backward(Tensor grad, Tensor output, Tensor log_sum_exp, "
      "Tensor q, Tensor k, Tensor v, Tensor q_offsets, Tensor k_offsets, Tensor start, "
      "Tensor end, Tensor? own, Tensor? slopes, Tensor? position_table, Tensor? time_table, "
      "Tensor? q_positions, Tensor? k_positions, Tensor? q_times, Tensor? k_times, "
      "int max_seq_len, float alpha) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");

  // torchrec_gr/ops/group_requests.py
  m.def(
      "group_requests(Tensor values, Tensor offsets, int seed) -> "
      "(Tensor requests, Tensor inverse)");

  // torchrec_gr/ops/jagged_concat.py
  m.def("jagged_concat(Tensor a, Tensor b, Tensor a_offsets, Tensor b_offsets) -> Tensor");
  m.def(
      "jagged_split(Tensor values, Tensor a_offsets, Tensor b_offsets, SymInt num_a) -> "
      "(Tensor a, Tensor b)");

  // torchrec_gr/ops/cpu_capability.py
  m.def("cpu_capability() -> str");
}
