"""The page of measured steps, out of the dated files in benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
#: What stands for an attention kernel that was compiled apart from its library.
SAVED = {
    "saved:t128x128": "flash4",
    "saved:f8_128x224": "fp8, experiment",
    "saved:qk8_128x176": "fp8 scores, experiment",
}
HEAD = "<!-- Written by docs/reference/write.py out of benchmarks/results. -->\n"


def measured() -> str:
    """Attention kernels and whole steps, as they were measured."""
    lines = [HEAD, "# Measured steps", ""]
    lines += [
        "One step of the 13B model at 480x832: 18,755 tokens, random weights, all resident, in one",
        "process with diffusers eager, whose time is 1. Errors are relative, of the step's output",
        "against our own bf16. `flash4` is that library's kernel, built by its compiler for this",
        "card and called without the library.",
        "",
    ]
    for path in sorted(RESULTS.glob("step-speed-*.json")):
        lines += _steps(path)
    for path in sorted(RESULTS.glob("attention-speed-*.json")):
        lines += _kernels(path)
    lines += [
        "*experiment*: kernels derived from FlashAttention 4's source, which are not part of this",
        "project (see the notebook of 2026-11-24).",
    ]
    return "\n".join(lines) + "\n"


def _steps(path: Path) -> list[str]:
    result = json.loads(path.read_text(encoding="utf-8"))
    like = "mild weights" if result.get("weights_like") == "peer" else "harsh weights"
    lines = [f"## {path.stem}", "", f"`{result.get('command', 'benchmarks/step_speed.py')}`", ""]
    lines += [f"{result['device']}, torch {result['torch']}, {like};"]
    lines += [f"diffusers {result['ms_diffusers']:.0f} ms.", ""]
    lines += [
        "| form | attention | ms | times diffusers | error | GiB |",
        "|---|---|---|---|---|---|",
    ]
    known = [(n, f) for n, f in result["variants"].items() if "ms" in f]
    lines += [_step(name, facts) for name, facts in sorted(known, key=lambda each: each[1]["ms"])]
    return [*lines, ""]


def _step(name: str, facts: dict[str, Any]) -> str:
    form, attention = name.partition("@")[0], facts["attention"]
    cells = (
        form,
        SAVED.get(attention, attention),
        f"{facts['ms']:.0f}",
        f"{facts['ratio']:.2f}",
        f"{100 * facts['error_bf16']:.1f} %",
        f"{facts.get('peak_gib', 0):.1f}",
    )
    return f"| {' | '.join(cells)} |"


def _kernels(path: Path) -> list[str]:
    result = json.loads(path.read_text(encoding="utf-8"))
    lines = [f"## {path.stem}", ""]
    lines += ["(1, 18755, 24, 128) on an H100. The call holds what rounding costs.", ""]
    lines += ["| kernel | ms | TFLOP/s | whole call, ms | error |", "|---|---|---|---|---|"]
    known = [f for n, f in result.items() if "ms" in f and (n in SAVED or "saved:" not in n)]
    for fact in sorted(known, key=lambda fact: fact["ms"]):
        name = SAVED.get(fact["name"], fact["name"])
        numbers = f"{fact['ms']:.2f} | {fact['tflops']:.0f} | {fact['call_ms']:.2f}"
        lines.append(f"| {name} | {numbers} | {100 * fact['error']:.2f} % |")
    return [*lines, ""]
