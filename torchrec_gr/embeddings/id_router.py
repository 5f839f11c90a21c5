"""Which process holds an id, and the exchange of what belongs to ids."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from torchrec_gr.embeddings.table_rows import TableRows
from torchrec_gr.ops import route_ids


class IdRouter:
    """Spreads ids over the processes of a group by a mixed hash, alike for every table.

    Args:
        group: of processes.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.num_processes = group.size()
        self.rank = group.rank()

    def own(self, rows: TableRows) -> TableRows:
        """Those of the rows that this process holds."""
        return rows.kept(self._own(rows.ids), self._own(rows.waiting_ids))

    def send(self, rows: TableRows) -> TableRows:
        """Sends each row to its process; all processes take part. The rows that came here."""
        order, counts = self._route(rows.ids)
        waiting_order, waiting_counts = self._route(rows.waiting_ids)
        sorted_rows = rows.kept(order, waiting_order)
        return TableRows(
            **{
                name: self._exchange(value, waiting_counts if "waiting" in name else counts)
                for name, value in vars(sorted_rows).items()
            }
        )

    def send_ids(self, ids: Tensor) -> Tensor:
        """Sends each id of [n] to its process; all processes take part. The ids that came here."""
        order, counts = self._route(ids)
        return self._exchange(ids[order], counts)

    def gather(self, value: object) -> list[object]:
        """Every process's value, in their order."""
        values: list[object] = [None] * self.num_processes
        dist.all_gather_object(values, value, group=self.group)
        return values

    def _own(self, ids: Tensor) -> Tensor:
        order, counts = self._route(ids)
        return order.split(counts.tolist())[self.rank]

    def _route(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return route_ids(ids, torch.tensor([0, len(ids)]), self.num_processes)

    def _exchange(self, values: Tensor, counts: Tensor) -> Tensor:
        received = torch.empty_like(counts)
        dist.all_to_all_single(received, counts, group=self.group)
        result = values.new_empty((int(received.sum()), *values.shape[1:]))
        if values.shape[1:].numel():
            dist.all_to_all_single(
                result, values.contiguous(), received.tolist(), counts.tolist(), group=self.group
            )
        return result
