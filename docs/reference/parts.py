"""Parts of pages that are made from results and plans: they stand between two marks there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from claims import fast_and_small
from measurements import results
from on_a_cpu import caches, caches_in_short, first_video

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
    ("README.md", "first video", first_video),
    ("README.md", "caches", caches_in_short),
    ("docs/concepts/caches.md", "costs", caches),
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
