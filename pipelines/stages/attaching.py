"""Puts a pretrained module into an impression-level ranker, as `<ranker>+<module>` names it."""

from __future__ import annotations

from typing import Any

from torch import nn

from pipelines.configuration.model_name import Module
from pipelines.configuration.settings import Settings
from pipelines.stages.pretrainers import module_config
from pipelines.stages.transferring import FirstWeights, Transferred, move_weights, open_weights
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.modules.impression_ranker import ImpressionRanker
from torchrec_gr.pretrained import Pretrained, attach_pretrained, attachment, load_pretrained
from torchrec_gr.pretrained.attaching.untrained import UntrainedModule, untrained_module
from torchrec_gr.pretrained.tuning.tuned_ranker import TunedRanker
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.training.strategy import Strategy


def attach_module(
    model: nn.Module,
    module: Module,
    log: PreparedLog,
    settings: Settings,
    dim: int,
    first: FirstWeights,
) -> tuple[nn.Module, Transferred]:
    """Attaches a module to a model and makes a ranker of both.

    Args:
        model: of (dense_features, sparse_features), not sharded yet.
        module: which.
        log: whose features both read, each by its own name.
        settings: of the module, and how it is tuned.
        dim: width of a module that is not pretrained.
        first: its weights; without any it starts from fresh ones.

    Returns:
        The ranker, and what of it came from earlier weights.

    Raises:
        ValueError: a log without histories, an artefact of another module, or what
            `attach_pretrained` refuses.
    """
    if log.events is None:
        raise ValueError(f"the module {module!r} reads histories: this log has no history features")
    _require_rows(settings, log)
    weights, strategy = _weights(module, log, settings, dim, first)
    features, candidate = _keys(log.schema)
    history_tables = dict.fromkeys(feature.table for feature in log.schema.of("history"))
    tuning: dict[str, Any] = {"tuning": settings.pinfm.tuning} if module == "pinfm" else {}
    model = attach_pretrained(
        model,
        weights,
        features=features,
        candidate=candidate,
        vocabularies={table: log.vocabularies[table] for table in history_tables},
        strategy=strategy,
        widen=settings.widen,
        **tuning,
    )
    ranker = TunedRanker(model, len(log.schema.labels)) if tuning else ImpressionRanker(model)
    if first.earlier is not None:
        source = open_weights(first.earlier)
        return ranker, move_weights(ranker, source, "full", log.vocabularies)
    attached = attachment(ranker)
    assert attached.report is not None
    if strategy == "none":
        return ranker, Transferred(attached.report)
    return ranker, Transferred(attached.report, tuple(attached.tables), tuple(attached.loaded))


def _require_rows(settings: Settings, log: PreparedLog) -> None:
    """Refuses content tables that are too small for the log's own rows."""
    tables = {feature.name: feature.table for feature in log.schema.features}
    for key, num_rows in settings.pinfm.tuning.content.items():
        needed = log.table_rows.get(tables.get(key, ""), 0)
        if num_rows < needed:
            raise ValueError(
                f"setting pinfm.tuning.content: {key!r} needs a row for each of the log's, "
                f"{needed}, got {num_rows}"
            )


def _weights(
    module: Module, log: PreparedLog, settings: Settings, dim: int, first: FirstWeights
) -> tuple[Pretrained | UntrainedModule, Strategy]:
    """The module to attach, and how its weights come in."""
    if first.pretrained is None or first.strategy == "none":
        config = module_config(module, log, settings, dim)
        untrained = untrained_module(
            module=module, config=config, schema=log.schema, vocabularies=log.vocabularies
        )
        return untrained, "none"
    pretrained = load_pretrained(first.pretrained)
    if pretrained.module != module:
        raise ValueError(
            f"{pretrained.name} holds a module of kind {pretrained.module!r}, the model names "
            f"{module!r}: pretrain one with python -m pipelines.pretrain --module {module}"
        )
    return pretrained, first.strategy


def _keys(schema: FeatureSchema) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """By history feature its own key, and that of the candidate's value of it.

    A candidate feature is read once: of two history features of one table, by the first.
    """
    candidate: dict[str, str | None] = {}
    for feature in schema.of("history"):
        shared = schema.candidate_of(feature.name)
        if shared is not None:
            taken = shared.name in candidate.values()
            candidate[feature.name] = None if taken else shared.name
    return {feature.name: feature.name for feature in schema.of("history")}, candidate
