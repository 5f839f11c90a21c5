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

  // torchrec_gr/ops/unique_ids.py
  m.def(
      "unique_ids(Tensor ids, Tensor offsets, Tensor? counts) -> "
      "(Tensor unique, Tensor unique_offsets, Tensor inverse, Tensor counts)");

  // torchrec_gr/ops/route_ids.py
  m.def("route_ids(Tensor ids, Tensor offsets, int num_owners) -> (Tensor order, Tensor lengths)");

  // torchrec_gr/ops/id_map.py says what a map and its chunks are.
  m.def(
      "id_map_find(Tensor entries, Tensor[] chunk_ids, int[] chunk_tables, Tensor ids, "
      "Tensor offsets) -> Tensor");
  m.def(
      "id_map_insert_(Tensor(a!) entries, Tensor(b!)[] chunk_ids, int[] chunk_tables, "
      "Tensor ids, Tensor offsets, Tensor slots) -> ()");
  m.def(
      "id_map_remove_(Tensor(a!) entries, Tensor[] chunk_ids, int[] chunk_tables, "
      "Tensor slots) -> ()");
  m.def("id_map_grow(Tensor entries, int capacity) -> Tensor");

  // torchrec_gr/ops/seen_rows.py
  m.def("touch_rows_(Tensor(a!)[] seen, Tensor slots, Tensor counts, int step) -> Tensor");
  m.def(
      "rows_to_evict(Tensor[] chunk_ids, Tensor[] seen, int[] chunks, int num, str policy, "
      "int step) -> Tensor");

  // torchrec_gr/ops/table_rows.py
  m.def(
      "init_rows_(Tensor(a!)[] weights, Tensor(b!)[] states, Tensor slots, Tensor ids, int seed, "
      "float std) -> ()");
  m.def(
      "gather_rows(Tensor[] weights, Tensor slots, int dim, Tensor? index, Tensor? offsets, "
      "Tensor? factors) -> Tensor");
  m.def(
      "update_rows_(Tensor(a!)[] weights, Tensor(b!)[] states, Tensor slots, "
      "Tensor table_offsets, Tensor grads, Tensor? index, Tensor? offsets, Tensor? factors, "
      "str[] optimizers, float[] lrs, float[] eps) -> ()");

  // torchrec_gr/ops/pool_rows.py
  m.def("pool_rows(Tensor rows, Tensor index, Tensor? offsets, Tensor? weights) -> Tensor");
  m.def(
      "sum_rows(Tensor grad, Tensor index, Tensor? offsets, Tensor? weights, SymInt num_rows) "
      "-> Tensor");

  // torchrec_gr/ops/indexed_products.py
  m.def("indexed_products(Tensor left, Tensor rows, Tensor index) -> Tensor");
  m.def(
      "indexed_products_backward(Tensor grad, Tensor left, Tensor rows, Tensor index) -> "
      "(Tensor of_left, Tensor of_rows)");

  // torchrec_gr/ops/cpu_capability.py
  m.def("cpu_capability() -> str");
}
