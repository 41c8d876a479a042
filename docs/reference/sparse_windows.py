"""Sparse attention on the page of what was measured."""

from __future__ import annotations

from typing import Any

INTRODUCTION = """\
`--sparse` of the bundled model, on a CPU in fp32, through the same sessions as a user's video:
windows of rows x columns + margin @ percent of first steps without windows. PSNR and SSIM are those
of the frames, before any codec, against the same video without windows; *pairs* are those of query
and key in a sparse step, against a dense one. Frames have 8 x 18 or 10 x 14 tokens here, 30 x 52 at
480x832 of a released model, so that 3x5+1 is to it what 10x13+4 is there. No released model has
been run with windows."""
STEPS = """\
Error of the velocity in single steps of those videos, by sigma, against attention to everything;
and of what was tried and not taken: coarse context and text that see only themselves, and windows
through the noisy frames alone, with the context's full-resolution frames seen by all. That one is
closer, but for 62 % of the pairs where `3x5+1` does 38; `3x5+2` does 60 and is closer still (a
frame of 8 x 18 tokens)."""
COMPUTED = """\
**Computed, not measured**: one step of the 13B model at 480x832 (60 blocks, the first two dense),
at FlashAttention 4's 714 TFLOP/s, copies at 2.5 TB/s. Dense attention: {dense:.0f} ms."""


def sparse_attention(name: str, result: dict[str, Any]) -> list[str]:
    """Videos, steps, and the arithmetic at full size."""
    pictures = ", ".join(f"{p.removesuffix('.jpg')} ({said})" for p, said in result["cases"])
    lines = [*INTRODUCTION.splitlines(), "", f"### {name}", "", f"`{result['command']}`", ""]
    lines += [f"{result['steps']} steps, {result['seconds']:g} s each: {pictures}.", ""]
    lines += _table(
        ("windows", "pairs", "PSNR, dB", "worst video", "SSIM"),
        *(
            (
                f"`{windows}`",
                f"{100 * row['pairs']:.0f} %",
                f"{row['psnr']:.1f}",
                f"{row['worst']:.1f}",
                f"{row['ssim']:.3f}",
            )
            for windows, row in result["videos"].items()
            if row["psnr"] is not None
        ),
    )
    lines += [f"![PSNR against pairs](../../benchmarks/results/{name}.svg)", ""]
    lines += [*STEPS.splitlines(), ""]
    sigmas = list(next(iter(result["step"].values())))
    lines += _table(
        ("windows", *sigmas),
        *(
            (way, *(f"{100 * row[sigma]:.1f} %" for sigma in sigmas))
            for way, row in result["step"].items()
        ),
    )
    computed = result["arithmetic"]
    dense = next(iter(computed.values()))["computed_ms_dense"]
    lines += [*COMPUTED.format(dense=dense).splitlines(), ""]
    return lines + _table(
        ("windows", "pairs", "TFLOP saved", "GB moved to gather", "ms, copies and all"),
        *(
            (
                f"`{windows}`",
                f"{100 * row['pairs']:.0f} %",
                f"{row['tflop_saved']:.0f}",
                f"{row['gb_moved']:.0f}",
                f"{row['computed_ms']:.0f}",
            )
            for windows, row in computed.items()
        ),
    )


def _table(*rows: tuple[str, ...]) -> list[str]:
    """The first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""]
