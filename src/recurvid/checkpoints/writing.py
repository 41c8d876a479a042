"""A safetensors file written tensor by tensor, so that it may be larger than memory."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from recurvid.durable import atomic_path

_CODES = {
    torch.uint8: "U8", torch.int8: "I8", torch.float8_e4m3fn: "F8_E4M3", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.float32: "F32",
}  # fmt: skip
#: A fingerprint reads so many pieces of a file; every wide matrix of a 13B model holds one.
_PIECES, _PIECE = 2048, 4096


def write_streamed(
    path: Path,
    layout: Mapping[str, Tensor],
    values: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str],
) -> None:
    """Write a file beside ``path``, sync it and rename it; one value is held at a time.

    Args:
        layout: names in order, and tensors of the right shape and type (the meta device serves).
        values: the tensors, on the CPU, in the same order.

    Raises:
        OSError: from writing; nothing is left behind.
        ValueError: a value is not what the layout says.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in layout.items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with atomic_path(path) as beside, beside.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, wanted), (given, value) in zip(layout.items(), values, strict=True):
            if (given, value.shape, value.dtype) != (name, wanted.shape, wanted.dtype):
                raise ValueError(f"{given} {tuple(value.shape)} comes where {name} was announced")
            file.write(value.contiguous().view(-1).view(torch.uint8).numpy().data)


def sampled_digest(files: Sequence[Path]) -> str:
    """Fingerprint of files by their sizes, beginnings and 2,048 pieces of 4 KiB of each.

    Reading 26 GB would take as long as a start; a model that differs differs all over.
    """
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{size}:".encode())
        with path.open("rb") as file:
            if size <= _PIECES * _PIECE:
                digest.update(file.read())
                continue
            digest.update(file.read(2**20))
            for number in range(_PIECES):
                file.seek(number * (size - _PIECE) // (_PIECES - 1))
                digest.update(file.read(_PIECE))
    return digest.hexdigest()[:16]
