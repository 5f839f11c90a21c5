"""The stamp of a module's weights: what was computed with others does not bear it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor

from torchrec_gr import __version__
from torchrec_gr.modules.sequence_layer import SequenceLayer
from torchrec_gr.pretrained.artefact.load import Pretrained
from torchrec_gr.pretrained.attaching.impression_encoder import ImpressionEncoder
from torchrec_gr.pretrained.serving.tensor_digest import tensor_digest


def module_version(module: nn.Module, *settings: object) -> str:
    """A stamp of a module as it is now: any training step changes it.

    Every number of its parameters and buffers is read, tables too: seconds for gigabytes. It is the
    same before and after `DistributedModelParallel` in one process, but for dynamic tables.

    Args:
        module: whole in this process.
        settings: what else decides its results and is no tensor, such as a config; their `repr`
            counts.

    Returns:
        64 hexadecimal digits, a SHA-256 of names, dtypes, shapes and values, of the settings, and
        of torchrec_gr's version.

    Raises:
        ValueError: a part of the module is on other processes, or is no tensor.
    """
    tensors: dict[str, Any] = {**dict(module.named_buffers()), **module.state_dict()}
    return tensor_digest(
        [__version__, *map(repr, settings)],
        ((name, _whole(name, tensors[name])) for name in sorted(tensors)),
    )


def encoder_version(encoder: ImpressionEncoder) -> str:
    """A stamp of all that decides what a PinFM module keeps of a history.

    Args:
        encoder: `model.pretrained` of a model that one is attached to.

    Raises:
        ValueError: as `module_version`.
    """
    layers = [part.num_heads for part in encoder.modules() if isinstance(part, SequenceLayer)]
    return module_version(encoder, encoder.body.encoder.fusion, layers)


def artefact_version(pretrained: Pretrained, *settings: object) -> str:
    """A stamp of an artefact, from the checksums in its record: no weight is read.

    For modules that run with an artefact's weights as they were saved; where anything of them
    trained since, or their tables were moved to other rows, `module_version` has the stamp.

    Args:
        pretrained: the artefact.
        settings: as `module_version` has them.
    """
    record = pretrained.record
    files = {name: checksum.sha256 for name, checksum in record.files.items()}
    facts = [__version__, record.module, dict(record.config), files, *map(repr, settings)]
    return tensor_digest(facts, ())


def _whole(name: str, value: Any) -> Tensor:
    """An entry of a state dict as one tensor."""
    if isinstance(value, ShardedTensor):
        return _joined(name, value)
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}, expected a tensor")
    return value


def _joined(name: str, value: ShardedTensor) -> Tensor:
    shape, shards = value.metadata().size, value.local_shards()
    if sum(shard.tensor.numel() for shard in shards) != math.prod(shape):
        raise ValueError(
            f"{name} is spread over several processes: take the version of the model before it is "
            "sharded, or of its artefact (artefact_version)"
        )
    if len(shards) == 1:
        return shards[0].tensor
    whole = torch.empty(shape, dtype=value.metadata().tensor_properties.dtype)
    for shard in shards:
        place = zip(shard.metadata.shard_offsets, shard.metadata.shard_sizes, strict=True)
        whole[tuple(slice(first, first + size) for first, size in place)] = shard.tensor
    return whole
