"""Latents and conditioning as safetensors files of a session folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from recurvid import durable
from recurvid.conditioning import Conditioning
from recurvid.errors import SessionError
from recurvid.latents import LatentFrames

_DIGEST = "sha256 of the tensors"


def save_latents(path: Path, latents: LatentFrames) -> None:
    """Write latents (1, c, t, h, w) and their timeline positions, atomically."""
    _save(path, {"latents": latents.data, "index": latents.index})


def load_latents(path: Path) -> LatentFrames:
    """Read what :func:`save_latents` wrote.

    Raises:
        SessionError: the file is damaged.
    """
    tensors = _load(path)
    try:
        return LatentFrames(tensors["latents"], tensors["index"])
    except (KeyError, ValueError) as error:
        raise SessionError(f"{path} does not hold the latents of a section ({error})") from None


def save_conditioning(
    path: Path, given: LatentFrames, positive: Conditioning, negative: Conditioning | None
) -> None:
    """Write everything that encoders made: nothing of it is computed again after a resume."""
    tensors = {"given.latents": given.data, "given.index": given.index}
    tensors |= _flat("positive", positive)
    if negative is not None:
        tensors |= _flat("negative", negative)
    _save(path, tensors)


def load_conditioning(path: Path) -> tuple[LatentFrames, Conditioning, Conditioning | None]:
    """Read what :func:`save_conditioning` wrote: given latents, positive, negative.

    Raises:
        SessionError: the file is damaged.
    """
    tensors = _load(path)
    try:
        given = LatentFrames(tensors["given.latents"], tensors["given.index"])
        positive = _unflat("positive", tensors)
        negative = _unflat("negative", tensors) if "negative.text" in tensors else None
    except (KeyError, ValueError) as error:
        raise SessionError(f"{path} does not hold a conditioning ({error})") from None
    return given, positive, negative


def _flat(name: str, conditioning: Conditioning) -> dict[str, Tensor]:
    parts = {
        "text": conditioning.text,
        "text_mask": conditioning.text_mask,
        "pooled": conditioning.pooled,
        "image": conditioning.image,
        "guidance": conditioning.guidance,
    }
    return {f"{name}.{key}": value for key, value in parts.items() if value is not None}


def _unflat(name: str, tensors: dict[str, Tensor]) -> Conditioning:
    return Conditioning(
        text=tensors[f"{name}.text"],
        text_mask=tensors[f"{name}.text_mask"],
        pooled=tensors[f"{name}.pooled"],
        image=tensors.get(f"{name}.image"),
        guidance=tensors.get(f"{name}.guidance"),
    )


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    # Serialised first: safetensors' own writer turns a full disk into an error without a number.
    plain = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
    data = save(plain, metadata={_DIGEST: _digest(plain)})
    try:
        durable.write_bytes(path, data)
    except (IsADirectoryError, PermissionError) as error:
        raise SessionError(f"{path} cannot be written: {error.strerror}") from None


def _load(path: Path) -> dict[str, Tensor]:
    try:
        if path.exists() and not path.is_file():  # a named pipe would block for good
            raise OSError("not a regular file")
        with safe_open(path, "pt") as file:
            expected = (file.metadata() or {}).get(_DIGEST)
        tensors = load_file(path)
        if expected is not None and expected != _digest(tensors):
            raise OSError("its contents have changed")
    except (OSError, SafetensorError) as error:
        raise SessionError(
            f"{path} is damaged ({' '.join(str(error).split())[:80]}); delete it and resume: "
            "it is made again"
        ) from None
    return tensors


def _digest(tensors: dict[str, Tensor]) -> str:
    """Of names, types, shapes and values: a flipped bit in a latent would be seen by nobody."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
