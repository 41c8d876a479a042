"""Draws the diagrams of the documentation, as SVG, from what the package computes.

    .venv/bin/python docs/pictures/draw.py          writes packing, orders, ... .svg here
    .venv/bin/python docs/pictures/draw.py --check  fails if a file is not what would be written

The numbers and positions in `packing` and `orders` come out of PackingSchedule and plan(), so the
pictures cannot say anything else than the code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

from recurvid.generation.memory_plan import MemoryQuestion, plan_memory
from recurvid.memory.budget import CONTEXT, GIB, MemoryBudget, gib
from recurvid.packing import PackingSchedule, layout
from recurvid.planning import plan
from recurvid.sections import Section

HERE = Path(__file__).parent
INK, SOFT, PAPER, LINE = "#1f2430", "#667085", "#ffffff", "#d0d5dd"
TARGET, ANCHOR, HISTORY = "#e4572e", "#2a9d8f", ("#1d4e89", "#4d86c4", "#a9c9e8")
DONE = "#c9d3df"


class Svg:
    """An SVG picture being drawn; coordinates in pixels."""

    def __init__(self, width: int, height: int, title: str):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img" font-family="system-ui, sans-serif">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        ]

    def box(self, x, y, w, h, fill, stroke="none", dash="", radius=3):
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{radius}" '
            f'fill="{fill}" stroke="{stroke}"{extra}/>'
        )

    def text(self, x, y, words, size=13, fill=INK, anchor="start", weight="normal", mono=False):
        font = ' font-family="ui-monospace, monospace"' if mono else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" '
            f'text-anchor="{anchor}" font-weight="{weight}"{font}>{escape(words)}</text>'
        )

    def arrow(self, x1, y1, x2, y2, fill=SOFT, dash=""):
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1)
        dx, dy = (x2 - x1) / length * 7, (y2 - y1) / length * 7
        tip = (
            f"{x2},{y2} {x2 - dx - dy / 2},{y2 - dy + dx / 2} {x2 - dx + dy / 2},{y2 - dy - dx / 2}"
        )
        self.parts.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2 - dx}" y2="{y2 - dy}" stroke="{fill}" '
            f'stroke-width="1.5"{extra}/><polygon points="{tip}" fill="{fill}"/>'
        )

    def write(self) -> str:
        return "\n".join([*self.parts, "</svg>", ""])


def packing() -> str:
    """What one section of the released model sees: frames above, tokens below."""
    text, height, width = "f1k1_x_g9_f1k1f2k2f16k4_td", 480, 832
    schedule = PackingSchedule.parse(text)
    tokens = schedule.tokens(height, width)
    gap = 6
    slots = layout(schedule, gap)
    svg = Svg(920, 330, "One section: which frames it sees, and how many tokens each group costs")
    svg.text(30, 34, text, 17, weight="bold", mono=True)
    svg.text(
        30, 56, "what one section of the released model sees, in the order of the video", 13, SOFT
    )

    cell, left, top = 23.5, 30, 92
    colours = [ANCHOR, *HISTORY]
    labels = ["start picture", "newest frame, whole", "2 frames, 1/8", "16 frames, 1/64 each"]
    shades = list(zip([g.index for g in slots.groups], colours, labels, strict=True))
    for index, fill, _ in shades:
        for frame in index:
            svg.box(left + frame * cell, top, cell - 2, 34, fill)
    for frame in slots.target:
        svg.box(left + frame * cell, top, cell - 2, 34, TARGET)
    first = slots.target[0]
    svg.box(left + cell, top, gap * cell - 2, 34, "none", LINE, "4 3")
    svg.text(left + cell * (1 + gap / 2), top + 21, "gap x", 12, SOFT, "middle")
    svg.text(
        left + cell * (first + 4.5), top - 8, "g9: the nine frames being made", 12, TARGET, "middle"
    )
    last = slots.history
    svg.text(
        left + cell * (last[0] + 9.5), top - 8, "history: made before", 12, HISTORY[0], "middle"
    )
    svg.text(left, top - 8, "start", 12, ANCHOR)

    svg.text(
        30, 182, f"the same as tokens at {width} x {height}: {tokens.total:,} in all", 13, SOFT
    )
    scale = 860 / tokens.total
    x = 30.0
    order = [
        ("anchor f1k1", ANCHOR),
        ("target g9", TARGET),
        *zip(("history f1k1", "history f2k2", "history f16k4"), HISTORY, strict=True),
    ]
    for row, (label, fill) in enumerate(order):
        count = tokens.groups[label]
        svg.box(x, 194, max(count * scale - 1, 2), 30, fill)
        svg.box(30 + 178 * row, 252, 12, 12, fill)
        svg.text(48 + 178 * row, 263, f"{label}", 13, mono=True)
        svg.text(48 + 178 * row, 282, f"{count:,} tokens", 13, SOFT)
        x += count * scale
    svg.text(
        30,
        313,
        "The history is of fixed size, so the hundredth section takes as many tokens as the first.",
        13,
    )
    return svg.write()


ORDERS = (
    ("inverted", "f1k1_x_g9_f1k1f2k2f16k4_td", {}, "from the end back to the picture"),
    ("forward", "f1k1_f16k4f2k2f1k1_g9", {}, "from the picture on (F1)"),
    ("endpoint", "td_f16k4f4k2f1k1_g9_x_f1k1", {}, "the end first, then towards it"),
    ("planned", "td_f16k4f4k2f1k1_g9_x_f1k1", {"endpoints": 2}, "endpoints first, then the gaps"),
)


def orders() -> str:
    """Six sections in the four orders: a row a section, the timeline from left to right."""
    sections = 6
    svg = Svg(920, 470, "Four orders of making the sections of one video")
    for place, (order, schedule, extra, words) in enumerate(ORDERS):
        x, y = 30 + 455 * (place % 2), 30 + 218 * (place // 2)
        svg.text(x, y, order, 16, weight="bold")
        svg.text(x + 84, y, words, 13, SOFT)
        made = plan(order, PackingSchedule.parse(schedule), sections, **extra)
        unit = 390 / made.latent_frames
        known = {0}
        for row, section in enumerate(made.sections):
            _draw_section(svg, section, known, x, y + 14 + row * 25, unit, made.latent_frames)
            known |= set(section.frames)
    y = 452
    for x, fill, words in (
        (30, TARGET, "being made"),
        (150, HISTORY[1], "its history"),
        (270, ANCHOR, "its anchor: start or end"),
        (470, DONE, "known, not looked at"),
        (650, "none", "not made yet"),
    ):
        svg.box(x, y - 11, 13, 13, fill, LINE if fill == "none" else "none")
        svg.text(x + 20, y, words, 13, SOFT)
    return svg.write()


def _draw_section(svg: Svg, section: Section, known: set[int], x, y, unit, frames):
    svg.box(x, y, frames * unit, 20, "none", LINE)
    svg.text(x + frames * unit + 8, y + 15, str(section.index + 1), 12, SOFT)
    layers = (
        (known, DONE),
        (known.intersection(section.history), HISTORY[1]),
        (known.intersection(section.anchors), ANCHOR),
        (section.frames, TARGET),
    )
    for positions, fill in layers:
        for frame in sorted(positions):
            svg.box(x + frame * unit, y + 1, max(unit - 1, 1), 18, fill, radius=1)


def resume() -> str:
    """What is on disk when, and where a resumed session goes on."""
    svg = Svg(920, 300, "A session that is killed in its second section and resumed")
    steps = ["denoise", "latents on disk", "decode", "video on disk", "shown"]
    x, width = 30, 134
    svg.text(30, 34, "section 1", 14, weight="bold")
    svg.text(30, 124, "section 2", 14, weight="bold")
    svg.text(30, 214, "section 2, resumed", 14, weight="bold")
    for row, (reached, y) in enumerate(((5, 46), (3, 136), (5, 226))):
        for number, words in enumerate(steps):
            left = x + number * (width + 22)
            durable = number in (1, 3)
            if row == 2 and number < 2:
                svg.box(left, y, width, 38, "none", LINE, "4 3")
                svg.text(
                    left + width / 2,
                    y + 24,
                    "not done again" if number == 0 else "read from disk",
                    13,
                    SOFT,
                    "middle",
                )
            elif number < reached:
                svg.box(left, y, width, 38, HISTORY[0] if durable else HISTORY[2])
                svg.text(left + width / 2, y + 24, words, 13, PAPER if durable else INK, "middle")
            if number < min(reached, 4) and not (row == 1 and number == 2):
                svg.arrow(left + width + 3, y + 19, left + width + 19, y + 19)
    kill = x + 2 * (width + 22) + width
    svg.text(kill + 14, 161, "killed here", 14, TARGET, weight="bold")
    svg.text(kill + 14, 178, "(at any moment, in any phase)", 12, SOFT)
    svg.box(kill + 3, 133, 4, 44, TARGET)
    svg.text(
        30, 290, "Noise depends on (seed, section) alone: the result has the same bits.", 13, SOFT
    )
    return svg.write()


def path() -> str:
    """One generation, from request to file."""
    svg = Svg(920, 560, "The path of one generation")

    def stage(x, y, w, name, where, fill=HISTORY[2], ink=INK):
        svg.box(x, y, w, 46, fill)
        svg.text(x + w / 2, y + 20, name, 14, ink, "middle", "bold")
        svg.text(x + w / 2, y + 37, where, 11.5, ink, "middle", mono=True)

    stage(300, 20, 320, "what was asked", "generation.request", ANCHOR, PAPER)
    svg.arrow(460, 66, 460, 86)
    stage(30, 88, 270, "sections and their order", "planning.orders")
    stage(325, 88, 270, "prompt and picture as vectors", "encoders, vae")
    stage(620, 88, 270, "weights, lazily", "checkpoints, models")
    svg.arrow(460, 134, 460, 160)
    svg.box(20, 162, 880, 318, "none", SOFT, "6 4", 8)
    svg.text(36, 186, "for each section", 14, weight="bold")
    svg.text(178, 186, "generation.session, the only loop over sections", 13, SOFT)
    stage(40, 204, 250, "history becomes context", "packing.pack")
    stage(335, 204, 250, "noise of (seed, section)", "sampling.noise")
    stage(630, 204, 250, "the network", "models.packed_dit")
    svg.arrow(165, 250, 300, 290)
    svg.arrow(460, 250, 460, 290)
    svg.arrow(755, 250, 620, 290)
    stage(280, 292, 360, "noise becomes latents, step by step", "sampling.solvers", TARGET, PAPER)
    svg.arrow(460, 338, 460, 358)
    stage(40, 412, 250, "history grows", "generation.history")
    stage(335, 360, 250, "latents on disk", "generation.journal", HISTORY[0], PAPER)
    svg.arrow(335, 392, 292, 416)
    svg.arrow(585, 392, 628, 416)
    stage(630, 412, 250, "finished frames, one segment", "vae.codec, video.writer")
    svg.arrow(100, 412, 100, 254)
    svg.arrow(755, 458, 620, 498)
    stage(300, 500, 320, "one file, streams copied", "video.assembly", ANCHOR, PAPER)
    return svg.write()


def memory() -> str:
    """What lies on a card of 6 GiB in each phase of the 13B model's run at 832x480."""
    budget = MemoryBudget.of(6, ram=16 * GIB)
    plan = plan_memory(budget, MemoryQuestion("f1k1_x_g9_f1k1f2k2f16k4_td", 480, 832))
    svg = Svg(920, 430, "What lies on a 6 GiB card in each phase of a run")
    left, scale = 190, 105 / GIB
    kinds = {"CUDA itself": SOFT, "weights": HISTORY[0], "resident blocks": HISTORY[1],
             "buffers for streamed blocks": HISTORY[2], "room to work in": TARGET}  # fmt: skip
    svg.text(30, 34, "13B at 832x480 on a card of 6 GiB", 17, weight="bold")
    for row, phase in enumerate(plan.phases):
        y, x = 60 + 36 * row, float(left)
        svg.text(left - 10, y + 18, phase.need.name, 13, anchor="end")
        sizes = (CONTEXT, phase.need.weights, phase.resident_bytes, phase.slot_bytes,
                 phase.need.work)  # fmt: skip
        for size, fill in zip(sizes, kinds.values(), strict=True):
            svg.box(round(x, 1), y, round(size * scale, 1), 26, fill, radius=0)
            x += size * scale
        svg.text(left + 6.15 * GIB * scale, y + 18, gib(CONTEXT + phase.device), 12, SOFT)
    bottom = 60 + 36 * len(plan.phases)
    for size, words, anchor in ((budget.process, "may be taken", "end"),
                                (budget.vram, "the card", "middle")):  # fmt: skip
        x = round(left + size * scale, 1)
        svg.box(x, 50, 1.5, bottom - 46, INK, radius=0)
        svg.text(x, bottom + 20, f"{words}: {gib(size)}", 12, INK, anchor)
    for column, (name, fill) in enumerate(kinds.items()):
        x, y = 30 + 290 * (column % 3), bottom + 42 + 26 * (column // 3)
        svg.box(x, y, 16, 16, fill)
        svg.text(x + 24, y + 13, name, 13)
    streamed = len(plan.phase("denoise").streamed)
    svg.text(30, bottom + 112, f"While denoising, {streamed} of 60 blocks come and go, each copied "
             "while the one before it computes.", 13, SOFT)  # fmt: skip
    return svg.write()


def main() -> int:
    check = "--check" in sys.argv
    for draw in (packing, orders, resume, path, memory):
        file, made = HERE / f"{draw.__name__}.svg", draw()
        if not check:
            file.write_text(made, encoding="utf-8", newline="\n")
        elif file.read_text(encoding="utf-8") != made:
            print(f"{file} is out of date; run docs/pictures/draw.py")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
