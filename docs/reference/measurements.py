"""The page of what was measured, out of the dated files in benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparse_windows import sparse_attention

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
#: What stands for an attention kernel that was compiled apart from its library.
SAVED = {
    "saved:t128x128": "flash4",
    "own:bf16:hopper-held": "gluon",
    "own:int8:128x64": "triton-int8",
    "saved:f8_128x224": "fp8, experiment",
    "saved:qk8_128x176": "fp8 scores, experiment",
}
HEAD = "<!-- Written by docs/reference/write.py out of benchmarks/results. -->\n"

INTRODUCTION = """\
One step of the 13B model at 480x832: 18,755 tokens, random weights, all resident, in one
process with diffusers eager, whose time is 1. Errors are relative, of the step's output
against our own bf16. `flash4` is that library's kernel, built by its compiler for this card
and called without the library. Weights are *harsh* (every norm's weights random too) or
*mild* (as the peer's own measurement draws them)."""
STREAMING = """\
A step of the same model under a cap on what the card gives, CUDA's own part counted: as
many blocks stay as the plan lets, the others come from pinned memory or from the memory-
mapped file in page cache. Times against the same form with all blocks resident, in one
process."""
DECODING = """\
36 frames of 480x832, random weights in fp16, beside what diffusers does for the same frames
as the original asks for it (18 latents), in the same process: whole in space, and in its
tiles of 256 pixels. Windows are those of the 6 GB plan. The worst difference is that of a
temporal tile to the same decode in fp32 and whole, of 255 levels, for weights that were
never trained (diffusers' tiles: {tiled:.0f} levels)."""
CAPPED = """\
Whole runs under a budget; another process holds the rest of the card. Text encoders,
picture encoder, autoencoder, denoising of every section, decode, all at full size."""

REST = """\
## Elsewhere

- Step caches of the bundled model, on a CPU: [what they cost](../concepts/caches.md#what-it-costs).
- What other cards would take: [computed, not measured](../guide/performance.md#other-cards).
- The first video on a CPU: [README](../../README.md#four-commands)."""


def results(pattern: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and contents of the files of a pattern, oldest first."""
    paths = sorted(RESULTS.glob(pattern))
    return [(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def tables() -> list[str]:
    """Steps, attention kernels, streaming, decodes and whole runs, as they were measured."""
    lines = ["## Steps", "", *INTRODUCTION.splitlines(), ""]
    for name, result in results("step-speed-*.json"):
        lines += _steps(name, result)
    for name, result in results("attention-speed-*.json"):
        lines += _kernels(name, result)
    lines += [
        "*experiment*: kernels derived from FlashAttention 4's source, which are not part of this",
        "project (see the notebook of 2026-11-24).",
    ]
    lines += ["", "## Streamed steps", "", *STREAMING.splitlines(), ""]
    for name, result in results("streaming-step-*.json"):
        lines += _streamed(name, result)
    lines += ["## Decodes", ""]
    for name, result in results("vae-decode-*.json"):
        lines += _decodes(name, result)
    lines += ["## Whole runs under a budget", "", *CAPPED.splitlines(), ""]
    for name, result in results("memory-cap-full-*.json"):
        lines += _capped(name, result)
    for name, result in results("whole-run-[0-9]*.json"):
        lines += _whole(name, result)
    lines += ["## Sparse attention", ""]
    for name, result in results("sparse-attention-2*.json"):
        lines += sparse_attention(name, result)
    return [*lines, REST]


def _heading(name: str, result: dict[str, Any]) -> list[str]:
    said = f"`{result['command']}`" if "command" in result else "`benchmarks/step_speed.py`"
    told = f" ({result['command_is']})" if "command_is" in result else ""
    return [f"### {name}", "", said + told, ""]


def _table(*rows: tuple[str, ...]) -> list[str]:
    """The first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""]


def _steps(name: str, result: dict[str, Any]) -> list[str]:
    like = "mild weights" if result.get("weights_like") == "peer" else "harsh weights"
    lines = _heading(name, result)
    lines += [f"{result['device']}, torch {result['torch']}, {like};"]
    lines += [f"diffusers {result['ms_diffusers']:.0f} ms.", ""]
    known = [(n, f) for n, f in result["variants"].items() if "ms" in f]
    rows = [_step(n, facts) for n, facts in sorted(known, key=lambda each: each[1]["ms"])]
    head = ("form", "attention", "ms", "times diffusers", "error", "GiB")
    failed = [n.partition("@")[0] for n, f in result["variants"].items() if "failed" in f]
    return [*lines, *_table(head, *rows), *_failed(failed)]


def _failed(names: list[str]) -> list[str]:
    return [f"Failed: {', '.join(f'`{n}`' for n in dict.fromkeys(names))}.", ""] if names else []


def _step(name: str, facts: dict[str, Any]) -> tuple[str, ...]:
    form, attention = name.partition("@")[0], facts["attention"]
    return (
        form,
        SAVED.get(attention, attention),
        f"{facts['ms']:.0f}",
        f"{facts['ratio']:.2f}",
        f"{100 * facts['error_bf16']:.1f} %",
        f"{facts.get('peak_gib', 0):.1f}",
    )


def _kernels(name: str, result: dict[str, Any]) -> list[str]:
    lines = [f"### {name}", ""]
    lines += ["(1, 18755, 24, 128) on an H100. The call holds what rounding costs.", ""]
    known = [f for n, f in result.items() if "ms" in f and (n in SAVED or "saved:" not in n)]
    rows = [
        (
            SAVED.get(fact["name"], fact["name"]),
            f"{fact['ms']:.2f}",
            f"{fact['tflops']:.0f}",
            f"{fact['call_ms']:.2f}",
            f"{100 * fact['error']:.2f} %",
        )
        for fact in sorted(known, key=lambda fact: fact["ms"])
    ]
    return [*lines, *_table(("kernel", "ms", "TFLOP/s", "whole call, ms", "error"), *rows)]


def _streamed(name: str, result: dict[str, Any]) -> list[str]:
    lines = _heading(name, result)
    bus = f"bus {result['bus_gb_s']:.1f} GB/s, attention `{result['attention']}`"
    peer = f"; diffusers eager {result['diffusers']['ms']:.0f} ms" if "diffusers" in result else ""
    lines += [f"{result['card']}, torch {result['torch']}, {result['cap_gib']:g} GiB;", bus + peer]
    rows = [
        (
            variant,
            f"{facts['ms']:.0f}",
            f"{facts['of_resident']:.3f}",
            str(facts["resident_blocks"]),
            f"{facts['streamed_gb']:.1f}",
            f"{facts['reserved_gib']:.2f}",
            f"{facts['host_buffers_gib']:.2f}",
            "yes" if facts["equal"] else "**no**",
        )
        for variant, facts in result["variants"].items()
        if "ms" in facts
    ]
    failed = [n for n, facts in result["variants"].items() if "failed" in facts]
    head = ("variant", "ms", "of resident", "blocks that stay", "GB streamed", "GiB reserved",
            "GiB pinned", "same bits")  # fmt: skip
    return [*lines, "", *_table(head, *rows), *_failed(failed)]


def _decodes(name: str, result: dict[str, Any]) -> list[str]:
    peer = result["peer"]
    words = DECODING.format(tiled=peer["difference tiled"]["worst_levels"])
    rows = [
        (
            variant,
            f"{facts['ms']:.0f}",
            f"{facts['ratio']:.3f}",
            f"{facts['peak_gib']:.1f}",
            f"{facts['difference']['worst_levels']:.1f}",
        )
        for variant, facts in result["ours"].items()
        if "ratio" in facts
    ]
    lines = [*words.splitlines(), "", *_heading(name, result)]
    whole, tiled = peer["18 latents whole"]["ms"], peer["18 latents tiled"]["ms"]
    lines += [f"{result['card']}, torch {result['torch']}; diffusers whole {whole:.0f} ms,"]
    lines += [f"tiled {tiled:.0f} ms.", ""]
    head = ("variant", "ms", "of the original", "GiB at the peak", "worst, levels")
    return [*lines, *_table(head, *rows)]


def _capped(name: str, result: dict[str, Any]) -> list[str]:
    lines = _heading(name, result)
    lines += [f"{result['card']}, torch {result['torch']};"]
    lines += [f"a step takes {result['step_seconds_median']:.2f} s.", ""]
    rows = [
        (label, f"{peak(result, key):.2f}", f"{result['limits'][key]:g}", f"{of:.2f}")
        for label, key in (
            ("reserved by torch's allocator", "reserved_gib"),
            ("of the card in all", "device_gib"),
            ("process memory, page cache not counted", "process_gib"),
        )
        for of in (peak(result, key) / result["limits"][key],)
    ]
    lines += _table(("GiB", "most", "limit", "of it"), *rows)
    note = result.get("correction", {}).get("note")
    return [*lines, *([note, ""] if note else [])]


def _whole(name: str, result: dict[str, Any]) -> list[str]:
    lines = [f"### {name}", "", "`python benchmarks/whole_run.py`", ""]
    peer = result.get("peer_seconds_a_frame", {})
    said = ", ".join(f"{way} {seconds:.2f}" for way, seconds in peer.items())
    lines += [f"{result['card']}, torch {result['torch']}, {result['size']};"]
    lines += [f"diffusers, computed from its steps and decodes, s/frame: {said or 'not run'}.", ""]
    known = {n: run for n, run in result["runs"].items() if run.get("frames")}
    rows = [
        (
            f"{run_name}{' (cut off)' if 'failed' in run else ''}",
            f"{len(run['sections'])} of {run['steps']} steps",
            f"{run['seconds_a_frame']:.3f}",
            f"{run['times_peer']:.2f}" if "times_peer" in run and "failed" not in run else "",
            f"{run['step_seconds_median']:.3f}",
            ", ".join(f"{phase} {seconds:.0f}" for phase, seconds in run["seconds"].items()),
            *(
                f"{run['peaks'][key]:.2f}" if key in run["peaks"] else ""
                for key in ("reserved_gib", "device_gib", "process_gib")
            ),
        )
        for run_name, run in known.items()
    ]
    head = ("run", "sections", "s/frame", "times diffusers", "a step, s", "phases, s",
            "GiB reserved", "of the card", "of memory")  # fmt: skip
    failed = [n for n, run in result["runs"].items() if "failed" in run and n not in known]
    drawn = [
        f"![phases](../../benchmarks/results/{file.name})"
        for file in sorted(RESULTS.glob(f"{name}*.svg"))
    ]
    return [*lines, *_table(head, *rows), *_failed(failed), *drawn, *([""] if drawn else [])]


def peak(result: dict[str, Any], key: str) -> float:
    """GiB at the worst moment of a capped run; as corrected, where the file holds a correction."""
    return result.get("correction", {}).get(key, result["peaks"][key])
