"""Records in JSON that say themselves whether they are as they were written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_sealed(file: Path, fields: Mapping[str, Any]) -> str:
    """Puts a record on disk and gives its checksum, which stands in its first line."""
    rest = json.dumps(fields, indent=1)[1:]
    checksum = hashlib.sha256(rest.encode()).hexdigest()
    with file.open("w", encoding="utf-8") as stream:
        stream.write(_first_line(checksum) + rest)
        stream.flush()
        os.fsync(stream.fileno())
    return checksum


def read_sealed(file: Path) -> tuple[dict[str, Any], str]:
    """A record and its checksum.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such record, was cut or altered.
    """
    text = file.read_bytes().decode()
    fields = json.loads(text)
    if not isinstance(fields, dict) or "checksum" not in fields:
        raise ValueError("it has no checksum: it was written by another version, or altered")
    checksum = hashlib.sha256(text[len(_first_line("")) + 64 :].encode()).hexdigest()
    if not text.startswith(_first_line(checksum)):
        raise ValueError("it was cut or altered")
    del fields["checksum"]
    return fields, checksum


def _first_line(checksum: str) -> str:
    return f'{{"checksum": "{checksum}",'
