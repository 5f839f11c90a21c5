"""What a forward pass of MTGR costs: time by candidates, FLOPs beside those of a DLRM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Row, Table, best_milliseconds, figure
from benchmarks.models.mtgr_training import build_model
from benchmarks.models.mtgr_windows import (
    NUM_USER_TOKENS,
    SCHEMA,
    TABLE_DIM,
    TABLE_ROWS,
    draw_windows,
    num_tokens,
)
from torchrec_gr.models.dlrm import DLRMConfig, build_dlrm
from torchrec_gr.models.mtgr_config import MTGRConfig, Size
from torchrec_gr.models.table_configs import embedding_bag_configs
from torchrec_gr.modules.impression_ranker import ImpressionRanker
from torchrec_gr.sequences.impressions import to_impressions
from torchrec_gr.sequences.request_batch import RequestBatch

_CANDIDATES_OF_SIZES = 20


class Case(NamedTuple):
    """A request, and the sizes whose FLOPs are counted.

    Args:
        num_candidates: how many of a request are scored.
        num_history, num_real_time: its events, and how many of them are of late.
        dim: width of the model that scores; 3 layers, 2 heads.
        sizes: of the paper.
        num_tokens: of the row that they read, 20 of them candidates. The paper does not say how
            long the samples are whose FLOPs it gives; MTGenRec's have 600 tokens on average.
    """

    num_candidates: Sequence[int]
    num_history: int
    num_real_time: int
    dim: int
    sizes: Sequence[Size]
    num_tokens: int

    @property
    def config(self) -> MTGRConfig:
        """Of the model that scores."""
        most = NUM_USER_TOKENS + self.num_history + max(self.num_candidates)
        return MTGRConfig(dim=self.dim, max_seq_len=most)

    def request(self, num_candidates: int) -> RequestBatch:
        """One, of so many candidates."""
        return _row(self.num_history, num_candidates, self.num_real_time)


class Counted(NamedTuple):
    """A forward pass.

    Args:
        model: whose.
        num_tokens, num_candidates: of a row; a DLRM's rows are impressions, of no tokens.
        gflops: of a row.
    """

    model: str
    num_tokens: int
    num_candidates: int
    gflops: float


def measure_scoring(case: Case, seconds: float) -> list[Row]:
    """Milliseconds of a request by its candidates, and the line a + b * candidates through them."""
    print(f"\nscoring the candidates of a request of {case.num_history} events")
    ms = _scoring_ms(case, seconds)
    fixed, each = fitted_line(ms)
    table = Table({"candidates": 10, "ms": 8, "by the line": 11, "error": 7})
    described = {"num_history": case.num_history, "dim": case.dim}
    errors = {num: (fixed + each * num) / measured - 1 for num, measured in ms.items()}
    for num, measured in ms.items():
        table.row(f"{num}", f"{measured:.2f}", f"{fixed + each * num:.2f}", f"{errors[num]:+.1%}")
    largest = max(abs(error) for error in errors.values())
    print(f"\n{fixed:.2f} ms + {1000 * each:.1f} us a candidate; off by at most {largest:.1%}")
    return [
        *(figure(f"scoring_{num}_ms", described, measured) for num, measured in ms.items()),
        figure("scoring_fixed_ms", described, fixed),
        figure("scoring_ms_a_candidate", described, each),
        figure("scoring_largest_error", described, largest),
    ]


def _scoring_ms(case: Case, seconds: float) -> dict[int, float]:
    model = build_model(case.config).eval()
    with torch.inference_mode():
        runs = {f"{num}": partial(model, case.request(num)) for num in case.num_candidates}
        for run in runs.values():
            run()
        times = best_milliseconds(runs, seconds / len(runs))
    return {num: times[f"{num}"] for num in case.num_candidates}


def fitted_line(ms: Mapping[int, float]) -> tuple[float, float]:
    """The a and b of a + b * number whose relative errors have the least squares."""
    numbers, times = torch.tensor(list(ms)).double(), torch.tensor(list(ms.values())).double()
    columns = torch.stack([1 / times, numbers / times], dim=1)
    fixed, each = torch.linalg.lstsq(columns, torch.ones_like(times)[:, None]).solution[:, 0]
    return float(fixed), float(each)


def measure_flops(case: Case) -> list[Row]:
    """FLOPs of forward passes: of the model by candidates, of the paper's sizes, of a DLRM."""
    print("\nGFLOPs of a forward pass")
    table = Table({"model": 12, "tokens": 6, "candidates": 10, "a row": 9, "an example": 10})
    rows: list[Row] = []
    for counted in count_flops(case):
        an_example = counted.gflops / counted.num_candidates
        model, tokens, candidates, gflops = counted
        table.row(model, f"{tokens}", f"{candidates}", f"{gflops:.4f}", f"{an_example:.5f}")
        described = {"model": model, "num_tokens": tokens, "num_candidates": candidates}
        rows.append(figure("gflops_a_row", described, gflops))
        rows.append(figure("gflops_an_example", described, an_example))
    return rows


def count_flops(case: Case) -> Iterator[Counted]:
    """What `measure_flops` prints."""
    model = build_model(case.config)
    for num in case.num_candidates:
        request = case.request(num)
        yield _counted(f"MTGR {case.dim}", partial(model, request), request)
    yield Counted("DLRM", 0, 1, _gflops_of_dlrm(case.request(8)))
    num_history = case.num_tokens - NUM_USER_TOKENS - _CANDIDATES_OF_SIZES
    row = _row(num_history, _CANDIDATES_OF_SIZES, num_history // 10)
    for size in case.sizes:
        preset = build_model(MTGRConfig.preset(size, max_seq_len=case.num_tokens))
        yield _counted(f"MTGR {size}", partial(preset, row), row)


def gflops_of(forward: Callable[[], object]) -> float:
    """Counted by PyTorch while it computes: products alone, look-ups are free."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops() / 1e9


def _counted(name: str, forward: Callable[[], object], row: RequestBatch) -> Counted:
    return Counted(name, int(num_tokens(row)), len(row.source_rows), gflops_of(forward))


def _gflops_of_dlrm(request: RequestBatch) -> float:
    """An impression."""
    impressions = to_impressions(request)
    num_rows, num_dense = impressions.dense_features.shape
    tables = embedding_bag_configs(SCHEMA, TABLE_ROWS, TABLE_DIM)
    dlrm = build_dlrm(tables, num_dense, DLRMConfig(), num_tasks=len(SCHEMA.labels))
    return gflops_of(partial(ImpressionRanker(dlrm), impressions)) / num_rows


def _row(num_history: int, num_candidates: int, num_real_time: int) -> RequestBatch:
    counts = (num_history, num_candidates, num_real_time)
    return draw_windows(*(torch.tensor([count]) for count in counts), at_once=True)
