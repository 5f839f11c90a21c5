"""From a sequence module and its tables to what is put into a model."""

from __future__ import annotations

from torchrec_gr.models.pinfm import PinFMEncoder
from torchrec_gr.pretrained.attaching.encoders import Description, SequenceModule
from torchrec_gr.pretrained.attaching.feature_mapping import FeatureMapping
from torchrec_gr.pretrained.attaching.impression_encoder import ImpressionBody, ImpressionEncoder
from torchrec_gr.pretrained.attaching.module_tables import ModuleTables, positive_rows
from torchrec_gr.pretrained.tuning.pinfm_body import PinFMBody
from torchrec_gr.pretrained.tuning.tuning_objective import TuningObjective


def impression_encoder(
    description: Description,
    module: SequenceModule,
    mapping: FeatureMapping,
    tables: ModuleTables,
    *,
    deduplicate: bool,
) -> ImpressionEncoder:
    """The module over the user's keys, its tables in the user's row space; all fresh.

    Raises:
        ValueError: a tuning asks for what the mapping leaves out.
    """
    body: ImpressionBody
    if module.tuning is None:
        body = ImpressionBody(
            module.encoder,
            dim=module.dim,
            history=mapping.history,
            candidates=mapping.candidates,
            max_history=module.max_history,
            deduplicate=deduplicate,
        )
    else:
        assert isinstance(module.encoder, PinFMEncoder)
        reads_history = module.tuning.next_token_weight > 0
        positives = positive_rows(description, mapping) if reads_history else {}
        body = PinFMBody(
            module.encoder,
            module.tuning,
            TuningObjective(module.tuning, module.encoder.contrast.temperature.item(), positives),
            history=mapping.history,
            candidates=mapping.candidates,
            max_history=module.max_history,
            deduplicate=deduplicate,
            raw_ids=tables.hashed is not None and tables.hashed.row_ids is None,
        )
    return ImpressionEncoder(tables.embeddings(), body, tables.items(), tables.item_ids())
