"""What two processes do with a sharded model that a PinFM module is attached to."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.pretrained.attaching.attach_cases import KEYS, ROWS, build, schema, vocabularies
from tests.pretrained.attaching.attach_processes import (
    SGD,
    attach,
    batch,
    same,
    scored,
    sharded,
    train,
    whole,
)
from tests.pretrained.attaching.pinfm_cases import HASHED, POSITIVES, plain
from torchrec_gr import attach_pretrained, attachment, detach_pretrained
from torchrec_gr.models.pinfm_pretrainer import PinFMLosses, PinFMPretrainer
from torchrec_gr.pretrained import ModelCard, save_pretrained
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.pretrained.tuning.tuned_ranker import TunedRanker
from torchrec_gr.sequences.request_batch import ImpressionBatch

TOKEN = PinFMTuning(learnable_token=True)


def in_two_processes(stock: Path, hashed: Path, work_dir: Path) -> dict[str, Any]:
    """What every case gave on the first process."""
    multiprocessing.spawn(_run, args=(stock, hashed, work_dir), nprocs=2)
    return torch.load(work_dir / "results.pt", weights_only=False)


def _run(rank: int, stock: Path, hashed: Path, work_dir: Path) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    store = dist.FileStore(str(work_dir / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results = {
        "before": attached_before(stock),
        "after": attached_after(hashed),
        "frozen": frozen(hashed),
        "tuned": tuned(stock),
    }
    save_sharded(work_dir / "artefact")
    if rank == 0:
        torch.save(results, work_dir / "results.pt")
    dist.barrier()
    dist.destroy_process_group()


def attached_before(artefact: Path) -> dict[str, Any]:
    """A stock table of items; attached, then sharded."""
    model = build("train")
    torch.manual_seed(2)
    model = sharded(attach(model, artefact, tuning=TOKEN))
    return {"pipelined": train(model, range(4)), "weights": whole(model)}


def attached_after(artefact: Path) -> dict[str, Any]:
    """A multi-hash table of rows that stand for raw ids; sharded, attached, taken off."""
    model = sharded(build("train"))
    own = scored(model)
    torch.manual_seed(2)
    options = {"vocabularies": vocabularies(), "table_optimizer": SGD, "tuning": TOKEN}
    model = attach(model, artefact, **options)
    bits = same(scored(model), own)
    plan, names = sorted(model.plan.plan), attachment(model).tables
    pipelined = train(model, range(4))
    weights = whole(model)
    model = detach_pretrained(model)
    return {
        "same bits": bits,
        "plan": plan,
        "names": names,
        "pipelined": pipelined,
        "weights": weights,
        "taken off": sorted(model.plan.plan),
    }


def frozen(artefact: Path) -> dict[str, Any]:
    """Nothing that was transferred moves; a new table of content, and what is new, does."""
    tuning = PinFMTuning(content={"user_id": 9})
    options = {"strategy": "frozen", "tuning": tuning}
    model = attach(sharded(build("train")), artefact, table_optimizer=SGD, **options)
    before = whole(model)
    train(model, range(4))
    after = whole(model)
    unmoved = {n for n in before if torch.equal(before[n], after[n])}
    loaded, tables = attachment(model).loaded, attachment(model).tables
    return {"unmoved": unmoved, "loaded": loaded, "tables": tables, "all": set(before)}


def tuned(artefact: Path) -> dict[str, Any]:
    """Every loss and cold start at once, in the loop that real training has."""
    tuning = PinFMTuning(
        learnable_token=True,
        content={"brand": 4},
        request_key="request",
        user_key="user_id",
        replace_candidate=0.3,
        age_key="age",
        ranking_weight=0.1,
        agreement_weight=0.1,
        next_token_weight=0.1,
        alignment_weight=0.1,
    )
    torch.manual_seed(2)
    attached = attach_pretrained(
        build("dlrm"), artefact, **KEYS, strategy="full-slow", tuning=tuning
    )
    model = sharded(TunedRanker(attached))
    dense = {n: w for n, w in model.named_parameters() if "embeddings" not in n and w.requires_grad}
    start = whole(model)
    optimizer = torch.optim.SGD(dense.values(), lr=0.1)
    losses = []
    for step in range(4):
        optimizer.zero_grad()
        loss, _ = model(_impressions(step))
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    end = whole(model)
    return {"losses": losses, "unmoved": {n for n in start if torch.equal(start[n], end[n])}}


def _impressions(step: int) -> ImpressionBatch:
    """The batch with a request id, content and an age in every row."""
    given = batch(step, dist.get_rank())
    kjt, num_rows = given.sparse_features, len(given.labels)
    added = {
        "request": torch.arange(num_rows),
        "brand": torch.arange(num_rows) % 4,
        "age": torch.arange(num_rows) * 10,
    }
    return ImpressionBatch(
        dense_features=given.dense_features,
        sparse_features=KeyedJaggedTensor(
            keys=[*kjt.keys(), *added],
            values=torch.cat([kjt.values(), *added.values()]),
            lengths=torch.cat([kjt.lengths(), torch.ones(3 * num_rows, dtype=torch.int32)]),
        ),
        labels=given.labels,
        weights=torch.ones(num_rows),
        user_ids=torch.zeros(num_rows).long(),
        source_rows=torch.arange(num_rows),
    )


def save_sharded(folder: Path) -> None:
    """A multi-hash pretrainer as an artefact, by both processes."""
    torch.manual_seed(7)
    model = PinFMPretrainer(HASHED, PinFMLosses(positives=POSITIVES), schema(), ROWS)
    save_pretrained(
        folder,
        sharded(model),
        module="pinfm",
        config=plain(HASHED),
        schema=dataclasses.replace(schema(), name="sharded"),
        vocabularies=vocabularies(),
        card=ModelCard(trained_on="nothing"),
    )
