"""Plugs a pretrained sequence module into a CTR model that works."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast, get_args

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel, get_unwrapped_module

from torchrec_gr.pretrained.artefact.load import Pretrained, load_pretrained
from torchrec_gr.pretrained.attaching.attached import CHILD, Attached, Junction, attached_class
from torchrec_gr.pretrained.attaching.detach import take_off
from torchrec_gr.pretrained.attaching.encoders import SequenceModule, sequence_module
from torchrec_gr.pretrained.attaching.entry import Entry, ReadIds, find_entry, find_linear
from torchrec_gr.pretrained.attaching.feature_mapping import RowIds, map_features
from torchrec_gr.pretrained.attaching.impression_encoder import ImpressionEncoder
from torchrec_gr.pretrained.attaching.module_encoder import impression_encoder
from torchrec_gr.pretrained.attaching.module_tables import ModuleTables
from torchrec_gr.pretrained.attaching.rewrap import rewrap, unwrapped
from torchrec_gr.pretrained.attaching.untrained import UntrainedModule
from torchrec_gr.pretrained.attaching.widened_linear import Carrier
from torchrec_gr.pretrained.attaching.widened_linear import widen as widen_linear
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.training.freeze import freeze, frozen_for_good
from torchrec_gr.training.optimizer import TableOptimizer
from torchrec_gr.training.sharding import shard
from torchrec_gr.training.source import Source, WeightsInMemory
from torchrec_gr.training.strategy import (
    STRATEGIES,
    Strategy,
    freezes_tables,
    moves_dense,
    parameter_groups,
)
from torchrec_gr.training.transfer import transfer
from torchrec_gr.training.transfer_plan import TablePlan, TransferPlan
from torchrec_gr.training.transfer_report import TransferReport

Model = TypeVar("Model", bound=nn.Module)


def attach_pretrained(
    model: Model,
    pretrained: str | Path | Pretrained | UntrainedModule,
    *,
    features: Mapping[str, str | None],
    candidate: Mapping[str, str | None],
    vocabularies: Mapping[str, RowIds] | None = None,
    strategy: Strategy = "sparse-freeze",
    widen: str | None = None,
    hook: Callable[[Tensor], None] | None = None,
    kjt: ReadIds | None = None,
    deduplicate: bool = True,
    table_optimizer: TableOptimizer | None = None,
    tuning: PinFMTuning | None = None,
) -> Model:
    """Plugs a pretrained sequence module into a model, which then predicts what it did before.

    The module encodes each impression's history with its candidate behind it, by tables of its own
    in the user's row numbers, and gives one vector, [B, D] (of a PinFM module [B, 2 * D], the raw
    embedding of the candidate's id behind). A Linear of the model is widened by a
    zero-initialised one over the vector, so predictions are bit-equal at first. The model's own
    parameters keep their names; new ones are `pretrained.*` and `<linear>.widening.weight`. State
    dicts from before load as before.

    Args:
        model: any model that reads a KeyedJaggedTensor, or the DistributedModelParallel around it.
            It is changed in place.
        pretrained: an artefact, or its folder, or that of the run that wrote it; or, under strategy
            "none", an `untrained_module`.
        features: by each of the artefact's history features, by its name or its column in the log,
            the model's key of the histories that holds it, oldest event first; None leaves it out.
        candidate: likewise by the features that a candidate shares, the key with the candidate's
            own value, one a row; a row without one gets the vector 0.
        vocabularies: by feature or table what the model's row numbers stand for: [rows] raw ids,
            null where a row stands for none, or a Vocabulary. Left out, they are the artefact's own
            rows, or, where its table is dynamic or multi-hash, raw ids.
        strategy: which weights are loaded, and how they train: see `training.strategy`. "-freeze"
            freezes the tables here, "frozen" the loaded dense parameters as well; for "-thaw" and
            "-slow" give `attachment(model).parameter_groups(...)` to `shard` and `build_optimizer`.
        widen: path of the Linear that reads the vectors; default: the first of the over arch of
            TorchRec's DLRMs and SimpleDeepFMNN.
        hook: instead, is called with the vectors before each forward of the model.
        kjt: gets the arguments of the model's forward and gives its KeyedJaggedTensor; default: a
            parameter `sparse_features`, or `batch` with `.sparse_features`.
        deduplicate: impressions of equal histories in a batch are encoded as one request.
        table_optimizer: of the module's tables, where the model is sharded and they train.
        tuning: how a PinFM module is read and trained; default: `PinFMTuning()`.

    Returns:
        The model; wrapped anew, if it is a DistributedModelParallel: use that one from now on, in a
        new pipeline. Its own tables keep their optimizer state, its dense parameters are the same
        objects.

    Raises:
        ValueError: anything that does not fit; the model is then as it was.

    Source: GPSD (2506.03699) and PinFM (2507.12704), a pretrained module inside a ranker, and
        PinFM's deduplication; widening by a parallel Linear is ours.
    """
    if strategy not in get_args(Strategy):
        raise ValueError(f"unknown strategy {strategy!r}: expected one of {', '.join(STRATEGIES)}")
    if isinstance(pretrained, str | Path):
        pretrained = load_pretrained(pretrained)
    source = _source(pretrained, strategy)
    inner = unwrapped(model)
    entry = find_entry(inner, kjt)
    _require_free(inner, entry, widen, hook)
    linear = find_linear(inner, entry, widen) if hook is None else None
    module = sequence_module(pretrained, tuning)
    mapping = map_features(
        pretrained.schema, features, candidate, vocabularies or {}, item=module.item
    )
    tables = ModuleTables(pretrained, module, mapping)
    encoder = impression_encoder(pretrained, module, mapping, tables, deduplicate=deduplicate)
    plans = tables.plans()
    sharded = None
    if isinstance(model, DistributedModelParallel):
        sharded = _shard_alone(encoder, model.device, tables, strategy, table_optimizer)
        encoder = get_unwrapped_module(sharded)
    elif freezes_tables(strategy):
        freeze(encoder, plans)
    dense = module.dense if moves_dense(strategy) else {}
    if strategy == "frozen":
        for name, weight in module.encoder.named_parameters():
            weight.requires_grad_(name not in dense and weight.requires_grad)
    junction = Junction(
        entry.read_ids, Carrier(), None, hook, strategy, tuple(plans), tuple(dense), module.tuning
    )
    attached = _join(entry, encoder, linear, junction)
    try:
        report = transfer(source, inner, _transfer_plan(plans, entry, strategy, dense))
    except BaseException:
        take_off(attached)
        raise
    junction.report = _with_new(report, entry, module, tables)
    if isinstance(model, DistributedModelParallel) and sharded is not None:
        return cast("Model", _wrapped_with(sharded, model, entry.full_name(CHILD)))
    return model


def _source(pretrained: Pretrained | UntrainedModule, strategy: Strategy) -> Source:
    """Where the weights come from."""
    if isinstance(pretrained, Pretrained):
        return pretrained
    if strategy != "none":
        raise ValueError(
            f"strategy {strategy!r} transfers weights, and {pretrained.name} has none: give "
            'strategy="none", or an artefact'
        )
    return WeightsInMemory(pretrained.name, {})


def _require_free(
    model: nn.Module, entry: Entry, widen: str | None, hook: Callable[[Tensor], None] | None
) -> None:
    if any(isinstance(module, Attached) for module in model.modules()):
        raise ValueError(
            f"a pretrained module is attached to this {type(model).__name__} already: take it off "
            "with detach_pretrained first"
        )
    if hasattr(entry.module, CHILD):
        raise ValueError(
            f"{type(entry.module).__name__} has an attribute {CHILD!r} already, where the module "
            "would go: rename it"
        )
    if widen is not None and hook is not None:
        raise ValueError("widen and hook were both given: the vector goes to one of them")


def _shard_alone(
    encoder: ImpressionEncoder,
    device: torch.device,
    tables: ModuleTables,
    strategy: Strategy,
    optimizer: TableOptimizer | None,
) -> DistributedModelParallel:
    """Shards a module that is to join a sharded model."""
    if optimizer is None and tables.content:
        raise ValueError(
            f"the model is sharded, and the tables of content {list(tables.content)} train under "
            "every strategy: give table_optimizer=TableOptimizer(...)"
        )
    if optimizer is None and not freezes_tables(strategy):
        raise ValueError(
            f"the model is sharded, and under {strategy!r} the pretrained module's tables train: "
            "give table_optimizer=TableOptimizer(...), or a strategy that freezes them"
        )
    sharded = shard(
        encoder,
        device=device,
        table_optimizer=optimizer or TableOptimizer(),
        groups=parameter_groups(strategy, tuple(tables.plans()), (), thaw_after=0),
    )
    sharded._dmp_wrapped_module = get_unwrapped_module(sharded)  # replicated with the whole model
    return sharded


def _wrapped_with(
    added: DistributedModelParallel, old: DistributedModelParallel, path: str
) -> DistributedModelParallel:
    """Wraps a sharded model anew, which has a module at `path` that was sharded alone."""
    plan = {f"{path}.{of}": placed for of, placed in added.plan.plan.items()}
    frozen = {f"{path}.{name}" for name in frozen_for_good(added)}
    return rewrap(old, {**old.plan.plan, **plan}, frozen_for_good(old) | frozen)


def _join(
    entry: Entry, encoder: ImpressionEncoder, linear: nn.Linear | None, junction: Junction
) -> Attached:
    attached, device = entry.module, _device(entry.module)
    if linear is not None:
        names = {id(part): path for path, part in attached.named_modules()}
        junction.linear = names[id(linear)]
        widen_linear(linear, encoder.body.dim, junction.carrier, device)
    attached.__class__ = attached_class(type(attached))
    assert isinstance(attached, Attached)
    attached.pretrained, attached.junction = encoder.to(device), junction
    return attached


def _device(module: nn.Module) -> torch.device:
    """Where the module's parameters are, apart from those that are nowhere yet."""
    for parameter in module.parameters():
        if not parameter.is_meta:
            return parameter.device
    return torch.device("cpu")


def _with_new(
    report: TransferReport, entry: Entry, module: SequenceModule, tables: ModuleTables
) -> TransferReport:
    """Marks the parameters that came with the module and that no artefact has."""
    parts = [f"body.encoder.{name}" for name in module.new]
    parts += [f"embeddings.embeddings.{table}.weight" for table in tables.content]
    new = {entry.full_name(f"{CHILD}.{part}") for part in parts}
    return dataclasses.replace(
        report,
        parameters=tuple(
            dataclasses.replace(part, note="new") if part.name in new else part
            for part in report.parameters
        ),
    )


def _transfer_plan(
    tables: Mapping[str, TablePlan], entry: Entry, strategy: Strategy, dense: Mapping[str, str]
) -> TransferPlan:
    if strategy == "none":
        return TransferPlan()
    body = entry.full_name(f"{CHILD}.body.encoder")
    return TransferPlan(tables, {f"{body}.{name}": source for name, source in dense.items()})
