"""Prompt embeddings on disk, by content: the same words through the same weights cost nothing.

An entry is a safetensors file named by the hash of everything that the embedding depends on. It is
written beside, synced and renamed; one that is damaged is ignored and written again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from recurvid.durable import atomic_path
from recurvid.errors import CheckpointError

logger = logging.getLogger(__name__)

_FORMAT = 1
_SAMPLES, _SAMPLE_BYTES, _WHOLE_BYTES = 64, 4096, 1 << 24
_ENDINGS = (".json", ".txt", ".safetensors", ".model")


class PromptCache:
    """Named tensors by key in one folder. Neither reading nor writing ever fails the caller."""

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of a key, or None when there are none that can be trusted."""
        from safetensors import SafetensorError, safe_open

        path = self._path(key)
        try:
            with safe_open(str(path), framework="pt") as file:  # pyright: ignore
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError) as error:
            logger.warning("prompt cache: %s is damaged and left aside (%s)", path, error)
            return None
        if metadata.get("sum") != _sum(tensors):
            logger.warning("prompt cache: %s is damaged and left aside", path)
            return None
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a key; a full or read-only disk is only logged."""
        from safetensors.torch import save_file

        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._path(key)) as beside:
                save_file(contiguous, str(beside), metadata={"sum": _sum(contiguous)})
        except Exception as error:  # safetensors wraps OSError in its own  # noqa: BLE001
            logger.warning("prompt cache: nothing kept in %s (%s)", self.folder, error)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def content_key(parts: Mapping[str, str | int]) -> str:
    """The name of an entry: a hash of everything that it depends on."""
    text = json.dumps({"format": _FORMAT, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def files_key(path: Path) -> str:
    """A hash of a model file or folder that costs little however large it is.

    Small files count whole. Of large ones: size, start, end and 64 samples between; two trainings
    differ nearly everywhere, so samples tell them apart.
    """
    digest = hashlib.sha256()
    try:
        files = [path]
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix in _ENDINGS)
        for file in files:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            for block in _blocks(file):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: cannot be read ({error})") from error
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            while block := file.read(1 << 20):
                yield block
            return
        for number in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
            yield file.read(_SAMPLE_BYTES)


def _sum(tensors: Mapping[str, Tensor]) -> str:
    """A checksum over names, shapes and bits."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
