"""What the doctor looks at, as plain data."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from recurvid import __version__
from recurvid.checkpoints.known import KNOWN, ModelSpec
from recurvid.checkpoints.locate import hub_cache, status
from recurvid.errors import Line, RecurVidError
from recurvid.generation.runtime import available_devices
from recurvid.ops.attention.backend import AttentionSpec
from recurvid.ops.attention.registry import ATTENTION
from recurvid.settings import settings
from recurvid.video.encoders import encoder_note, mp4_encoder, webm_encoder

_PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "av", "pillow", "numpy")
# Beside the weights: activations of one section, the autoencoder, the runtime itself.
_HEADROOM = 4e9


def examine() -> dict[str, Any]:
    """Everything, as JSON values."""
    devices = _devices()
    memory = _memory()
    return {
        "software": _software(),
        "devices": devices,
        "memory": memory,
        "attention": _attention(devices[0]["device"].split(":")[0]),
        "video": _video(),
        "disk": _disk(),
        "models": [_model(spec, devices, memory) for spec in KNOWN.values()],
    }


def _software() -> dict[str, str]:
    found = {"recurvid": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def _devices() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for kind in available_devices():
        if kind == "cuda":
            found += [_cuda(number) for number in range(torch.cuda.device_count())]
        else:
            name = platform.processor() or platform.machine() if kind == "cpu" else kind
            found.append({"device": kind, "name": name, "memory": None, "why_not": None})
    for number, device in enumerate(found):
        device["chosen"] = number == 0
    return found


def _cuda(number: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(number)
    return {
        "device": f"cuda:{number}",
        "name": properties.name,
        "memory": properties.total_memory,
        "why_not": cuda_why_not(
            (properties.major, properties.minor), torch.cuda.get_arch_list(), torch.version.hip
        ),
    }


def cuda_why_not(
    capability: tuple[int, int], built_for: list[str], rocm: str | None = None
) -> str | None:
    """Why this build of torch cannot run on a card of this compute capability, or None.

    Code of the same major number and an equal or lower minor one runs; PTX of any lower one is
    compiled for the card.
    """
    if rocm is not None or not built_for:
        return None
    mine = capability[0] * 10 + capability[1]
    for architecture in built_for:
        kind, _, digits = architecture.partition("_")
        number = int("".join(c for c in digits if c.isdigit()) or 0)
        same_major = number // 10 == capability[0] and number <= mine
        if (kind == "sm" and same_major) or (kind == "compute" and number <= mine):
            return None
    return (
        f"this build of torch has no code for compute capability {capability[0]}.{capability[1]} "
        f"(it has {', '.join(built_for)}); install a build for it: RTX 50 needs CUDA 12.8 or newer"
    )


def _memory() -> dict[str, int | None]:
    """Total and available bytes of RAM, None where the platform does not tell."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
        free = page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return {"total": None, "available": None}
    return {"total": total, "available": _linux_available() or free}


def _linux_available() -> int | None:
    """What Linux can give without swapping, page cache included."""
    if not sys.platform.startswith("linux"):
        return None
    for line in Path("/proc/meminfo").read_text("utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _attention(device: str) -> list[dict[str, Any]]:
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    spec = AttentionSpec(device, dtype, head_dim=128)
    half = replace(spec, dtype=torch.bfloat16)
    found: list[dict[str, Any]] = []
    for backend in ATTENTION.values():
        why_not = backend.why_not(spec)
        # A kernel for cards takes no float32 either, but that is not what it lacks on a CPU.
        found.append(_kernel(backend.name, why_not and (backend.why_not(half) or why_not)))
    return found


def _kernel(name: str, why_not: str | None) -> dict[str, Any]:
    said = why_not.to_json() if isinstance(why_not, Line) else None
    return {"name": name, "why_not": why_not, "said": said}


def _video() -> list[dict[str, str | None]]:
    found: list[dict[str, str | None]] = []
    for kind, choose in (("mp4", mp4_encoder), ("webm", webm_encoder)):
        try:
            encoder = choose()
        except RecurVidError as error:
            found.append({"name": kind, "why_not": str(error)})
        else:
            found.append({"name": f"{kind} ({encoder.name})", "why_not": encoder_note(encoder)})
    return found


def _disk() -> list[dict[str, Any]]:
    places = (("sessions", settings().sessions), ("models", settings().models or hub_cache()))
    return [
        {"what": what, "path": str(path), "free": shutil.disk_usage(_existing(path)).free}
        for what, path in places
    ]


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _model(
    spec: ModelSpec, devices: list[dict[str, Any]], memory: dict[str, int | None]
) -> dict[str, Any]:
    parts = status(spec)
    missing = [f"{part.component.role} is {part.state}" for part in parts if part.path is None]
    if missing:
        how = "reinstall the package" if spec.bundled else f"recurvid models get {spec.name}"
        return {"name": spec.name, "why_not": f"{', '.join(missing)}; {how}"}
    return {"name": spec.name, "why_not": _too_large(spec, devices[0], memory)}


def _too_large(
    spec: ModelSpec, device: dict[str, Any], memory: dict[str, int | None]
) -> str | None:
    """Why the largest part of a model does not fit. Parts are loaded one after the other."""
    if spec.bundled:
        return None
    # On a CPU the encoders, kept in float16, run in float32 (see generation.runtime.side_dtype).
    wider = 2 if device["device"] == "cpu" else 1
    needs = {
        "transformer": spec.component("transformer").size,
        "text encoder": spec.component("text_encoder").size * wider,
    }
    part, size = max(needs.items(), key=lambda item: item[1])
    have = device["memory"] or memory["available"]
    if have is None or have >= size + _HEADROOM:
        return None
    return f"its {part} needs {size / 1e9:.0f} GB on {device['device']}, which has {have / 1e9:.0f}"
