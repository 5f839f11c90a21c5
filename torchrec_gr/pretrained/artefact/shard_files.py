"""The safetensors files that a process writes its tensors to."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from torchrec_gr.training.checkpoint_folder import sync
from torchrec_gr.training.checksum import Checksum

LARGEST_FILE = 32 << 20
"""Bytes of tensors in a file; a single tensor that is larger has a file of its own."""


class ShardFiles:
    """Tensors of one process, written as they come, none of them copied.

    Args:
        folder: where.
        prefix: of the files' names, no other process's.

    Attributes:
        checksums: of the files that were written, by name.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._pending: dict[str, Tensor] = {}
        self._num_bytes = 0
        self.checksums: dict[str, Checksum] = {}

    def add(self, name: str, tensor: Tensor) -> str:
        """Takes a tensor, contiguous and on the CPU, and gives the name of its file."""
        if self._pending and self._num_bytes + tensor.nbytes > LARGEST_FILE:
            self.flush()
        self._pending[name] = tensor
        self._num_bytes += tensor.nbytes
        return self._file

    def flush(self) -> None:
        """Puts what was taken on disk.

        Raises:
            OSError: it cannot be written.
        """
        if not self._pending:
            return
        path = self._folder / self._file
        try:
            save_file(self._pending, path)
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error
        path.chmod(self._folder.stat().st_mode & 0o666)  # safetensors lets none but its owner read
        sync(path)
        self.checksums[path.name] = Checksum.of(path)
        self._pending, self._num_bytes = {}, 0

    @property
    def _file(self) -> str:
        return f"{self._prefix}-{len(self.checksums):05d}.safetensors"
