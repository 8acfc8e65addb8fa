"""The safetensors files of one checkpoint: which tensors there are, where, and their bytes.

Headers are read and checked against the files' sizes at once, so a missing shard or a truncated file is an
error before any weight is loaded. Every error names the file, and the tensor where there is one.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000  # the format's own limit

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}


class CheckpointError(Exception):
    """A checkpoint cannot be read: what is wrong, in which file, with which tensor."""


class TensorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Where a tensor lies."""

    file: Path
    dtype: str
    """The format's name, e.g. `BF16`."""
    shape: tuple[int, ...]
    start: int
    """Offset of the first byte in the file."""
    num_bytes: int


class _Header(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


class Checkpoint:
    """The tensors of a folder by name."""

    def __init__(self, folder: Path) -> None:
        """Read all headers. Raises `CheckpointError`."""
        self.folder = folder
        self.entries: dict[str, TensorEntry] = {}
        self._open_file: tuple[Path, Any] | None = None
        index = folder / INDEX_FILE
        if index.exists():
            self._read_sharded(index)
        else:
            self.entries.update(_read_header(folder / SINGLE_FILE))

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def entry(self, name: str) -> TensorEntry:
        """Return where a tensor lies. Raises `CheckpointError` when it is missing."""
        if name not in self.entries:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing")
        return self.entries[name]

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read a tensor as stored, on the CPU. Raises `CheckpointError` on a missing name, shape or dtype."""
        entry = self.entry(name)
        if entry.dtype not in DTYPES:
            known = ", ".join(DTYPES)
            raise CheckpointError(f"{entry.file}: tensor {name} has dtype {entry.dtype}; known are {known}")
        if entry.shape != shape:
            raise CheckpointError(
                f"{entry.file}: tensor {name} has shape {list(entry.shape)}, expected {list(shape)}"
            )
        try:
            value: Tensor = self._file(entry.file).get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{entry.file}: tensor {name} cannot be read: {error}") from None
        return value

    def first_bytes(self, name: str, count: int) -> bytes:
        """Return up to `count` of a tensor's first bytes."""
        entry = self.entry(name)
        with entry.file.open("rb") as file:
            return os.pread(file.fileno(), min(count, entry.num_bytes), entry.start)

    def _file(self, path: Path) -> Any:
        """Keep one shard open: tensors are asked for in about the order of the shards."""
        if self._open_file is None or self._open_file[0] != path:
            self._open_file = (path, safe_open(path, framework="pt"))
        return self._open_file[1]

    def _read_sharded(self, index: Path) -> None:
        try:
            weight_map = msgspec.json.decode(index.read_bytes(), type=_Index).weight_map
        except (OSError, msgspec.DecodeError) as error:
            raise CheckpointError(f"{index}: {error}") from None
        shards = {file: _read_header(self.folder / file) for file in sorted(set(weight_map.values()))}
        for name, file in weight_map.items():
            if name not in shards[file]:
                raise CheckpointError(
                    f"{self.folder / file}: tensor {name} is missing, {index.name} lists it here"
                )
            self.entries[name] = shards[file][name]


def _read_header(path: Path) -> dict[str, TensorEntry]:
    """Parse a file's header: eight bytes of length, JSON, then the tensors' bytes."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(f"{path}: truncated: {size} bytes do not hold the header")
            headers = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{path}: the header cannot be read: {error}") from None
    headers.pop("__metadata__", None)
    entries = {name: _entry(path, name, raw, data_start=8 + length) for name, raw in headers.items()}
    end = max((entry.start + entry.num_bytes for entry in entries.values()), default=8 + length)
    if size < end:
        last = next(name for name, entry in entries.items() if entry.start + entry.num_bytes > size)
        raise CheckpointError(f"{path}: truncated: {size} bytes of {end}, tensor {last} is cut off")
    return entries


def _entry(path: Path, name: str, raw: msgspec.Raw, *, data_start: int) -> TensorEntry:
    try:
        header = msgspec.json.decode(raw, type=_Header)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: header of tensor {name}: {error}") from None
    begin, end = header.data_offsets
    return TensorEntry(
        file=path, dtype=header.dtype, shape=header.shape, start=data_start + begin, num_bytes=end - begin
    )
