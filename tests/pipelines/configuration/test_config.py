"""Settings from YAML: typed, and a typo names the nearest valid word."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from pipelines.configuration.config import ConfigError, build, read_config, to_plain


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    name: Literal["sgd", "adagrad"] = "sgd"


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    sizes: tuple[int, ...] = (1,)
    folder: Path | None = None


@dataclasses.dataclass(frozen=True)
class Tuned:
    inner: Inner = Inner(0.5, "adagrad")


@dataclasses.dataclass(frozen=True)
class Made:
    inner: Inner = dataclasses.field(default_factory=lambda: Inner(0.5, "adagrad"))


def test_what_is_left_out_keeps_its_default() -> None:
    assert build(Outer, {"inner": {"rate": 1}}) == Outer(inner=Inner(rate=1.0))


@pytest.mark.parametrize("outer", [Tuned, Made])
def test_what_is_left_out_of_a_nested_setting_keeps_the_outer_default(outer: type) -> None:
    assert build(outer, {"inner": {"rate": 2.0}}) == outer(Inner(2.0, "adagrad"))


def test_plain_values_come_back() -> None:
    settings = Outer(Inner(0.5, "adagrad"), (2, 3), Path("runs"))
    assert build(Outer, to_plain(settings)) == settings


def test_exponents_that_yaml_takes_for_words_are_numbers(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("inner: {rate: 1e-3}\nsizes: 7\n")
    assert build(Outer, read_config(config)) == Outer(Inner(rate=1e-3), (7,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"iner": {}}, "did you mean 'inner'"),
        ({"inner": {"rat": 1.0}}, "inner.*did you mean 'rate'"),
        ({"inner": {"name": "adagrat"}}, "did you mean 'adagrad'"),
        ({"inner": 3}, "inner needs a mapping"),
        ({"sizes": ["a"]}, "sizes needs a value of type int, got 'a'"),
        ({"sizes": True}, "sizes needs a value of type int, got True"),
        ({"inner": {"rate": "fast"}}, "inner.rate needs a value of type float"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Outer, values)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not YAML"):
        read_config(broken)
    with pytest.raises(ConfigError, match=r"cannot read the config .*absent\.yaml"):
        read_config(tmp_path / "absent.yaml")
