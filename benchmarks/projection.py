"""COMPUTED, not measured: what other cards would take for a frame, from results on an H100.

    python benchmarks/projection.py               # of the newest in benchmarks/results
    python benchmarks/projection.py --step 0.78 --step8 0.6 --tile 0.4    # seconds on the H100

The model. A step is 255 TFLOP of linear layers and 259 of attention; a section is 25 steps and 3
decoder tiles of 118 TFLOP, and gives 36 frames. A card does them at a fraction of its peak rate for
dense bf16 (or int8, for linear layers in 8 bits). Weights that do not fit stream over its bus
meanwhile, so that a step takes the longer of the two. Blocks are 18.1 GB in bf16 and 10.1 in int8,
without what is made once; of these stay on the card what the plan for its memory keeps there.

The fraction is the weak point, so two are given: "slow" is what we measured on the H100 with
cuDNN's attention, whose power limit keeps large products at half of its peak; "fast" is what the
original's published 2.5 s a frame on a 4090 implies for that card (its eager code reaches 0.87 of
the peak there). Peaks are the makers' figures; buses are what is usually measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src")]

from recurvid.generation.memory_plan import DENOISE, MemoryQuestion, plan_memory  # noqa: E402
from recurvid.memory.budget import MemoryBudget  # noqa: E402

LINEAR, ATTENTION, TILE = 255.0, 259.0, 118.0
H100_BF16, H100_INT8 = 989.0, 1979.0
STEPS, TILES, FRAMES = 25, 3, 36
FORMS = {"bf16": "auto", "int8": "int8"}
SCHEDULE = "f1k1_x_g9_f1k1f2k2f16k4_td"
#: The original's 2.5 s a frame on a 4090, 25 steps and a decode of 18 latents (7 tiles and a half).
PUBLISHED = 2.5


@dataclass(frozen=True)
class Card:
    """Peak TFLOP/s of dense products (float32 sums), GB/s of the bus, GiB of memory."""

    bf16: float
    int8: float
    bus: float
    vram: int

    def streamed(self, form: str) -> float:
        """GB that go over the bus in each step."""
        question = MemoryQuestion(SCHEDULE, 480, 832, weights=FORMS[form])
        plan = plan_memory(MemoryBudget.of(self.vram), question)
        return sum(plan.phase(DENOISE).streamed) / 1e9


CARDS = {
    "RTX 3060 laptop, 6 GB": Card(21.8, 87.0, 11.0, 6),
    "RTX 4060, 8 GB": Card(30.2, 121.0, 12.5, 8),
    "RTX 4090, 24 GB": Card(165.2, 660.6, 25.0, 24),
    "H100 (check)": Card(H100_BF16, H100_INT8, 54.0, 80),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", type=float, help="seconds of a bf16 step on the H100")
    parser.add_argument("--step8", type=float, help="the same with linear layers in 8 bits")
    parser.add_argument("--tile", type=float, help="seconds of a decoder tile, 5 latents")
    args = parser.parse_args()
    given = measured() | {k: v for k, v in vars(args).items() if v is not None}
    if missing := [name for name in ("step", "step8", "tile") if name not in given]:
        print(f"no result on an H100 tells {', '.join(missing)}; measure it, or give it by hand")
        return 2
    slow = (LINEAR + ATTENTION) / H100_BF16 / given["step"]
    attention = ATTENTION / (H100_BF16 * slow)
    slow8 = LINEAR / H100_INT8 / max(1e-3, given["step8"] - attention)
    decode = TILE / H100_BF16 / given["tile"]
    work = STEPS * (LINEAR + ATTENTION) + 7.5 * TILE
    fast = min(0.95, work / (CARDS["RTX 4090, 24 GB"].bf16 * PUBLISHED * FRAMES))
    result: dict[str, Any] = {
        "computed": "not measured: see the model in benchmarks/projection.py",
        "date": datetime.date.today().isoformat(), "measured_on_h100": given,
        "fractions": {"slow": slow, "slow int8": slow8, "decode": decode, "fast": fast},
        "cards": {},
    }  # fmt: skip
    print(
        "COMPUTED, not measured; s/frame from slow to fast\n\n| card | bf16 | int8 |\n|---|---|---|"
    )
    for name, card in CARDS.items():
        row: dict[str, Any] = {}
        for form in FORMS:
            ends = (
                frame(card, form, slow, slow8, decode),
                frame(card, form, max(fast, slow), max(fast, slow8) * 0.8, max(fast, decode)),
            )
            row[form] = {"slow": ends[0], "fast": ends[1]}
        result["cards"][name] = row
        cells = [f"{r['slow']['s_frame']:.2f} to {r['fast']['s_frame']:.2f} "
                 f"({r['slow']['limit']})" for r in row.values()]  # fmt: skip
        print(f"| {name} | {' | '.join(cells)} |")
    folder = Path(os.environ.get("OUT") or HERE / "results")
    path = folder / f"projection-{result['date']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten: {path}")
    return 0


def frame(card: Card, form: str, bf16: float, int8: float, decode: float) -> dict[str, Any]:
    """Seconds a frame, and what a step waits for."""
    rate = card.bf16 * bf16 if form == "bf16" else card.int8 * int8
    compute = LINEAR / rate + ATTENTION / (card.bf16 * bf16)
    stream = card.streamed(form) / card.bus
    section = STEPS * max(compute, stream) + TILES * TILE / (card.bf16 * decode)
    return {
        "s_frame": section / FRAMES,
        "step_s": max(compute, stream),
        "compute_s": compute,
        "stream_s": stream,
        "limit": "arithmetic" if compute >= stream else "bus",
    }


def measured() -> dict[str, float]:
    """From the newest files of results: whole runs, single steps, decodes."""
    found: dict[str, float] = {}
    runs = newest("whole-run-832x480-*.json").get("runs", {})
    for name, run in (("step", "resident-bf16"), ("step8", "resident-int8")):
        if "step_seconds_median" in runs.get(run, {}):
            found[name] = runs[run]["step_seconds_median"]
    # cuDNN's attention, which other cards have too.
    for name, variant in (("step", "compiled-fused"), ("step8", "int8-fused")):
        for path in sorted((HERE / "results").glob("step-speed-2*.json")):
            facts = json.loads(path.read_text())["variants"].get(variant, {})
            if name not in found and facts.get("attention") == "cudnn":
                found[name] = facts["ms"] / 1000
    ours = newest("vae-decode-832x480-*.json").get("ours", {})
    tiles = [run["tile_ms"] / 1000 for name, run in ours.items()
             if "tile_ms" in run and "windows" not in name and "tiles" not in name]  # fmt: skip
    if tiles:
        found["tile"] = min(tiles)
    return found


def newest(pattern: str) -> dict[str, Any]:
    files = sorted((HERE / "results").glob(pattern))
    return json.loads(files[-1].read_text()) if files else {}


if __name__ == "__main__":
    sys.exit(main())
