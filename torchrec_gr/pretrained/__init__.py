"""Pretrained modules: folders that stand on their own, and what plugs them into other models."""

from torchrec_gr.pretrained.artefact.artefact_folder import ARTEFACT, has_artefact
from torchrec_gr.pretrained.artefact.load import Pretrained, load_pretrained
from torchrec_gr.pretrained.artefact.model_card import ModelCard
from torchrec_gr.pretrained.artefact.record import PretrainedError
from torchrec_gr.pretrained.artefact.save import save_pretrained
from torchrec_gr.pretrained.attaching.attach import attach_pretrained
from torchrec_gr.pretrained.attaching.attached_names import Attachment, attachment
from torchrec_gr.pretrained.attaching.detach import detach_pretrained
from torchrec_gr.pretrained.attaching.untrained import UntrainedModule, untrained_module
from torchrec_gr.pretrained.serving.cached_encoder import CachedEncoder
from torchrec_gr.pretrained.serving.context_file import ContextError
from torchrec_gr.pretrained.serving.context_server import ContextServer
from torchrec_gr.pretrained.serving.context_store import ContextStore
from torchrec_gr.pretrained.serving.module_version import (
    artefact_version,
    encoder_version,
    module_version,
)
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.pretrained.tuning.tuned_ranker import TunedRanker

__all__ = [
    "ARTEFACT",
    "Attachment",
    "CachedEncoder",
    "ContextError",
    "ContextServer",
    "ContextStore",
    "ModelCard",
    "PinFMTuning",
    "Pretrained",
    "PretrainedError",
    "TunedRanker",
    "UntrainedModule",
    "artefact_version",
    "attach_pretrained",
    "attachment",
    "detach_pretrained",
    "encoder_version",
    "has_artefact",
    "load_pretrained",
    "module_version",
    "save_pretrained",
    "untrained_module",
]
