"""Rows of one width as rows of another."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrec_gr.training.source import SourceTable
from torchrec_gr.training.transfer_plan import TablePlan


def require_width(what: str, source: SourceTable, dim: int, plan: TablePlan) -> None:
    """Checks that rows fit, or that a projection was asked for.

    Raises:
        ValueError: they do not.
    """
    if source.dim == dim or plan.projection != "none":
        return
    raise ValueError(
        f"{what} is {dim} wide, {plan.source!r} of the source {source.dim}: build the model's "
        f"table with embedding_dim={source.dim}, or ask for projection='principal'"
    )


def projection(source: SourceTable, dim: int) -> Tensor | None:
    """[source's width, dim] float32, to multiply rows by; None where they stay as they are.

    To fewer columns: onto the eigenvectors of the largest second moments of all rows, uncentred,
    each with its largest component positive. Of all such maps it keeps the rows' dot products best
    (least squares). To more columns: zeros behind.
    """
    if dim == source.dim:
        return None
    if dim > source.dim:
        return torch.eye(source.dim, dim)
    moments = torch.zeros(source.dim, source.dim, dtype=torch.float64)
    for piece in source.pieces():
        rows = piece.weight.double()
        moments.addmm_(rows.T, rows)
        del piece, rows
    directions = torch.linalg.eigh(moments).eigenvectors.flip(1)[:, :dim]  # ascending before
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return (directions * largest.sign()).float()
