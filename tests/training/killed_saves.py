"""Runs that are killed while they save: `python -m tests.training.killed_saves FOLDER`."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path

import torch

from tests.training.disk_events import before_each
from tests.training.dynamic_toy import dynamic_trainer
from torchrec_gr.training.process_group import process_group

KILLS = range(3, 14, 2)


def main(work_dir: Path) -> None:
    """For each number in `KILLS`, a run is killed before so many of its second save's events."""
    torch.set_num_threads(1)  # as the run that it is compared with, to the last bit
    for kill_at in KILLS:
        process = os.fork()
        if process == 0:
            _train(work_dir / str(kill_at), kill_at)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        assert status == signal.SIGKILL, f"run {kill_at} ended with status {status}"


def _train(run_dir: Path, kill_at: int) -> None:
    with process_group("cpu"):
        trainer = dynamic_trainer(run_dir, full_checkpoint_every=2)
        trainer.train_epoch()
        events = itertools.count()

        def kill(event: str) -> None:
            if next(events) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        with before_each(kill):
            trainer.train_epoch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
