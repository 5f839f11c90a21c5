"""The command line that the pipelines share."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from pipelines.configuration.benchmark_settings import BudgetKind
from pipelines.configuration.config import build, merged, read_config
from pipelines.configuration.model_name import MODULES, RANKERS
from pipelines.configuration.settings import PretrainUsers, Settings
from pipelines.configuration.variants import check_variants
from torchrec_gr.data.datasets import DATASETS
from torchrec_gr.data.loader import HistoryAsOf
from torchrec_gr.schema.feature_schema import nearest_valid
from torchrec_gr.training.strategy import GPSD_STRATEGIES, STRATEGIES

Command = Literal["pretrain", "finetune", "lum", "compare", "benchmark"]

_DEFAULTS = Path(__file__).parent / "defaults"

_MODELS = (
    f"of {', '.join(RANKERS)} or package.module:build; with a module in it <model>+<module>, of "
    f"{', '.join(MODULES)}; under a variant of the settings <model>@<variant>"
)

_LIBRARY_WARNINGS = (
    "`broadcast_buffers` is deprecated",
    "Please use DTensor instead",
    "torch.distributed is disabled, unavailable or uninitialized",
)


def parse(
    command: Command, doc: str | None, arguments: list[str] | None = None
) -> tuple[argparse.Namespace, Settings]:
    """Reads a pipeline's arguments.

    A setting is taken from, in rising order: its default, `defaults/<data>.yaml` beside this file,
    of a benchmark `defaults/benchmark.yaml`, the file of --config, the command line.

    Args:
        command: whose arguments.
        doc: shown by --help.
        arguments: default: the process's own.

    Returns:
        The arguments, and the settings.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m pipelines.{command}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_common(parser)
    if command in ("compare", "benchmark"):
        _add_comparison(parser)
        (_add_baseline if command == "compare" else _add_benchmark)(parser)
    else:
        _add_single_run(parser, command)
    options = parser.parse_args(arguments)
    try:
        return options, read_settings(options.config, _given(options), command)
    except ValueError as error:
        parser.error(str(error))


def read_settings(
    config: Path | None, given: dict[str, Any], command: Command = "compare"
) -> Settings:
    """Merges defaults, the data set's own, the command's, a config file and what was given.

    Raises:
        ValueError: an unknown setting (with the nearest valid one), a value of the wrong type, or a
            variant that cannot be.
    """
    from_file = read_config(config) if config else {}
    data = given.get("data", from_file.get("data", Settings().data))
    values: dict[str, Any] = {}
    for name in (data, command):
        own = _DEFAULTS / f"{name}.yaml"
        values = merged(values, read_config(own) if own.exists() else {})
    return check_variants(build(Settings, merged(merged(values, from_file), given)))


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Ends the process with one line on what went wrong, where it is the user's to mend.

    What torch and TorchRec warn of their own code, which no user can mend, is not shown.
    """
    for message in _LIBRARY_WARNINGS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        if type(error) is RuntimeError:
            raise
        sys.exit(f"error: {error}")


def _add_common(parser: argparse.ArgumentParser) -> None:
    d = Settings()
    parser.add_argument(
        "--data",
        type=_data_set,
        metavar="NAME",
        help=f"which log, of {', '.join(DATASETS)} (default: {d.data})",
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="its files (default: data/NAME)"
    )
    parser.add_argument("--label", help="the label to rank by (default: the data set's first)")
    parser.add_argument(
        "--epochs",
        type=int,
        help="of pretraining in pretrain, of ranking elsewhere "
        f"(default: the data set's, else {d.pretrain.epochs} and {d.epochs})",
    )
    parser.add_argument(
        "--dims",
        type=numbers,
        metavar="D[,D...]",
        help=f"widths of tables and transformer (default: the data set's, else {d.dims[0]})",
    )
    parser.add_argument(
        "--history-as-of",
        choices=get_args(HistoryAsOf),
        help=f"how fresh histories are, for all models (default: {d.history_as_of})",
    )
    parser.add_argument(
        "--pretrain-users",
        type=words,
        metavar="all|training",
        help="whose histories pretraining reads, of "
        + ", ".join(get_args(PretrainUsers))
        + f" (default: {d.pretrain_users[0]})",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML of any other setting")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where everything is written"
    )


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    d = Settings()
    parser.add_argument(
        "--models",
        type=words,
        metavar="M[,M...]",
        help=f"{_MODELS} (default: {','.join(d.models)})",
    )
    parser.add_argument(
        "--strategies",
        type=_strategies,
        metavar="all|S[,S...]",
        help=f"of {', '.join(STRATEGIES)}; all: those of GPSD, which are all but the last "
        f"(default: {','.join(d.strategies)})",
    )
    parser.add_argument("--seeds", type=int, help=f"how many (default: {d.seeds})")


def _add_baseline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--baseline",
        metavar="PACKAGE.MODULE:BUILD",
        help="your own CTR model in vanilla DLRM's place: build(tables, num_dense) returns a "
        "module of (dense_features, sparse_features) (default: dlrm)",
    )


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budget",
        nargs=2,
        action=_ReadBudget,
        metavar=("KIND", "VALUE"),
        help=f"what every model gets alike, of {', '.join(get_args(BudgetKind))}: training ends "
        "there, pretraining counted; of parameters, models are as wide as that lets them "
        "(default: each model to its own best epoch)",
    )
    parser.add_argument(
        "--baseline",
        dest="earlier",
        type=Path,
        metavar="FILE",
        help="an earlier results.json: exits with an error where a metric fell by more than its "
        "noise band",
    )


class _ReadBudget(argparse.Action):
    """Reads the two words of a budget into plain settings."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        kind, value = values
        setattr(namespace, self.dest, {"kind": kind, "value": value})


def _add_single_run(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    if command != "lum":
        parser.add_argument(
            "--from",
            dest="start",
            type=Path,
            metavar="RUN",
            help=f"go on from an earlier {command}",
        )
    if command == "pretrain":
        parser.add_argument(
            "--module", choices=MODULES, default="gpsd", help="what to pretrain (default: gpsd)"
        )
    if command == "finetune":
        parser.add_argument(
            "--model",
            default="gpsd",
            metavar="NAME",
            help=f"{_MODELS} (default: gpsd)",
        )
        parser.add_argument(
            "--strategy",
            choices=STRATEGIES,
            default="none",
            help="how pretrained weights come in (default: none)",
        )
        parser.add_argument(
            "--pretrained", type=Path, metavar="DIR", help="a pretraining's --out, or an artefact"
        )


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line, by name."""
    names = {field.name for field in dataclasses.fields(Settings)}
    given = {k: v for k, v in vars(options).items() if k in names and v is not None}
    if "module" in options and "epochs" in given:
        stage = "pretrain" if options.module == "gpsd" else options.module
        given[stage] = {"epochs": given.pop("epochs")}
    return given


def _data_set(name: str) -> str:
    if name not in DATASETS:
        raise argparse.ArgumentTypeError(nearest_valid("data set", name, DATASETS))
    return name


def words(text: str) -> tuple[str, ...]:
    """Reads an argument of words between commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _strategies(text: str) -> tuple[str, ...]:
    return GPSD_STRATEGIES if text == "all" else words(text)


def numbers(text: str) -> tuple[int, ...]:
    """Reads an argument of whole numbers between commas."""
    return tuple(int(word) for word in words(text))
