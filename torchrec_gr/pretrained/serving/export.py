"""A scorer for serving: quantised, exported, and compiled into a package that runs without us."""

from __future__ import annotations

import copy
import importlib.util
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import fbgemm_gpu
import torch
import torch._inductor
import torchrec
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_shapes
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardedModule
from torchrec.quant.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.embeddings.quantised import quantise

Quantisation = Literal["none", "int8", "int4"]
Sample: TypeAlias = Sequence[Tensor | KeyedJaggedTensor]

_BITS = {"int8": 8, "int4": 4}
_FBGEMM_LIBRARIES = ("tbe_inference", "tbe_training_backward", "py")
"""Those that have the ops of quantised tables and of KeyedJaggedTensors."""

_LIBRARIES = tuple(
    str(Path(module.__file__ or "").parent) for module in (torch, torchrec, fbgemm_gpu)
)


def export_scorer(
    model: nn.Module, sample: Sample, *, quantize: Quantisation = "int8"
) -> ExportedProgram:
    """Exports a model that scores rows, for any number of rows and of values in them.

    The program takes tensors alone: where the sample has a tensor, that one; where it has a
    KeyedJaggedTensor, its values [N], its lengths [num_keys, B] in the order of the sample's keys
    and, if it has them, its weights [N]. A DLRM's program takes (dense, values, lengths).

    An id that a quantised table has no row for is read as row 0, as before exporting.

    Args:
        model: not sharded. It stays as it is: what is exported is a copy in evaluation mode that
            shares whatever is not quantised.
        sample: what the model is called with. Tensors are [B, ...], KeyedJaggedTensors of stride B.
        quantize: what becomes of its embedding collections (see `embeddings.quantised`); "none"
            leaves them as they are, quantised ones too.

    Returns:
        The program. It gives what the quantised model gives.

    Raises:
        ValueError: the sample holds anything else, or keys of different numbers of rows; the model
            is sharded, cannot be quantised, or cannot be exported: the message names the line.
    """
    if quantize != "none" and quantize not in _BITS:
        raise ValueError(f"quantize: expected 'none', 'int8' or 'int4', got {quantize!r}")
    tensors, shapes = _as_tensors(sample)
    _refuse_sharded(model)
    scorer = _twin(model, {}).eval()
    if quantize != "none":
        scorer, _ = quantise(scorer, _BITS[quantize])
    _make_lookups_pure(scorer)
    program = _OfTensors(scorer, sample)
    with torch.no_grad(), _sizes_of_0_and_1():
        try:
            return torch.export.export(program, tensors, dynamic_shapes=(shapes,), strict=False)
        except Exception as error:
            raise ValueError(_advice(model, error)) from error


def compile_scorer(program: ExportedProgram, path: str | Path) -> Path:
    """Compiles a program by AOTInductor, which takes half a minute and a C++ compiler.

    The package runs where PyTorch of the same version and `serving_libraries()` are, in Python by
    `torch._inductor.aoti_load_package` or in C++ by `AOTIModelPackageLoader`, on processors that
    have the instructions of this one. Set AOTI_RUNTIME_CHECK_INPUTS=1 in its environment: it then
    refuses tensors of a wrong shape or dtype, or that are not contiguous, which otherwise end the
    process or give wrong scores.

    Args:
        program: of `export_scorer`.
        path: of the package, which ends in ".pt2" and may not exist yet; its folder does.

    Returns:
        The path.

    Raises:
        ValueError: a path of another ending, or in a folder that does not exist.
    """
    path = Path(path)
    if path.suffix != ".pt2" or not path.parent.is_dir():
        raise ValueError(f"path: expected NAME.pt2 in a folder that exists, got {str(path)!r}")
    with torch.no_grad(), _sizes_of_0_and_1():
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    return path


def serving_libraries() -> list[Path]:
    """The compiled libraries that a package's process loads first, by `torch.ops.load_library`.

    They hold the ops of torchrec_gr and of fbgemm. No Python of torchrec_gr, TorchRec or the model
    is needed.
    """
    ours, fbgemm = (importlib.util.find_spec(name) for name in ("torchrec_gr._C", "fbgemm_gpu"))
    assert ours is not None
    assert ours.origin is not None
    assert fbgemm is not None
    assert fbgemm.submodule_search_locations is not None
    folder = Path(next(iter(fbgemm.submodule_search_locations)))
    return [Path(ours.origin), *(folder / f"fbgemm_gpu_{name}.so" for name in _FBGEMM_LIBRARIES)]


class _OfTensors(nn.Module):
    """A model that is called with the tensors of its arguments."""

    def __init__(self, model: nn.Module, sample: Sample) -> None:
        super().__init__()
        self.model = model
        self.sparse = [
            (argument.keys(), argument.weights_or_none() is not None)
            if isinstance(argument, KeyedJaggedTensor)
            else None
            for argument in sample
        ]

    def forward(self, *tensors: Tensor) -> Any:
        """What the model gives."""
        left = iter(tensors)
        return self.model(*(_argument(sparse, left) for sparse in self.sparse))


def _argument(
    sparse: tuple[list[str], bool] | None, tensors: Iterator[Tensor]
) -> Tensor | KeyedJaggedTensor:
    """The next argument, of the next tensors."""
    values = next(tensors)
    if sparse is None:
        return values
    keys, is_weighted = sparse
    lengths = next(tensors)
    torch._check(lengths.sum().item() == values.shape[0])  # or look-ups would read past the end
    return KeyedJaggedTensor(
        keys=keys,
        values=values,
        lengths=lengths.reshape(-1),
        weights=next(tensors) if is_weighted else None,
        stride=lengths.shape[1],
    )


def _as_tensors(sample: Sample) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """The tensors of the sample's arguments, and which of their axes vary."""
    rows = Dim("rows")
    tensors: list[Tensor] = []
    shapes: list[dict[int, Any]] = []
    for place, argument in enumerate(sample):
        if isinstance(argument, KeyedJaggedTensor):
            if argument.variable_stride_per_key():
                raise ValueError(
                    f"sample[{place}]: its keys have different numbers of rows: expand it to one "
                    "row a candidate for every key"
                )
            num_values = Dim(f"values_{place}")
            lengths = argument.lengths().reshape(len(argument.keys()), -1)
            parts = [argument.values(), lengths, argument.weights_or_none()]
            axes = [{0: num_values}, {1: rows}, {0: num_values}]
        elif isinstance(argument, Tensor) and argument.ndim:
            parts, axes = [argument], [{0: rows}]
        else:
            raise ValueError(
                f"sample[{place}]: expected a Tensor [B, ...] or a KeyedJaggedTensor, got a "
                f"{type(argument).__name__}: export the model inside a training wrapper "
                "(`DLRMTrain(...).model`), with what its own forward takes"
            )
        given = [(part, axis) for part, axis in zip(parts, axes, strict=True) if part is not None]
        tensors.extend(part for part, _ in given)
        shapes.extend(axis for _, axis in given)
    return tuple(tensors), tuple(shapes)


def _refuse_sharded(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module, (ShardedModule, DistributedModelParallel)):
            raise ValueError(
                f"{path or 'the model'!r} is a {type(module).__name__}: a scorer runs in one "
                "process. Build the model again without sharding and load the weights into it"
            )


def _twin(module: nn.Module, twins: dict[nn.Module, nn.Module]) -> nn.Module:
    """A module of the same parameters and buffers, whose parts can be exchanged."""
    if module not in twins:
        twins[module] = twin = copy.copy(module)
        twin._modules = {
            name: None if part is None else _twin(part, twins)
            for name, part in module._modules.items()
        }
    return twins[module]


def _make_lookups_pure(model: nn.Module) -> None:
    """Quantised collections then look up without a write to anything that outlives the call."""
    for module in model.modules():
        if isinstance(module, (EmbeddingCollection, EmbeddingBagCollection)):
            collection: Any = module
            collection._emb_modules = [_Lookup(kernel) for kernel in collection._emb_modules]


class _Lookup(nn.Module):
    """A quantised look-up that checks copies of the ids.

    The kernel's own check writes to what it is given, and to a counter that would be a constant of
    the program.
    """

    def __init__(self, kernel: Any) -> None:
        super().__init__()
        self._kernel = [kernel]  # not registered: it holds objects that cannot be exported

    def forward(
        self, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """Rows, [num_values, dim] or pooled."""
        (kernel,) = self._kernel
        mode = kernel.bounds_check_mode_int
        indices, offsets = indices.clone(), offsets.clone()
        weights = None if per_sample_weights is None else per_sample_weights.clone()
        counter = torch.zeros(1, dtype=torch.int64, device=indices.device)
        torch.ops.fbgemm.bounds_check_indices(
            kernel.rows_per_table, indices, offsets, mode, counter, weights
        )
        kernel.bounds_check_mode_int = BoundsCheckMode.NONE.value
        try:
            return kernel.forward(indices, offsets, weights)
        finally:
            kernel.bounds_check_mode_int = mode


def _sizes_of_0_and_1() -> Any:
    """Inside, a size is not assumed to be 2 or more: one row, or no history at all, are batches."""
    return symbolic_shapes.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]


def _advice(model: nn.Module, error: Exception) -> str:
    """What stood in the way of exporting, where, and what to do."""
    said = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in said if "specialized it to be a constant" in line] or said
    reason = reasons[0].split(". If")[0] if reasons else "no reason given"
    frames = traceback.extract_tb(error.__traceback__)
    of_model = [f for f in frames if not f.filename.startswith((*_LIBRARIES, __file__))]
    where = "".join(f" at {f.filename}:{f.lineno} ({f.line})" for f in of_model[-1:])
    return (
        f"{type(model).__name__} cannot be exported: {type(error).__name__}{where}: {reason}\n"
        "A program is made of tensor ops alone. Its forward may not branch on what is in a tensor "
        "(`if x.sum() > 0`), nor make a Python number of it (`int(x)`, `x.tolist()`), nor fix a "
        "size that varies (`len(x)`, `torch.ones(32)`: write `x.shape[0]`)."
    )
