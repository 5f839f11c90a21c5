"""Pretrained modules: folders that stand on their own, saved and loaded."""

from torchrec_gr.pretrained.artefact import PretrainedError
from torchrec_gr.pretrained.artefact_folder import ARTEFACT, has_artefact
from torchrec_gr.pretrained.load import Pretrained, load_pretrained
from torchrec_gr.pretrained.model_card import ModelCard
from torchrec_gr.pretrained.save import save_pretrained

__all__ = [
    "ARTEFACT",
    "ModelCard",
    "Pretrained",
    "PretrainedError",
    "has_artefact",
    "load_pretrained",
    "save_pretrained",
]
