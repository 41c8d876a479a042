"""``recurvid doctor``: what this machine has, what will run on it, and why the rest will not."""

from __future__ import annotations

from typing import Any

from recurvid.cli.options import JsonOption
from recurvid.cli.output import Output


def doctor(as_json: JsonOption = False) -> None:
    """Look at device, memory, attention kernels, disk and models."""
    from recurvid.cli import examination

    output = Output(as_json)
    found = examination.examine()
    if as_json:
        output.record(found)
        return
    for title, lines in _sections(found):
        output.result.print(f"[bold]{title}[/]")
        for line in lines:
            output.result.print(f"  {line}", markup=False)


def _sections(found: dict[str, Any]) -> list[tuple[str, list[str]]]:
    software = found["software"]
    return [
        ("Software", [f"{name} {version}" for name, version in software.items()]),
        ("Devices", [_device(device) for device in found["devices"]]),
        ("Memory", [_memory(found["memory"])]),
        ("Attention kernels", [_kernel(kernel) for kernel in found["attention"]]),
        ("Video", [f"{v['name']}: {v['why_not'] or 'ok'}" for v in found["video"]]),
        ("Disk", [f"{d['what']}: {_gb(d['free'])} free in {d['path']}" for d in found["disk"]]),
        ("Models", [_model(model) for model in found["models"]]),
    ]


def _device(device: dict[str, Any]) -> str:
    parts = [device["device"], device["name"]]
    if device["memory"]:
        parts.append(_gb(device["memory"]))
    if device["chosen"]:
        parts.append("(--device auto takes this)")
    if device["why_not"]:
        parts.append(f"- {device['why_not']}")
    return " ".join(parts)


def _memory(memory: dict[str, Any]) -> str:
    if memory["total"] is None:
        return "size unknown"
    return f"{_gb(memory['total'])}, {_gb(memory['available'])} free"


def _kernel(kernel: dict[str, Any]) -> str:
    return f"{kernel['name']}: {kernel['why_not'] or 'ok'}"


def _model(model: dict[str, Any]) -> str:
    return f"{model['name']}: {model['why_not'] or 'runs here'}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
