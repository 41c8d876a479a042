"""Safetensors on disk as a Checkpoint: one file, or shards with an index."""

from __future__ import annotations

import json
import mmap
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from recurvid.checkpoints.checkpoint import some
from recurvid.checkpoints.header import Header, read_header, refuse_unprintable
from recurvid.errors import CheckpointError

if TYPE_CHECKING:
    import torch

INDEX_SUFFIX = ".safetensors.index.json"
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors$")
#: An index of the 13B model is 0.2 MB.
_MAX_INDEX = 64_000_000
#: Python names it from 3.13 on; the number is that of Linux on x86 and ARM.
_MAP_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000)


class SafetensorsCheckpoint:
    """Tensors of one or more safetensors files. Values are memory-mapped when first asked for.

    Args:
        headers: the checked header of every file.

    Raises:
        CheckpointError: one name in two files.
    """

    def __init__(self, headers: Mapping[Path, Header]):
        self._headers = dict(headers)
        self._file: dict[str, Path] = {}
        for path, header in self._headers.items():
            for name in header.tensors:
                if name in self._file:
                    raise CheckpointError(
                        f"{path}: tensor {name[:200]} stands in {self._file[name].name} too"
                    )
                self._file[name] = path
        self._maps: dict[Path, mmap.mmap] = {}
        self._metadata = {k: v for h in self._headers.values() for k, v in h.metadata.items()}

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata of all files together; a later file wins."""
        return self._metadata

    def keys(self) -> tuple[str, ...]:
        """Names of all tensors, file by file."""
        return tuple(self._file)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._headers[self._file[name]].tensors[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Type of a tensor."""
        return _torch_dtype(self._headers[self._file[name]].tensors[name].dtype)

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor, on a private memory map of its file.

        Raises:
            CheckpointError: the file vanished or changed since it was opened.
        """
        import torch

        path = self._file[name]
        header = self._headers[path]
        entry, dtype = header.tensors[name], self.dtype(name)
        if entry.begin == entry.end:
            return torch.empty(entry.shape, dtype=dtype)
        if path not in self._maps:
            self._maps[path] = _map(path, header.file_size)
        start, size = header.start + entry.begin, entry.end - entry.begin
        data = torch.frombuffer(self._maps[path], dtype=torch.uint8, count=size, offset=start)
        if start % dtype.itemsize:  # written by something else than the library
            data = data.clone()
        return data.view(dtype).view(entry.shape)

    def file_of(self, name: str) -> Path:
        """The file that holds the tensor."""
        return self._file[name]


def _torch_dtype(code: str) -> torch.dtype:
    import torch

    return {
        "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8,
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
        "U16": torch.uint16, "I16": torch.int16, "F16": torch.float16, "BF16": torch.bfloat16,
        "U32": torch.uint32, "I32": torch.int32, "F32": torch.float32,
        "U64": torch.uint64, "I64": torch.int64, "F64": torch.float64, "C64": torch.complex64,
    }[code]  # fmt: skip


def _map(path: Path, size: int) -> mmap.mmap:
    """A private map of a file: pages are read when touched, and writes never reach the file.

    Not the library's own reader, because that touches a page of every tensor that it hands out:
    20 s for the 1,274 tensors of the 13B model on a cold disk.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                raise CheckpointError(f"{path}: changed while it was open; start again")
            if sys.platform == "linux":
                # Without NORESERVE Linux refuses a map larger than memory.
                return mmap.mmap(
                    file.fileno(),
                    size,
                    flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
                    prot=mmap.PROT_READ | mmap.PROT_WRITE,
                )
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be mapped ({error})") from error


def open_file(path: Path) -> SafetensorsCheckpoint:
    """Open a single safetensors file."""
    return SafetensorsCheckpoint({path: read_header(path)})


def open_files(paths: Sequence[Path]) -> SafetensorsCheckpoint:
    """Open several safetensors files as one."""
    return SafetensorsCheckpoint({path: read_header(path) for path in paths})


def open_index(path: Path) -> SafetensorsCheckpoint:
    """Open the shards that an ``….safetensors.index.json`` lists.

    Raises:
        CheckpointError: a bad index, a missing shard, or shards that are not the index's.
    """
    weight_map = read_index(path)
    shards = [path.parent / name for name in sorted(set(weight_map.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(f"{path}: shards missing beside it: {some(missing)}; fetch them")
    headers = {shard: read_header(shard) for shard in shards}
    for name, shard in weight_map.items():
        if name not in headers[path.parent / shard].tensors:
            raise CheckpointError(
                f"{path.parent / shard}: tensor {name[:200]} is missing, though {path.name} "
                "says that it is here; these shards are not of one checkpoint"
            )
    for shard, header in headers.items():
        extra = [name for name in header.tensors if weight_map.get(name) != shard.name]
        if extra:
            raise CheckpointError(
                f"{shard}: tensor {some(extra, 1)} is not listed for it in {path.name}; "
                "these shards are not of one checkpoint"
            )
    return SafetensorsCheckpoint(headers)


def read_index(path: Path) -> dict[str, str]:
    """The map from tensor name to shard file name, each a plain name beside the index.

    Raises:
        CheckpointError: not JSON, no weight_map, or a shard name that leaves the folder.
    """
    try:
        if path.stat().st_size > _MAX_INDEX:
            raise CheckpointError(f"{path}: too large for an index")
        raw: object = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({str(error)[:80]})") from None
    weight_map = cast("dict[str, Any]", raw).get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: has no weight_map")
    for name, shard in cast("dict[str, Any]", weight_map).items():
        refuse_unprintable(path, name)
        if not isinstance(shard, str) or not _is_plain_name(shard):
            raise CheckpointError(
                f"{path}: tensor {name[:200]}: {str(shard)[:80]!r} is not the name of a "
                "safetensors file in the same folder; refused"
            )
    return cast("dict[str, str]", weight_map)


def _is_plain_name(name: str) -> bool:
    return (
        name.endswith(".safetensors")
        and not name.startswith(".")
        and name.isprintable()
        and not any(mark in name for mark in "/\\:\0")
        and len(name) < 256
    )


def shard_group(folder: Path) -> list[Path]:
    """Complete shards ``NAME-00001-of-0000N`` in a folder that lost its index; empty if none.

    Raises:
        CheckpointError: some shards of the set are missing.
    """
    found = {path.name: match for path in sorted(folder.glob("*.safetensors"))
             if (match := _SHARD.match(path.name))}  # fmt: skip
    sets = {(match["stem"], match["count"]) for match in found.values()}
    if len(sets) != 1:
        return []
    stem, count = next(iter(sets))
    names = [f"{stem}-{n:05d}-of-{count}.safetensors" for n in range(1, int(count) + 1)]
    missing = [name for name in names if name not in found]
    if missing:
        raise CheckpointError(f"{folder}: shards missing: {some(missing)}; fetch them")
    return [folder / name for name in names]
