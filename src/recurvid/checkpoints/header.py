"""The header of a safetensors file, read with suspicion.

Format: 8 bytes little-endian length N, N bytes of JSON, then the data. The JSON maps each name to
``{"dtype", "shape", "data_offsets": [begin, end]}``, offsets counted from the end of the header.
Everything is checked here, before any library maps the file, so that each defect gets a line that
names the file and, where there is one, the tensor.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from recurvid.errors import CheckpointError

#: The format's own limit on the header.
MAX_HEADER = 100_000_000

#: Bytes of one element, for the types that torch can hold.
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: ``begin`` and ``end`` are byte offsets in the data part."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """The checked header of one file, of which the data part starts at byte ``start``."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    start: int

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self.start + max((entry.end for entry in self.tensors.values()), default=0)


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        CheckpointError: not a safetensors file, a damaged one, or a truncated one.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(16)
            if len(start) < 8:
                raise CheckpointError(f"{path}: only {size} bytes, not a safetensors file")
            if start[8:9] != b"{":  # the first 8 bytes of a good file may look like anything
                _refuse_foreign(path, start)
            (length,) = struct.unpack("<Q", start[:8])
            if length > MAX_HEADER:
                raise CheckpointError(
                    f"{path}: not a safetensors file (claims a header of {length} bytes)"
                )
            if length > size - 8:
                raise CheckpointError(
                    f"{path}: truncated inside the header ({size} of at least {length + 8} bytes)"
                    "; fetch it again"
                )
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    header = _parse(path, text)
    _check_offsets(path, header, size - 8 - length)
    return header


def _refuse_foreign(path: Path, start: bytes) -> None:
    """Say what a file really is that bears the wrong name."""
    kinds = {
        b"PK\x03\x04": "a zip or pickle archive, which is never opened",
        b"\x80\x02": "a pickle, which is never opened",
        b"\x80\x04": "a pickle, which is never opened",
        b"GGUF": "a GGUF file; give it the ending .gguf",
        b"version https://": "a git-lfs pointer, not the weights; fetch the real file",
        b"<!DOCTYPE": "a web page, not weights; fetch the file again",
        b"<html": "a web page, not weights; fetch the file again",
    }
    for magic, kind in kinds.items():
        if start.startswith(magic):
            raise CheckpointError(f"{path}: not a safetensors file but {kind}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _parse(path: Path, text: bytes) -> Header:
    try:
        raw: object = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        # A long or hostile text must not end up in the message.
        reason = str(error)[:80]
        raise CheckpointError(f"{path}: header is not valid JSON ({reason})") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: header is not a JSON object")
    entries = cast("dict[str, Any]", raw)
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ of the header is not a map of strings")
    for name in entries:
        refuse_unprintable(path, name)
    tensors = {name: _entry(path, name, entry) for name, entry in entries.items()}
    return Header(tensors, cast("dict[str, str]", metadata), 8 + len(text))


def refuse_unprintable(path: Path, name: str) -> None:
    """Raise for a tensor name that would steer the terminal where a message shows it."""
    if not name.isprintable():
        raise CheckpointError(f"{path}: tensor name {name[:80]!r} holds control characters")


def _natural(values: object, count: int | None = None) -> tuple[int, ...] | None:
    """``values`` as non-negative integers, or None. (True and False are no integers here.)"""
    if not isinstance(values, list) or (count is not None and len(values) != count):
        return None
    numbers = cast("list[Any]", values)
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        return None
    return tuple(numbers)


def _entry(path: Path, name: str, raw: object) -> TensorEntry:
    where = f"{path}: tensor {name[:200]}"
    if not isinstance(raw, dict):
        raise CheckpointError(f"{where}: header entry is not an object")
    fields = cast("dict[str, Any]", raw)
    dtype, shape = fields.get("dtype"), _natural(fields.get("shape"))
    offsets = _natural(fields.get("data_offsets"), 2)
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(f"{where}: type {str(dtype)[:40]!r} is not supported")
    if shape is None or len(shape) > 16:
        raise CheckpointError(f"{where}: shape in the header is not a list of sizes")
    if offsets is None or offsets[1] < offsets[0]:
        raise CheckpointError(f"{where}: data_offsets in the header are not two ascending offsets")
    expected = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != expected:
        raise CheckpointError(
            f"{where}: {offsets[1] - offsets[0]} bytes in the file, "
            f"but {dtype} {list(shape)} takes {expected}"
        )
    return TensorEntry(dtype, shape, *offsets)


def _check_offsets(path: Path, header: Header, data_bytes: int) -> None:
    """Tensors must tile the data: no overlap, no hole, nothing behind the last."""
    position, previous = 0, "the header"
    ordered = sorted(header.tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    for name, entry in ordered:
        if entry.begin < position:
            raise CheckpointError(f"{path}: tensor {name[:200]} overlaps {previous[:200]}")
        if entry.begin > position:
            raise CheckpointError(
                f"{path}: {entry.begin - position} unexplained bytes before tensor {name[:200]}"
            )
        if entry.end > data_bytes:
            raise CheckpointError(
                f"{path}: truncated at tensor {name[:200]} "
                f"({data_bytes} of at least {entry.end} data bytes); fetch it again"
            )
        position, previous = entry.end, name
    if position != data_bytes:
        raise CheckpointError(f"{path}: {data_bytes - position} unexplained bytes at the end")
