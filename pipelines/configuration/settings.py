"""The settings of every pipeline, with their defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, get_args

from pipelines.configuration.benchmark_settings import Budget, Reference, Search
from torchrec_gr.data.loader import HistoryAsOf
from torchrec_gr.data.segments import Cut
from torchrec_gr.models.din import DINConfig
from torchrec_gr.models.dlrm import DLRMConfig
from torchrec_gr.models.hstu_ranker_config import HSTURankerConfig
from torchrec_gr.models.longer import LongerConfig
from torchrec_gr.models.mtgr_config import MTGRConfig, Size
from torchrec_gr.models.pinfm_config import Trunk
from torchrec_gr.models.wukong import WukongConfig
from torchrec_gr.modules.sequence_trunk import TrunkConfig
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.training.optimizer import DenseOptimizer, TableOptimizer
from torchrec_gr.training.sharding import Sharding
from torchrec_gr.training.strategy import Strategy

PretrainUsers = Literal["all", "training"]


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """How generative pretraining trains.

    Args:
        epochs: passes over the users' sequences.
        batch_size: sequences a step, over all processes.
        num_negatives: uniform negatives a step, shared by all of its positions.
        tables, dense: the optimizers.
        warmup_steps: of the schedule, which then falls by a cosine to a tenth.
    """

    epochs: int = 10
    batch_size: int = 256
    num_negatives: int = 1024
    tables: TableOptimizer = TableOptimizer(lr=0.3)
    dense: DenseOptimizer = DenseOptimizer(lr=2.5e-3, weight_decay=0.1)
    warmup_steps: int = 100


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How a ranker trains.

    Args:
        batch_size: rows a step, over all processes.
        tables, dense: the optimizers.
        transferred_scale: of the tables' learning rate, for those that start from pretrained rows
            and go on training.
        warmup_steps: of the schedule.
        cosine_epochs: over which it then falls by a cosine to a tenth; 0 keeps the peak.
    """

    batch_size: int = 512
    tables: TableOptimizer = TableOptimizer(lr=0.02)
    dense: DenseOptimizer = DenseOptimizer(lr=1e-3, weight_decay=0.0)
    transferred_scale: float = 1.0
    warmup_steps: int = 100
    cosine_epochs: int = 0


@dataclasses.dataclass(frozen=True)
class LongerStage(Ranking):
    """What a LONGER ranker is made of, beside what `Ranking` says.

    Args:
        sizes: of the model; the width of its tables is the comparison's.
    """

    sizes: LongerConfig = field(default_factory=LongerConfig)


@dataclasses.dataclass(frozen=True)
class GPSDSizes:
    """The transformer's depth and what is not its width."""

    num_layers: int = 4
    num_heads: int = 4


@dataclasses.dataclass(frozen=True)
class PinFMSizes:
    """What a PinFM module is made of, and how long a history it reads.

    Args:
        dim: its width and that of its tables; None: the width of the comparison's tables.
        num_layers, num_heads: of its decoder.
        trunk: the decoder's layers.
        num_hashes: sub-tables of the item's multi-hash table; 0: a stock table, a row an id.
        hash_rows: rows of each sub-table.
        cut: how pretraining cuts a user's events into sequences; see `SequenceLoader`.
        segment_length: events of such a sequence; None: the schema's `max_history`.
    """

    dim: int | None = None
    num_layers: int = 4
    num_heads: int = 4
    trunk: Trunk = "gpt2"
    num_hashes: int = 0
    hash_rows: int = 0
    cut: Cut = "segments"
    segment_length: int | None = None


@dataclasses.dataclass(frozen=True)
class PinFMObjectives:
    """The losses of PinFM's pretraining; a weight of 0 leaves one out.

    Args:
        next, window, future, side: weights of the losses that predict the next event's item, the
            items of a window of events, the items behind the served sequence, and the next event's
            side feature.
        window_length: events ahead that `window` and `future` predict.
        max_pairs: of the window's pairs so many are drawn in a step.
        served_length: events of the sequence that the ranker reads.
        num_negatives: in-batch negatives of a query at most.
        positives: by history feature the raw values that make an event one to predict, such as
            `{history_long_view: [1]}`; empty: every event is.
    """

    next: float = 1.0
    window: float = 0.0
    future: float = 0.0
    side: float = 0.0
    window_length: int = 10
    max_pairs: int = 4096
    served_length: int = 50
    num_negatives: int = 1024
    positives: Mapping[str, Any] = field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PinFMStage:
    """How a PinFM module is pretrained, and what it does inside a ranker.

    Args:
        epochs: passes over the users' sequences.
        batch_size: sequences a step, over all processes.
        tables, dense: the optimizers of pretraining.
        warmup_steps: of the schedule, which then falls by a cosine to a tenth.
        sizes, losses: of the module and its pretraining.
        tuning: inside a ranker.
    """

    epochs: int = 5
    batch_size: int = 256
    tables: TableOptimizer = TableOptimizer(lr=0.3)
    dense: DenseOptimizer = DenseOptimizer(lr=2.5e-3, weight_decay=0.1)
    warmup_steps: int = 100
    sizes: PinFMSizes = PinFMSizes()
    losses: PinFMObjectives = PinFMObjectives()
    tuning: PinFMTuning = field(default_factory=PinFMTuning)


@dataclasses.dataclass(frozen=True)
class WindowStage:
    """How a ranker of users' windows reads a log and how it trains.

    Args:
        batch_tokens: tokens a step, over all processes.
        window_hours, max_candidates, real_time_hours, stochastic_length: of its sequences, as
            `WindowLoader` takes them; histories are scored whole.
        tables, dense: the optimizers.
        transferred_scale, warmup_steps, cosine_epochs: as in `Ranking`.
    """

    batch_tokens: int = 8192
    window_hours: float | None = None
    max_candidates: int = 256
    real_time_hours: float = 24.0
    stochastic_length: float | None = None
    tables: TableOptimizer = TableOptimizer(lr=0.02)
    dense: DenseOptimizer = DenseOptimizer(lr=1e-3, weight_decay=0.0)
    transferred_scale: float = 1.0
    warmup_steps: int = 100
    cosine_epochs: int = 0


@dataclasses.dataclass(frozen=True)
class MTGRStage(WindowStage):
    """What an MTGR is made of, beside what `WindowStage` says.

    Args:
        sizes: of the model; the width of its tables is the comparison's.
        preset: one of the paper's sizes: its width, layers and heads stand in those of `sizes`.
    """

    sizes: MTGRConfig = field(default_factory=MTGRConfig)
    preset: Size | None = None


@dataclasses.dataclass(frozen=True)
class HSTUStage(WindowStage):
    """What an HSTU ranker is made of, beside what `WindowStage` says.

    Args:
        sizes: of the model; the width of its tables is the comparison's.
    """

    sizes: HSTURankerConfig = field(default_factory=HSTURankerConfig)


@dataclasses.dataclass(frozen=True)
class LUMStage:
    """What a LUM is made of and asked, and what DLRM reads of its answers.

    Args:
        conditions: history features whose sum is an event's condition; empty: the side target.
        num_queries: the most frequent conditions, which all users are asked under.
        summary_dim: numbers that the answers are projected to, beside a similarity each.
        trunk: the layers; its width is that of LUM's tables.
        training: of step 1.
    """

    conditions: tuple[str, ...] = ()
    num_queries: int = 8
    summary_dim: int = 16
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    training: Pretraining = Pretraining()


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a pipeline can be told.

    Args:
        data, data_dir, label: which log, where its files are, which label is reported.
        data_options: of the data set's loader, such as the schema of `custom`.
        cross_features: whether models read the features that are computed from the log's past,
            where it has any.
        models, strategies: what `compare` runs: every model under every strategy.
        strategies_of: models that run under strategies of their own.
        references: what `benchmark` scores beside models: of `Reference`.
        search, budget: how `benchmark` tunes the models, and what each gets; without a budget each
            trains to its own best epoch.
        baseline: `package.module:build` of a model to stand in vanilla DLRM's place.
        against: further models that the report compares all others with, beside the baseline.
        epochs, seeds: of the ranking stage.
        thaw_epochs: for which "-thaw" keeps the transferred tables frozen.
        dims: widths of the tables and of the transformer; each is a comparison of its own.
        pretrain_users: whose histories pretraining reads, each a run of its own: "all", as GPSD's
            protocol has it, or the training users alone.
        history_as_of: how fresh a history is, the same for all models.
        pretrain, dlrm, gpsd, mtgr, hstu, longer: the stages; `dlrm` is that of every
            impression-level model.
        pinfm: the module of `<model>+pinfm`, which is put into an impression-level model.
        lum: of `pipelines.lum`.
        transformer, dlrm_sizes, din_sizes, wukong_sizes: the models' sizes.
        widen: in a model of the user's own, the path of the Linear that shall read a module's
            vectors; TorchRec's models need none.
        variants: settings by a name of the user's choice: `<model>@<name>` is the model with these
            laid over.
        dlrm_init_std: of the normal first rows of DLRM's tables.
        sharding: of the tables; None is the default of each kind of collection.
        precision: "bf16" runs the dense part under autocast.
        device: "cpu" or "cuda"; None is CUDA where there is a GPU.
        checkpoint_steps: steps between checkpoints; there is one at each epoch's end anyway.
    """

    data: str = "synthetic"
    data_dir: Path | None = None
    label: str | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    cross_features: bool = True
    models: tuple[str, ...] = ("dlrm", "gpsd")
    strategies: tuple[Strategy, ...] = ("none", "sparse-freeze")
    strategies_of: Mapping[str, tuple[Strategy, ...]] = field(default_factory=dict)
    references: tuple[Reference, ...] = get_args(Reference)
    search: Search = Search()
    budget: Budget | None = None
    baseline: str | None = None
    against: tuple[str, ...] = ()
    epochs: int = 3
    seeds: int = 3
    thaw_epochs: int = 1
    dims: tuple[int, ...] = (32,)
    pretrain_users: tuple[PretrainUsers, ...] = ("all",)
    history_as_of: HistoryAsOf = "exposure"
    pretrain: Pretraining = Pretraining()
    dlrm: Ranking = Ranking()
    gpsd: Ranking = Ranking()
    mtgr: MTGRStage = field(default_factory=MTGRStage)
    hstu: HSTUStage = field(default_factory=HSTUStage)
    longer: LongerStage = field(default_factory=LongerStage)
    pinfm: PinFMStage = PinFMStage()
    lum: LUMStage = field(default_factory=LUMStage)
    transformer: GPSDSizes = GPSDSizes()
    widen: str | None = None
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dlrm_sizes: DLRMConfig = DLRMConfig()
    din_sizes: DINConfig = DINConfig()
    wukong_sizes: WukongConfig = WukongConfig()
    dlrm_init_std: float = 0.01
    sharding: Sharding | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["cpu", "cuda"] | None = None
    checkpoint_steps: int = 1000
