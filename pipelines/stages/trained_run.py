"""A ranker that was trained, put together again from its run's folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipelines.configuration.config import build
from pipelines.configuration.model_name import parse_model
from pipelines.configuration.settings import Settings
from pipelines.stages.open_log import as_read, open_log
from pipelines.stages.rankers import Ranker, build_ranker
from pipelines.stages.run_folder import read_run_settings, read_vocabularies
from pipelines.stages.transferring import FirstWeights
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.training.checkpoint import read_weights


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run of finetune, or of a comparison.

    Args:
        run_dir: its folder.
        log: what it read, its ids in the rows that they had.
        settings: what it ran under, its variant's laid over.
        model, dim, seed: likewise.
    """

    run_dir: Path
    log: PreparedLog
    settings: Settings
    model: str
    dim: int
    seed: int

    def ranker(self) -> Ranker:
        """The ranker with the weights of its newest checkpoint, not sharded, in evaluation.

        Raises:
            ValueError: there is no whole checkpoint, or it does not fit the settings.
        """
        name = parse_model(self.model, self.settings.variants)
        ranker = build_ranker(name, self.log, self.settings, self.dim, self.seed, FirstWeights())
        try:
            ranker.module.load_state_dict(read_weights(self.run_dir))
        except RuntimeError as error:
            raise ValueError(f"{self.run_dir} does not fit its own settings: {error}") from error
        ranker.module.eval()
        return ranker


def open_run(run_dir: Path, data_dir: Path | None = None) -> TrainedRun:
    """Opens a run's folder and the log that it read.

    Args:
        run_dir: of finetune, or in a comparison's folder `runs`.
        data_dir: where the log's files are now; default: where they were.

    Raises:
        ValueError: the folder is not a ranker's, or the log cannot be read.
    """
    words = read_run_settings(run_dir)
    missing = {"settings", "model", "dim", "seed"} - words.keys()
    if missing:
        raise ValueError(
            f"{run_dir} is not the folder of a ranker ({', '.join(sorted(missing))} is not in its "
            "settings): name one of finetune, or in the folder runs of a comparison"
        )
    settings = build(Settings, words["settings"])
    if data_dir is not None:
        settings = dataclasses.replace(settings, data_dir=data_dir)
    alone = (run_dir / "data").is_dir()
    work_dir = (run_dir if alone else run_dir.parent.parent) / "data"
    rows, log = read_vocabularies(run_dir), as_read(open_log(settings, work_dir), settings)
    if any(rows[name].fingerprint() != v.fingerprint() for name, v in log.vocabularies.items()):
        log = as_read(
            open_log(settings, work_dir, rows), settings
        )  # it went on from an earlier run, with its rows
    return TrainedRun(run_dir, log, settings, words["model"], words["dim"], words["seed"])
