from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_gr.data.datasets import criteo
from torchrec_gr.data.log_source import LogSource

COLUMNS = ["label", *criteo.NUMBERS, *criteo.IDS, "split"]


def _line(row: int) -> str:
    numbers = [str(row), "-1", ""] + ["2"] * 10
    return "\t".join([str(row % 2), *numbers, f"{row:08x}", "", *["68fd1e64"] * 24])


def _rows(source: LogSource) -> dict[str, list]:
    return pq.read_table(source.rows[0]).to_pydict()


def test_days_are_read_in_their_order(tmp_path: Path) -> None:
    for day, first in ((0, 0), (2, 10), (10, 15)):
        text = "".join(_line(row) + "\n" for row in range(first, {0: 10, 2: 15, 10: 20}[day]))
        with gzip.open(tmp_path / f"day_{day}.gz", "wt") as file:
            file.write(text)
    rows = _rows(criteo.load(tmp_path, tmp_path / "work"))
    assert list(rows) == COLUMNS
    assert rows["c1"] == [f"{row:08x}" for row in range(20)]
    assert rows["label"] == [row % 2 for row in range(20)]
    assert rows["split"] == ["train"] * 16 + ["validation"] * 2 + ["test"] * 2


def test_train_file_with_missing_values(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("".join(_line(row) + "\n" for row in range(10)))
    rows = _rows(criteo.load(tmp_path, tmp_path / "work", validation_part=None))
    assert rows["i1"] == [float(row) for row in range(10)]
    assert set(rows["i2"]) == {-1.0}
    assert set(rows["i3"]) == {0.0}
    assert set(rows["c2"]) == {None}
    assert rows["split"] == ["train"] * 9 + ["test"]


def test_many_blocks_make_one_file(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("".join(_line(row) + "\n" for row in range(9_000)))
    rows = _rows(criteo.load(tmp_path, tmp_path / "work"))  # 2.3 MB: more than a block
    assert rows["c1"] == [f"{row:08x}" for row in range(9_000)]
    assert rows["split"].index("validation") == 7_200
    assert rows["split"].index("test") == 8_100


def test_a_line_that_does_not_fit_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(_line(0) + "\n0\t1\n")
    with pytest.raises(ValueError, match=r"train\.txt: expected lines of a label, 13 numbers"):
        criteo.load(tmp_path, tmp_path / "work")
    assert not (tmp_path / "work" / "criteo_rows.parquet").exists()


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    parts = {"label": [0, 1] * 8, "part": [part for part in range(8) for _ in range(2)]}
    numbers = {name: [None, -1.0] * 8 for name in criteo.NUMBERS}
    ids = {name: pa.array([0, 5] * 8, pa.int32()) for name in criteo.IDS}
    pq.write_table(pa.table({**parts, **numbers, **ids}), tmp_path / "criteo_80k.parquet")
    return tmp_path


def test_sample_by_parts(sample: Path) -> None:
    rows = _rows(criteo.load(sample, sample / "work"))
    assert list(rows) == COLUMNS
    assert rows["split"] == ["train"] * 12 + ["validation"] * 2 + ["test"] * 2
    assert rows["c26"] == [None, 5] * 8
    assert rows["i13"] == [0.0, -1.0] * 8


def test_sample_without_validation_trains_on_seven_parts(sample: Path) -> None:
    rows = _rows(criteo.load(sample, sample / "work", validation_part=None))
    assert rows["split"] == ["train"] * 14 + ["test"] * 2


def test_the_test_part_cannot_validate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="validation_part must be 0 to 6"):
        criteo.load(tmp_path, tmp_path, validation_part=7)


def test_the_label_is_no_feature(sample: Path) -> None:
    schema = criteo.load(sample, sample / "work").schema
    assert {f.column for f in schema.features} == {*criteo.NUMBERS, *criteo.IDS}
    assert (schema.user, schema.time, schema.target) == (None, None, None)


def test_the_real_sample(shared_data: Path, tmp_path: Path) -> None:
    rows = pq.read_table(criteo.load(shared_data / "criteo-80k", tmp_path).rows[0])
    counts = rows["split"].value_counts().to_pylist()
    assert {c["values"]: c["counts"] for c in counts} == {
        "train": 60_000,
        "validation": 10_000,
        "test": 10_000,
    }
    assert sum(rows["label"].to_pylist()) == 2_573
