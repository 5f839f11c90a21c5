"""Named variants of the settings: laid over, refused, and pretrained once where they agree."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipelines.configuration.command_line import read_settings
from pipelines.configuration.config import ConfigError, to_plain
from pipelines.configuration.model_name import parse_model
from pipelines.configuration.settings import Settings
from pipelines.configuration.variants import lay_over
from pipelines.results.artifacts import RunInfo, write_run_info
from pipelines.results.description import describe_folder
from pipelines.results.plan import Run, plan, pretraining_name
from pipelines.results.rows import ResultRow, append_results


def with_variants(**variants: Any) -> Settings:
    return read_settings(None, {"data": "synthetic", "variants": variants})


def test_a_variant_is_laid_over_and_the_rest_stays() -> None:
    settings = with_variants(wide={"dlrm": {"batch_size": 64, "tables": {"lr": 1e-2}}})
    wide = lay_over(settings, "wide")
    assert (wide.dlrm.batch_size, wide.dlrm.tables.lr) == (64, 0.01)
    assert wide.dlrm.dense == settings.dlrm.dense
    assert dataclasses.replace(wide, dlrm=settings.dlrm) == settings
    assert lay_over(settings, None) is settings


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"wide": {"dlmr": {}}}, r"unknown setting variants.wide. 'dlmr': did you mean 'dlrm'"),
        ({"wide": {"dlrm": {"batch": 1}}}, r"variants.wide.dlrm.*did you mean 'batch_size'"),
        ({"wide": {"seeds": 5}}, r"variants.wide sets 'seeds', which is the same for all runs"),
        ({"wide": {"history_as_of": "day"}}, "sets 'history_as_of'"),
        ({"wide": {"variants": {}}}, "sets 'variants'"),
        ({"wide": 3}, "variants.wide needs a mapping of settings, got 3"),
        ({"a@b": {}}, "a variant cannot be called 'a@b'"),
        ({"wide": {"pinfm": {"tuning": {"fusion": "lats"}}}}, "pinfm.tuning.fusion.*'last'"),
    ],
)
def test_a_variant_that_cannot_be_is_found_at_the_start(
    variants: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        with_variants(**variants)


def test_a_model_under_an_unknown_variant_is_named_before_anything_is_read() -> None:
    settings = dataclasses.replace(with_variants(gslt={}), models=("dlrm+pinfm@gstl",))
    with pytest.raises(ValueError, match="did you mean 'gslt'"):
        plan(settings, has_histories=True)


def test_pretraining_is_shared_where_it_is_the_same() -> None:
    settings = with_variants(
        gslt={"pinfm": {"tuning": {"learnable_token": True}}, "dlrm": {"batch_size": 64}},
        deep={"pinfm": {"sizes": {"num_layers": 6}}},
        deeper={"pinfm": {"sizes": {"num_layers": 6}, "tuning": {"fusion": "last"}}},
        shallow={"transformer": {"num_layers": 1}},
    )

    def name(model: str) -> str:
        run = Run(model, "full-slow", 32, 0, "all")
        return pretraining_name(run, parse_model(model, settings.variants), settings)

    assert name("dlrm+pinfm") == name("dlrm_dcn+pinfm@gslt") == "pinfm.all.d32.s0"
    assert name("dlrm+pinfm@deep") == name("dlrm+pinfm@deeper") != name("dlrm+pinfm")
    assert name("dlrm+pinfm@shallow") == name("dlrm+pinfm")
    assert name("gpsd") == name("gpsd@deep") == "pretrain.all.d32.s0" != name("gpsd@shallow")


def test_a_comparison_may_gain_variants_but_none_may_change(tmp_path: Path) -> None:
    def info(settings: Settings) -> RunInfo:
        return RunInfo(settings=to_plain(settings))

    before = to_plain(with_variants(gslt={"dlrm_init_std": 0.1}))
    del before["pinfm"]  # as a comparison from before there was such a stage
    write_run_info(tmp_path, RunInfo(settings=before))
    row = ResultRow("dlrm", "none", 0, 1, 0.6, 1.0, 10, gauc_refused="no users")
    append_results(tmp_path, [row])
    describe_folder(tmp_path, info(with_variants(wide={}, gslt={"dlrm_init_std": 0.1})))
    describe_folder(tmp_path, info(with_variants()))
    with pytest.raises(ValueError, match=r"other settings \(variants.gslt\)"):
        describe_folder(tmp_path, info(with_variants(gslt={"dlrm_init_std": 0.2})))
