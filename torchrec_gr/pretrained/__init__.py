"""Pretrained modules: folders that stand on their own, and what plugs them into other models."""

from torchrec_gr.pretrained.artefact import PretrainedError
from torchrec_gr.pretrained.artefact_folder import ARTEFACT, has_artefact
from torchrec_gr.pretrained.attach import attach_pretrained
from torchrec_gr.pretrained.attached_names import Attachment, attachment
from torchrec_gr.pretrained.cached_encoder import CachedEncoder
from torchrec_gr.pretrained.context_file import ContextError
from torchrec_gr.pretrained.context_server import ContextServer
from torchrec_gr.pretrained.context_store import ContextStore
from torchrec_gr.pretrained.detach import detach_pretrained
from torchrec_gr.pretrained.load import Pretrained, load_pretrained
from torchrec_gr.pretrained.model_card import ModelCard
from torchrec_gr.pretrained.module_version import artefact_version, encoder_version, module_version
from torchrec_gr.pretrained.pinfm_tuning import PinFMTuning
from torchrec_gr.pretrained.save import save_pretrained
from torchrec_gr.pretrained.tuned_ranker import TunedRanker
from torchrec_gr.pretrained.untrained import UntrainedModule, untrained_module

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
