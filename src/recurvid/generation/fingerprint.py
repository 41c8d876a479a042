"""Fingerprint: which weights, code and arithmetic made a session, so that a resume can tell."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import torch

import recurvid
from recurvid import __version__
from recurvid.errors import SessionError

# The packages whose code decides the numbers of a video.
_NUMERIC = (
    "packing",
    "planning",
    "sampling",
    "ops",
    "caching",
    "models",
    "encoders",
    "vae",
    "generation",
)
_WHOLE = 64 * 2**20
_PIECES, _PIECE = 64, 64 * 2**10


def fingerprint(
    weights: Mapping[str, Iterable[Path]], device: torch.device, dtype: torch.dtype
) -> dict[str, str]:
    """What must be equal for a resumed session to go on to the same bits.

    Args:
        weights: component name -> its files.
    """
    parts = {
        "version": __version__,
        "code": code_hash(),
        "torch": torch.__version__,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
    }
    for name, files in weights.items():
        digest = hashlib.sha256()
        for file in sorted(files):
            digest.update(f"{file.name}:{file_hash(file)}\n".encode())
        parts[f"weights of {name}"] = digest.hexdigest()[:16]
    return parts


def refuse_changes(before: Mapping[str, str], now: Mapping[str, str], folder: Path) -> None:
    """Raise when a session was begun by other weights, code or arithmetic.

    Raises:
        SessionError: naming what changed and how to go on all the same.
    """
    names = sorted({*before, *now})
    changed = [
        f"{name} ({before.get(name, 'none')} -> {now.get(name, 'none')})"
        for name in names
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise SessionError(
            f"the session {folder} was begun with something else: {', '.join(changed)}; the rest "
            "would not match what is there (--force goes on all the same)"
        )


def file_hash(path: Path) -> str:
    """SHA-256 of a file; of its size, head and 64 samples where it is larger than 64 MiB.

    Reading 26 GB to start a resume would cost more than it tells: a model file that differs
    differs everywhere.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _WHOLE:
            while block := file.read(2**20):
                digest.update(block)
        else:
            for number in range(_PIECES):
                file.seek(number * (size - _PIECE) // (_PIECES - 1))
                digest.update(file.read(_PIECE))
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Hash of the sources that decide a video's numbers."""
    root = Path(recurvid.__file__).parent
    digest = hashlib.sha256()
    for package in _NUMERIC:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]
