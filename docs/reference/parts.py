"""Parts of pages that are made from results and plans: they stand between two marks there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from measurements import peak, results

from recurvid.generation.memory_plan import (
    DECODE,
    DENOISE,
    MemoryQuestion,
    decode_room,
    plan_memory,
)
from recurvid.memory.budget import GIB, MemoryBudget
from recurvid.vae.lean_decoder import BYTES
from recurvid.vae.windows import fit_windows

ROOT = Path(__file__).parents[2]
SCHEDULE = "f1k1_x_g9_f1k1f2k2f16k4_td"
#: Milliseconds that a step cannot go below on an H100: its products and attention at the rates that
#: cards of this kind were measured to reach; and its 25.7 GB of bf16 weights over a bus of 54 GB/s.
FLOORS = {"bf16": 730, "8-bit": 580, "8-bit attention": 490, "bus": 480}
#: Milliseconds of other programs' steps under 6 GiB on a card of this kind, in another run.
OFFLOADED = {"diffusers": 2096, "the original": 5462}


def newest(pattern: str, *path: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The newest file of a pattern that has a measurement: its name, all of it, and that one.

    Raises:
        LookupError: none has it.
    """
    for name, result in reversed(results(pattern)):
        found = result
        for key in path:
            found = found.get(key, {})
        if "ms" in found:
            return name, result, found
    raise LookupError(f"{pattern} with {path}")


def row(what: str, took: str, beside: str, floor: str, file: str) -> str:
    """A row of the README's table, with the file that it is made from."""
    return f"| {what} | {took} | {beside} | {floor} | [{file}](benchmarks/results/{file}.json) |"


def fast_and_small() -> str:
    """The README's table: what was measured beside others, and the floor."""
    lines = [
        "| 13B model, 832x480, one H100 | took | beside | floor | from |",
        "|---|---|---|---|---|",
    ]
    lines += [
        _step("a step, 16 bits, compiled", "compiled-fused@best", FLOORS["bf16"]),
        _step("the same, int8 linears, not compiled", "int8-eager@best", FLOORS["8-bit"]),
        _step("int8 linears, fp8 attention of cuDNN, compiled", "int8-fused@cudnn-fp8",
              FLOORS["8-bit attention"]),
    ]  # fmt: skip
    others = " and ".join(f"{ms:,} ms ({who})" for who, ms in OFFLOADED.items())
    lines += [
        _streamed("pinned memory", "bf16-pinned-compiled", f"; in another run, 6 GiB: {others}"),
        _streamed("the file in page cache", "bf16-mapped-compiled"),
    ]
    lines += [_decode("whole frames", "lean", "18 latents whole")]
    lines += [_decode("windows of the 6 GB plan", "lean-windows", "18 latents tiled")]
    (name, run) = results("memory-cap-full-6-*.json")[-1]
    lines += [
        row(
            f"a whole run, `--vram 6 --weights {run['args']['weights']}`",
            f"{peak(run, 'device_gib'):.2f} GiB of the card, {peak(run, 'process_gib'):.1f} GiB of "
            f"memory, {run['step_seconds_median']:.2f} s a step",
            f"limits {run['limits']['device_gib']:g} and {run['limits']['process_gib']:g} GiB",
            "",
            name,
        )
    ]
    return "\n".join(lines)


def _step(what: str, variant: str, floor: int) -> str:
    name, result, facts = newest("step-speed-*.json", "variants", variant)
    took = f"{facts['ms']:.0f} ms, {100 * facts['error_bf16']:.1f} % from plain bf16"
    beside = f"{facts['ratio']:.2f} times diffusers ({result['ms_diffusers']:.0f} ms)"
    return row(what, took, beside, f"{floor} ms", name)


def _streamed(where: str, variant: str, others: str = "") -> str:
    name, result, facts = newest("streaming-step-832x480-*.json", "variants", variant)
    what = f"a step under {result['cap_gib']:g} GiB, 16 bits, compiled, weights from {where}"
    beside = f"{facts['of_resident']:.3f} of all weights resident{others}"
    return row(what, f"{facts['ms']:.0f} ms", beside, f"{FLOORS['bus']} ms of bus", name)


def _decode(what: str, variant: str, beside: str) -> str:
    name, result, facts = newest("vae-decode-832x480-*.json", "ours", variant)
    theirs = result["peer"][beside]["ms"]
    told = f"{facts['ms'] / theirs:.2f} of diffusers as the original calls it ({theirs:,.0f} ms)"
    off = facts["difference"]["worst_levels"]
    took = f"{facts['ms']:,.0f} ms, at worst {off:.0f} of 255 levels from a whole fp32 decode"
    return row(f"decode of a section, {what}", took, told, "", name)


def computed() -> str:
    """Other cards, by the model of benchmarks/projection.py."""
    name, result = results("projection-*.json")[-1]
    lines = ["| computed, not measured: s/frame | bf16 | int8 |", "|---|---|---|"]
    for card, forms in result["cards"].items():
        cells = [
            f"{f['fast']['s_frame']:.2f} to {f['slow']['s_frame']:.2f}, by {f['slow']['limit']}"
            for f in forms.values()
        ]
        lines.append(f"| {card} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"From `benchmarks/results/{name}.json`."])


def plans() -> str:
    """What stays on cards of all sizes."""
    head = (
        "| card | blocks that stay (of 60): bf16 | `--weights int8` | windows of a decode (int8) |"
    )
    lines = [head, "|---|---|---|---|"]
    for vram in (4, 6, 8, 12, 16, 24, 80):
        cells = [_stay(vram, form) for form in ("auto", "int8")]
        lines.append(f"| {vram} GiB | {' | '.join(cells)} | {_windows(vram)} |")
    return "\n".join(lines)


def _plan(vram: int, form: str) -> tuple[Any, MemoryQuestion]:
    question = MemoryQuestion(SCHEDULE, 480, 832, weights=form)
    return plan_memory(MemoryBudget.of(vram), question), question


def _stay(vram: int, form: str) -> str:
    plan, _ = _plan(vram, form)
    denoise = plan.phase(DENOISE)
    if not denoise.streamed:
        return "all, the decoder beside them" if plan.together else "all"
    return f"{len(denoise.resident)}" + (", one buffer" if denoise.slots == 1 else "")


def _windows(vram: int) -> str:
    plan, question = _plan(vram, "int8")
    assert plan.phase(DECODE).limit <= vram * GIB
    cut = fit_windows(60, 104, decode_room(plan, question) // (17 * 64 * BYTES))
    count = len(cut.rows) * len(cut.columns)
    return "none: whole frames" if count == 1 else str(count)


#: Page, name of its marks, what stands between them.
PARTS: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("README.md", "fast and small", fast_and_small),
    ("docs/guide/performance.md", "computed", computed),
    ("docs/concepts/memory.md", "plans", plans),
)


def replaced(text: str, name: str, made: str) -> str:
    """A page with something else between its marks ``<!-- name: ... -->`` and ``<!-- end -->``.

    Raises:
        ValueError: the marks are not there.
    """
    start = text.index(f"<!-- {name}:")
    first = text.index("-->", start) + 3
    return f"{text[:first]}\n{made}\n{text[text.index('<!-- end -->', first) :]}"
