"""Whether a file is as it was written."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Checksum:
    """Of one file.

    SHA-256: it finds bit rot as a CRC does, and beside that nobody can alter a file so that it
    still fits. Processors of today compute it in hardware, faster than a disk reads.
    Whoever may rewrite a folder can rewrite its record too; that no file that is read can run code
    is for the reader to see to.
    """

    num_bytes: int
    sha256: str

    @classmethod
    def of(cls, file: Path) -> Checksum:
        """Reads a whole file."""
        digest, num_bytes = hashlib.sha256(), 0
        buffer = memoryview(bytearray(_BLOCK))
        with file.open("rb", buffering=0) as stream:
            while num_read := stream.readinto(buffer):
                digest.update(buffer[:num_read])
                num_bytes += num_read
        return cls(num_bytes, digest.hexdigest())

    def difference(self, file: Path) -> str | None:
        """What is wrong with a file that should have this checksum; None: nothing."""
        try:
            num_bytes = file.stat().st_size
            if num_bytes != self.num_bytes:
                return f"is of {num_bytes} bytes, expected {self.num_bytes}"
            return None if Checksum.of(file) == self else "was altered"
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            return f"cannot be read: {error}"
