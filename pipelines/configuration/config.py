"""Reads the YAML of a pipeline into its typed settings; a typo names the nearest valid word."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from torchrec_gr.schema.feature_schema import nearest_valid

Settings = TypeVar("Settings")


class ConfigError(ValueError):
    """Settings that cannot be: an unknown key, or a value of the wrong type."""


def read_config(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, not {type(values).__name__}")
    return values


def build(
    cls: type[Settings], values: Mapping[str, Any], where: str = "", base: Settings | None = None
) -> Settings:
    """Builds a settings dataclass, nested ones too, from plain values.

    Args:
        cls: a dataclass whose fields are plain values, tuples or further dataclasses.
        values: by field name; what is left out keeps its default, in nested ones too.
        where: the dotted place of `values` in the whole, for errors.
        base: what is left out is taken from; default: the defaults of `cls`.

    Raises:
        ConfigError: an unknown key (with the nearest valid one) or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    defaults = {field.name: _default(field) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    known: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise ConfigError(nearest_valid(f"setting {where}".rstrip(), key, names))
        nested = getattr(base, key) if base is not None else defaults.get(key)
        known[key] = _convert(hints[key], value, f"{where}{key}", nested)
    return cls(**known) if base is None else dataclasses.replace(base, **known)  # type: ignore[type-var]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with others in their place, nested mappings key by key."""
    values = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(values.get(key), Mapping)
        values[key] = merged(values[key], value) if both else value
    return values


def to_plain(settings: Any) -> Any:
    """Plain values of a settings dataclass, as `build` takes them."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return {
            field.name: to_plain(getattr(settings, field.name))
            for field in dataclasses.fields(settings)
        }
    if isinstance(settings, (list, tuple)):
        return [to_plain(item) for item in settings]
    if isinstance(settings, Mapping):
        return {key: to_plain(value) for key, value in settings.items()}
    return str(settings) if isinstance(settings, Path) else settings


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is dataclasses.MISSING:
        return field.default
    return field.default_factory()


def _convert(hint: Any, value: Any, where: str, base: Any = None) -> Any:
    if dataclasses.is_dataclass(hint):
        if dataclasses.is_dataclass(value):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"setting {where} needs a mapping, got {value!r}")
        base = base if isinstance(base, typing.cast("type[Any]", hint)) else None
        return build(typing.cast("type[Any]", hint), value, f"{where}.", base)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where, base)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(nearest_valid(f"value of {where}", value, map(str, arguments)))
        return value
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(items):
            raise ConfigError(f"setting {where} needs {len(kinds)} values, got {value!r}")
        return tuple(_convert(kind, item, where) for kind, item in zip(kinds, items, strict=True))
    return _plain(origin or hint, value, where)


def _convert_union(hints: tuple[Any, ...], value: Any, where: str, base: Any) -> Any:
    if value is None and type(None) in hints:
        return None
    inner = [hint for hint in hints if hint is not type(None)]
    return _convert(inner[0], value, where, base)


def _plain(kind: type, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if kind is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"setting {where} needs a value of type {kind.__name__}, got {value!r}")
    return value
