"""Requests of many candidates: scored as the log's own rows are, whatever the company."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from pipelines.benchmarking.candidate_requests import candidate_requests, in_rows
from pipelines.benchmarking.measuring import requests_for, scorer
from pipelines.configuration.config import build, read_config
from pipelines.configuration.model_name import parse_model
from pipelines.configuration.settings import Settings
from pipelines.configuration.variants import lay_over
from pipelines.stages.open_log import open_log
from pipelines.stages.rankers import Ranker, build_ranker
from pipelines.stages.transferring import FirstWeights
from tests.pipelines.clicks import write_clicks
from tests.pipelines.test_hstu_ranker import SCHEMA, SETTINGS
from torchrec_gr.data.log_source import TEST
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.training.evaluation import evaluate
from torchrec_gr.training.process_group import process_group

CPU = torch.device("cpu")
OF_ROWS = ("dlrm", "dlrm_dcn", "din", "wukong", "gpsd", "longer", "dlrm+pinfm")
OF_WINDOWS = ("mtgr", "hstu", "hstu@genrank")  # under LiGR candidates see each other


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PreparedLog, Settings]]:
    folder = tmp_path_factory.mktemp("clicks")
    sizes = {"transformer": {"num_layers": 1, "num_heads": 2}}
    mtgr = {"sizes": {"dim": 16, "num_layers": 2, "num_heads": 2}, "max_candidates": 7}
    hstu = {**SETTINGS["hstu"], "max_candidates": 7}
    pinfm = {"sizes": {"num_layers": 1, "num_heads": 2}}
    settings = {**SETTINGS, **sizes, "mtgr": mtgr, "hstu": hstu, "pinfm": pinfm}
    # Nothing is cut: a window keeps the newest events that its first exposure knows, and later
    # ones, a request those of its own.
    config = write_clicks(folder, settings, {**SCHEMA, "max_history": 200})
    built = build(Settings, read_config(config))
    with process_group("cpu"):
        yield open_log(built, folder / "data"), built


def ranker(opened: tuple[PreparedLog, Settings], model: str) -> Ranker:
    log, settings = opened
    name = parse_model(model, settings.variants)
    settings = lay_over(settings, name.variant)
    built = build_ranker(name, log, settings, 8, 0, FirstWeights())
    built.module.eval()
    return built


def test_a_request_has_others_candidates_at_its_own_moment(
    opened: tuple[PreparedLog, Settings],
) -> None:
    log, _ = opened
    requests = candidate_requests(log, 5, 300, "exposure")
    assert len(requests) == 5
    for batch in requests:
        assert batch.num_candidates.tolist() == [300]
        assert batch.ids[batch.candidates[0]].values().numel() == 300
        assert batch.candidate_times.unique().numel() == 1
        assert batch.source_rows.unique().numel() == min(300, log.num_rows(TEST))
        assert (batch.history_times < batch.candidate_times[0]).all()
    users = {int(batch.user_ids[0]) for batch in requests}
    assert len(users) > 1


def test_rows_of_some_candidates_have_the_whole_history(
    opened: tuple[PreparedLog, Settings],
) -> None:
    batch = candidate_requests(opened[0], 3, 10, "exposure")[-1]
    rows = in_rows(batch, 4)
    assert rows.num_candidates.tolist() == [4, 4, 2]
    assert rows.num_history().tolist() == batch.num_history().tolist() * 3
    for key in batch.ids.keys():  # noqa: SIM118 (a KeyedJaggedTensor is no mapping)
        whole, parts = batch.ids[key].values(), rows.ids[key].values()
        assert torch.equal(parts, whole if key in batch.candidates else whole.repeat(3))


@pytest.mark.parametrize("model", [*OF_ROWS, *OF_WINDOWS])
def test_a_candidate_scores_the_same_alone_and_among_many(
    opened: tuple[PreparedLog, Settings], model: str
) -> None:
    score = scorer(ranker(opened, model), CPU)
    with torch.no_grad():
        alone = [score(batch)[0] for batch in candidate_requests(opened[0], 4, 1, "exposure")]
        many = [score(batch) for batch in candidate_requests(opened[0], 4, 20, "exposure")]
    for one, among in zip(alone, many, strict=True):
        assert among.shape[0] == 20
        assert torch.allclose(one, among[0], atol=1e-5)
        assert among.std() > 0


@pytest.mark.parametrize("model", [*OF_ROWS, *OF_WINDOWS])
def test_a_logs_own_row_scores_as_it_is_evaluated(
    opened: tuple[PreparedLog, Settings], model: str
) -> None:
    """A window's long-term events are those of its first exposure: frozen histories have one."""
    log, settings = opened
    if model in OF_WINDOWS:
        settings = dataclasses.replace(settings, history_as_of="split")
    built = ranker(opened, model)
    loader = built.reading.to_score(log, TEST, settings.history_as_of)
    evaluated = evaluate(built.module, loader, CPU)
    place = {int(row): i for i, row in enumerate(evaluated.source_rows)}
    score = scorer(built, CPU)
    with torch.no_grad():
        for batch in requests_for(log, settings, built, 1, CPU):
            expected = torch.from_numpy(evaluated.logits[place[int(batch.source_rows[0])]])
            assert torch.allclose(score(batch).reshape(-1), expected.reshape(-1), atol=1e-5)
