"""Plots of the benchmarks as SVG, by hand: stacked bars, and lines over a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

INK, SOFT, LINE = "#1f2430", "#667085", "#d0d5dd"
COLOURS = ("#1d4e89", "#e4572e", "#2a9d8f", "#8a6d00", "#b5179e", "#5b5f97")


def ticks(high: float, count: int = 5) -> list[float]:
    """About so many round numbers from 0."""
    raw = max(high, 1e-9) / count
    power = 1.0
    while power * 10 <= raw:
        power *= 10
    while power > raw:
        power /= 10
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw)
    return [i * step for i in range(int(high / step) + 1)]


def bars(title: str, rows: Sequence[tuple[str, Mapping[str, float]]], unit: str, note: str) -> str:
    """A horizontal stacked bar a row, parts in the order of the first row that has them.

    Args:
        rows: name, and part -> value.
        note: a line below.
    """
    parts = list(dict.fromkeys(part for _, values in rows for part in values))
    left, wide, step, top = 230, 620, 34, 78
    high = max((sum(values.values()) for _, values in rows), default=1.0) * 1.06
    bottom = top + step * len(rows)
    out = [*_page(left + wide + 90, bottom + 74, title), *_legend(left, 50, parts)]
    for value in ticks(high):
        x = left + value / high * wide
        out.append(f'<path d="M{x:.1f} {top - 6}V{bottom}" stroke="{LINE}"/>')
        out.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" fill="{SOFT}">'
            f"{value:g}</text>"
        )
    for row, (name, values) in enumerate(rows):
        x, y = float(left), top + row * step
        out.append(f'<text x="{left - 10}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        for part, value in values.items():
            width = value / high * wide
            colour = COLOURS[parts.index(part) % len(COLOURS)]
            out.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="22" fill="{colour}">'
                f"<title>{escape(part)}: {value:.3g} {escape(unit)}</title></rect>"
            )
            x += width
        out.append(f'<text x="{x + 6:.1f}" y="{y + 16}">{sum(values.values()):.3g}</text>')
    out.append(f'<text x="{left}" y="{bottom + 36}">{escape(unit)}</text>')
    out.append(f'<text x="24" y="{bottom + 60}" fill="{SOFT}">{escape(note)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def lines(
    title: str, panels: Sequence[tuple[str, Mapping[str, Sequence[float]]]], across: str, note: str
) -> str:
    """A panel a measure, one below the other; each line a value a section, from 0 upwards.

    Args:
        panels: what is measured with its unit, and name -> values.
    """
    left, wide, tall, gap, top = 64, 720, 150, 66, 70
    height = top + len(panels) * (tall + gap) + 30
    out = _page(left + wide + 30, height, title)
    for number, (what, named) in enumerate(panels):
        y0 = top + number * (tall + gap)
        high = max((max(values) for values in named.values() if values), default=1.0) * 1.1
        out.append(f'<text x="{left}" y="{y0 - 10}">{escape(what)}</text>')
        out += _legend(left + 260, y0 - 14, list(named))
        for value in ticks(high, 4):
            y = y0 + tall - value / high * tall
            out.append(f'<path d="M{left} {y:.1f}h{wide}" stroke="{LINE}"/>')
            out.append(
                f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{SOFT}">'
                f"{value:g}</text>"
            )
        for line, values in enumerate(named.values()):
            step = wide / max(1, len(values) - 1)
            way = " ".join(
                f"{left + i * step:.1f},{y0 + tall - v / high * tall:.1f}"
                for i, v in enumerate(values)
            )
            colour = COLOURS[line % len(COLOURS)]
            out.append(
                f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
            )
        out.append(f'<text x="{left}" y="{y0 + tall + 18}" fill="{SOFT}">{escape(across)}</text>')
    out.append(f'<text x="24" y="{height - 12}" fill="{SOFT}">{escape(note)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _page(width: float, height: float, title: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="system-ui, sans-serif" font-size="12" '
        f'fill="{INK}">',
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
        f'<text x="24" y="26" font-size="15">{escape(title)}</text>',
    ]


def _legend(x: float, y: float, names: Sequence[str]) -> list[str]:
    out: list[str] = []
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        out.append(f'<rect x="{x:g}" y="{y - 8:g}" width="10" height="10" fill="{colour}"/>')
        out.append(f'<text x="{x + 15:g}" y="{y + 1:g}" fill="{SOFT}">{escape(name)}</text>')
        x += 34 + 6.6 * len(name)
    return out


def scatter(
    title: str, named: Mapping[str, Sequence[tuple[float, float, str]]], axes: tuple[str, str]
) -> str:
    """Points (x, y, word) in a colour a name, each with its word beside it.

    Args:
        axes: words of x and y.
    """
    left, wide, top, tall = 64, 700, 84, 320
    places = [place for places in named.values() for place in places]
    spans = [_span([place[axis] for place in places]) for axis in (0, 1)]
    (x_low, x_high), (y_low, y_high) = spans
    out = [*_page(left + wide + 100, top + tall + 70, title), *_legend(left, 52, list(named))]
    for value in ticks(y_high, round(6 * y_high / (y_high - y_low))):
        if value >= y_low:
            y = top + tall - (value - y_low) / (y_high - y_low) * tall
            out.append(f'<path d="M{left} {y:.1f}h{wide}" stroke="{LINE}"/>')
            out.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in ticks(x_high, round(8 * x_high / (x_high - x_low))):
        if value >= x_low:
            x = left + (value - x_low) / (x_high - x_low) * wide
            out.append(
                f'<text x="{x:.1f}" y="{top + tall + 18}" text-anchor="middle">{value:g}</text>'
            )
    for number, points in enumerate(named.values()):
        colour = COLOURS[number % len(COLOURS)]
        for x, y, word in points:
            px = left + (x - x_low) / (x_high - x_low) * wide
            py = top + tall - (y - y_low) / (y_high - y_low) * tall
            out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4.5" fill="{colour}"/>')
            out.append(
                f'<text x="{px + 8:.1f}" y="{py + 4:.1f}" fill="{SOFT}">{escape(word)}</text>'
            )
    out.append(f'<text x="{left}" y="{top + tall + 44}">{escape(axes[0])}</text>')
    out.append(f'<text x="{left}" y="{top - 12}" fill="{SOFT}">{escape(axes[1])}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Least and largest, with a little room."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room
