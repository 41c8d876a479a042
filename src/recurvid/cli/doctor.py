"""``recurvid doctor``: what this machine has, what will run on it, and why the rest will not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from recurvid.checkpoints.known import KNOWN
from recurvid.cli.machine import AttentionOption, SparseOption, VramOption, WeightsOption
from recurvid.cli.options import JsonOption
from recurvid.cli.output import Output
from recurvid.errors import InputError
from recurvid.generation.defaults import video_size
from recurvid.ops.attention.windows import NONE
from recurvid.settings import settings


@dataclass(frozen=True)
class _Asked:
    """What a plan is asked for; see the options of the same names."""

    model: str
    size: str
    vram: float | None
    weights: str
    attention: str
    sparse: str


def doctor(
    model: Annotated[
        str | None, typer.Option(help="Show what lies where while this model runs.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Size of the video, WIDTHxHEIGHT (default: 832x480).")
    ] = None,
    vram: VramOption = None,
    weights: WeightsOption = None,
    attention: AttentionOption = None,
    sparse: SparseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at device, memory, attention kernels, disk and models; or plan a model's memory."""
    output = Output(as_json)
    given = (model, size, vram, weights, attention, sparse)
    if any(value is not None for value in given):
        named = (weights or "auto", attention or "auto", sparse or NONE)
        _plan(output, _Asked(model or "framepack", size or "832x480", vram, *named))
        return
    from recurvid.cli import examination

    found = examination.examine()
    if as_json:
        output.record(found)
        return
    for title, lines in _sections(found):
        output.result.print(f"[bold]{title}[/]")
        for line in lines:
            output.result.print(f"  {line}", markup=False)


def _plan(output: Output, asked: _Asked) -> None:
    """What would lie where, by arithmetic: neither the model's files nor a card are needed."""
    from recurvid.cli.disk_needs import converted_weights, model_files
    from recurvid.cli.memory_picture import memory_picture, placement_json
    from recurvid.generation.memory_plan import MemoryQuestion, backbone_sizes, plan_memory
    from recurvid.generation.placing import budget_of
    from recurvid.generation.runtime import Runtime
    from recurvid.models.packed_dit.config import PRESETS
    from recurvid.ops.attention.registry import ATTENTION

    model, weights = asked.model, asked.weights
    if model not in KNOWN:
        raise InputError(
            f"--model {model!r}: unknown; one of {', '.join(KNOWN)}", "model.unknown", model=model
        )
    spec = KNOWN[model]
    if spec.bundled:
        raise InputError(
            f"--model {model}: runs within 1 GiB anywhere; plan framepack instead", "plan.bundled"
        )
    height, width = video_size(asked.size, (480, 832))
    runtime = Runtime.of(
        settings().device, vram=asked.vram, weights=weights,
        attention=asked.attention, sparse=asked.sparse,
    )  # fmt: skip
    budget = budget_of(runtime, settings().sessions)
    if budget is None:
        raise InputError(
            "no CUDA device here whose free memory would count; give --vram GIB", "plan.no_card"
        )
    made_for = spec.defaults
    kernel = ATTENTION.get(asked.attention)  # "auto" takes none that rounds
    question = MemoryQuestion(
        made_for.schedule, height, width, made_for.steps, weights=weights,
        sparse=runtime.sparse is not None, rounds=kernel is not None and not kernel.exact,
    )  # fmt: skip
    rounded = backbone_sizes(PRESETS["13b"], weights).rounded
    written = converted_weights(spec, runtime, rounded)
    placement = plan_memory(budget, question, kept=written.missing)
    files = model_files(spec)
    if output.as_json:
        told = {"model": model, "size": f"{width}x{height}", "weights": weights}
        told |= {"attention": asked.attention, "sparse": asked.sparse}
        there = {"disk_for_weights_there": written.there}
        there |= {"disk_for_model": files.missing, "disk_for_model_there": files.there}
        output.record({**told, **placement_json(placement), **there})
    else:
        form = "" if weights == "auto" else f" in {weights}"
        title = f"{model}{form} at {width}x{height}"
        output.result.print(memory_picture(placement, title, written.there, files))


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
