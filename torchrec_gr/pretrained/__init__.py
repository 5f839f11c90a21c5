"""Pretrained modules: folders that stand on their own, and what plugs them into other models."""

from torchrec_gr.pretrained.artefact import PretrainedError
from torchrec_gr.pretrained.artefact_folder import ARTEFACT, has_artefact
from torchrec_gr.pretrained.attach import attach_pretrained
from torchrec_gr.pretrained.attached_names import Attachment, attachment
from torchrec_gr.pretrained.detach import detach_pretrained
from torchrec_gr.pretrained.load import Pretrained, load_pretrained
from torchrec_gr.pretrained.model_card import ModelCard
from torchrec_gr.pretrained.save import save_pretrained

__all__ = [
    "ARTEFACT",
    "Attachment",
    "ModelCard",
    "Pretrained",
    "PretrainedError",
    "attach_pretrained",
    "attachment",
    "detach_pretrained",
    "has_artefact",
    "load_pretrained",
    "save_pretrained",
]
