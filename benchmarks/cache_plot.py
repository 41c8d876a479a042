"""The step caches' curves as SVG: PSNR and SSIM against block runs and against seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from recurvid.caching.registry import CACHES


@dataclass(frozen=True)
class Point:
    """One run of one cache, over all pictures.

    Attributes:
        threshold: 0 for the run without a cache.
        steps: share of the model calls whose blocks all ran.
        work: share of the block runs of the uncached run.
        seconds: of denoising, the median of the repeats.
        psnr: dB, over all pixels of all videos; None where every pixel is equal.
        worst: the lowest PSNR of a video.
        ssim: mean over the frames.
        default: whether the threshold is the cache's for this model.
    """

    cache: str
    threshold: float
    steps: float
    work: float
    seconds: float
    psnr: float | None
    worst: float | None
    ssim: float
    default: bool = False


COLOURS = ("#e4572e", "#2a9d8f", "#1d4e89", "#b5179e", "#8a6d00", "#5b5f97")
INK, SOFT, LINE = "#1f2430", "#667085", "#d0d5dd"
WIDE, HIGH, LEFT, TOP, GAP = 400, 250, 64, 64, 84


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two."""
    raw = max(high - low, 1e-9) / 5
    power = 10 ** np.floor(np.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw)
    return [float(v) for v in np.arange(np.ceil(low / step) * step, high + step * 1e-6, step)]


def _panel(x0: float, y0: float, points: list[Point], across: Any, up: Any, words: tuple[str, str]):
    """One plot: speed-up to the right, likeness upwards, a line a cache."""
    shown = [p for p in points if p.cache != "off" and up(p) is not None]
    xs, ys = [across(p) for p in shown] + [1.0], [up(p) for p in shown]
    if not ys:
        return [f'<text x="{x0}" y="{y0 + 20}" fill="{SOFT}">no step was skipped</text>']
    (x_low, x_high), (y_low, y_high) = (min(xs), max(xs)), (min(ys), max(ys))
    x_span, y_span = max(x_high - x_low, 1e-3), max(y_high - y_low, 1e-3)
    y_low, y_span = y_low - 0.06 * y_span, 1.12 * y_span

    def place(x: float, y: float) -> tuple[float, float]:
        return x0 + (x - x_low) / x_span * WIDE, y0 + HIGH - (y - y_low) / y_span * HIGH

    out = []
    for x in _ticks(x_low, x_low + x_span):
        at = place(x, y_low)[0]
        out.append(f'<path d="M{at:.1f} {y0}v{HIGH}" stroke="{LINE}"/>')
        out.append(
            f'<text x="{at:.1f}" y="{y0 + HIGH + 17}" text-anchor="middle" fill="{SOFT}">'
            f"{x:g}×</text>"
        )
    for y in _ticks(y_low, y_low + y_span):
        at = place(x_low, y)[1]
        out.append(f'<path d="M{x0} {at:.1f}h{WIDE}" stroke="{LINE}"/>')
        out.append(
            f'<text x="{x0 - 8}" y="{at + 4:.1f}" text-anchor="end" fill="{SOFT}">{y:g}</text>'
        )
    for colour, name in zip(COLOURS, CACHES, strict=False):
        line = sorted((p for p in shown if p.cache == name), key=lambda p: p.threshold)
        spots = [place(across(p), up(p)) for p in line]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        out.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        for p, (x, y) in zip(line, spots, strict=True):
            out.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if p.default else 3}" fill="{colour}">'
                f"<title>{name} {p.threshold:g}</title></circle>"
            )
    out.append(
        f'<text x="{x0 + WIDE / 2}" y="{y0 + HIGH + 36}" text-anchor="middle" fill="{INK}">'
        f"{escape(words[0])}</text>"
    )
    out.append(f'<text x="{x0}" y="{y0 - 10}" fill="{INK}">{escape(words[1])}</text>')
    return out


def draw(points: list[Point], title: str) -> str:
    """The curves as SVG: PSNR and SSIM against block runs and against seconds."""
    base = points[0]
    width, height = LEFT + 2 * WIDE + GAP + 24, TOP + 2 * (HIGH + GAP) + 24
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="14" fill="{INK}">{escape(title)}</text>',
    ]
    speeds: list[tuple[Callable[[Point], float], str]] = [
        (lambda p: 1 / p.work, "speed-up in runs of a block"),
        (lambda p: base.seconds / p.seconds, "speed-up in seconds of denoising"),
    ]
    measures: list[tuple[Callable[[Point], float | None], str]] = [
        (lambda p: p.psnr, "PSNR to the uncached video, dB"),
        (lambda p: p.ssim, "SSIM to the uncached video"),
    ]
    for row, (up, what) in enumerate(measures):
        for column, (across, speed) in enumerate(speeds):
            x, y = LEFT + column * (WIDE + GAP), TOP + row * (HIGH + GAP)
            out += _panel(x, y, points, across, up, (speed, what))
    x = float(LEFT)
    for colour, name in zip(COLOURS, CACHES, strict=False):
        out.append(f'<circle cx="{x + 5}" cy="{height - 14}" r="4" fill="{colour}"/>')
        out.append(f'<text x="{x + 14}" y="{height - 10}" fill="{INK}">{name}</text>')
        x += 40 + 7 * len(name)
    out.append(
        f'<text x="{x}" y="{height - 10}" fill="{SOFT}">large dot: the threshold by default</text>'
    )
    return "\n".join([*out, "</svg>"]) + "\n"
