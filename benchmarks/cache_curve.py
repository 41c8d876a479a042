"""What a step cache costs and saves: speed against likeness to the uncached video.

    .venv/bin/python benchmarks/cache_curve.py                        the bundled model
    .venv/bin/python benchmarks/cache_curve.py --model FOLDER         one in the bundled layout
    .venv/bin/python benchmarks/cache_curve.py --model FOLDER --save-calibration

Every cache runs the same request at several thresholds. Work is counted in runs of a block, which
no machine changes; seconds are those of the denoising alone. PSNR and SSIM compare the decoded
frames, before any video codec, with those of the run without a cache. MagCache is calibrated
first, with another picture noise (seed + 1), so that it is not measured on what it was fitted to;
--save-calibration leaves that calibration beside the weights and does nothing else.

Writes cache-curve-DATE.json and .svg to benchmarks/results, or to $OUT.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import torch
from skimage.metrics import structural_similarity

from recurvid.caching.calibration import FILE, Calibration, RatioRecorder
from recurvid.caching.protocol import StepCache
from recurvid.caching.registry import CACHES, new_cache
from recurvid.caching.thresholds import THRESHOLDS
from recurvid.checkpoints.locate import BUNDLED_FOLDER, locate
from recurvid.errors import InputError
from recurvid.events import Progress
from recurvid.generation.components import Components
from recurvid.generation.journal import Journal, Local
from recurvid.generation.loading import load_components
from recurvid.generation.request import GenerationRequest
from recurvid.generation.runtime import Runtime
from recurvid.generation.session import GenerationSession
from recurvid.generation.tensor_files import load_conditioning, load_latents
from recurvid.generation.video_plan import plan_video
from recurvid.video.pictures import load_picture

# Multiples of a cache's own threshold.
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Point:
    """One run of one cache, over all pictures.

    Attributes:
        threshold: 0 for the run without a cache.
        steps: share of the model calls whose blocks all ran.
        work: share of the block runs of the uncached run.
        seconds: of denoising, the median of the repeats.
        psnr: dB, over all pixels of the video; None where every pixel is equal.
        ssim: mean over the frames.
    """

    cache: str
    threshold: float
    steps: float
    work: float
    seconds: float
    psnr: float | None
    ssim: float


@dataclass
class Made:
    """What a session left: frames (t, h, w, 3) uint8, seconds, block runs, recorded caches."""

    frames: Any
    seconds: float
    block_runs: int
    caches: list[StepCache]


class Bench:
    """One model, one picture, one request."""

    def __init__(self, model: str, picture: Path, request: GenerationRequest, device: str):
        self.files = locate(model)
        self.components: Components = load_components(self.files, Runtime.of(device))
        self.picture = picture
        self.request = request.but(model=self.files.spec.name)
        self.block_runs = 0
        backbone: Any = self.components.backbone
        for block in [*backbone.transformer_blocks, *backbone.single_transformer_blocks]:
            block.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.block_runs += 1

    def run(
        self, new: Callable[[], StepCache] | None, request: GenerationRequest | None = None
    ) -> Made:
        """A whole session in a folder that is gone afterwards."""
        caches: list[StepCache] = []

        def noted() -> StepCache:
            assert new is not None
            caches.append(new())
            return caches[-1]

        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            journal = Journal.create(
                root / "session",
                request or self.request,
                Local(output=str(root / "video.mp4")),
                self.picture,
            )
            size = load_picture(self.picture).shape
            plan = plan_video(
                journal.request, self.files.spec, (size[0], size[1]), self.components.geometry
            )
            session = GenerationSession(
                journal, plan, self.components, new_cache=None if new is None else noted
            )
            self.block_runs, seconds, before = 0, 0.0, time.perf_counter()
            for event in session.run():
                now = time.perf_counter()
                if isinstance(event, Progress) and event.phase == "denoise":
                    seconds += now - before
                before = time.perf_counter()
            return Made(self._decode(journal, plan.frames), seconds, self.block_runs, caches)

    def _decode(self, journal: Journal, frames: int):
        """The video's frames from its latents, without a video codec in between."""
        made = [load_conditioning(journal.conditioning_path)[0]]
        made += [load_latents(path) for path in sorted(journal.sections_folder.iterdir())]
        slots = {int(i): one.data[:, :, k] for one in made for k, i in enumerate(one.index[0])}
        latents = torch.stack([slots[i] for i in sorted(slots)], dim=2)
        codec = self.components.codec
        pixels = codec.decode(latents.to(self.components.device))[0, :, :frames].float().cpu()
        levels = pixels.clamp(-1, 1).mul(127.5).add(127.5).round().to(torch.uint8)
        return levels.permute(1, 2, 3, 0).numpy()


def calibrate(bench: Bench) -> Calibration:
    """MagCache's ratios, from a run with the next seed; averaged over sections."""
    request = bench.request.but(seed=bench.request.seed + 1)
    made = bench.run(RatioRecorder, request)
    return Calibration.of([c.ratios for c in made.caches if isinstance(c, RatioRecorder)])


def measure(
    bench: Bench, calibration: Calibration | None, factors: tuple[float, ...], repeats: int
):
    """Points of every cache, the uncached run first."""
    bench.run(None)  # warms up
    plain = [bench.run(None) for _ in range(repeats)]
    exact = plain[0]
    yield Point("off", 0.0, 1.0, 1.0, statistics.median(m.seconds for m in plain), None, 1.0)
    for name, kind in CACHES.items():
        for factor in () if kind.calibrated and calibration is None else factors:
            threshold = round(THRESHOLDS[name] * factor, 4)
            runs = [
                bench.run(lambda n=name, t=threshold: new_cache(n, t, calibration))
                for _ in range(repeats)
            ]
            computed = [ran for cache in runs[0].caches for ran in cache.computed]
            yield Point(
                name,
                threshold,
                sum(computed) / len(computed),
                runs[0].block_runs / exact.block_runs,
                statistics.median(m.seconds for m in runs),
                *likeness(runs[0].frames, exact.frames),
            )


def likeness(frames, exact) -> tuple[float | None, float]:
    """PSNR over the whole video (None if equal), and mean SSIM of its frames."""
    error = float(np.mean((frames.astype(np.float64) - exact.astype(np.float64)) ** 2))
    side = min(frames.shape[1:3])
    window = min(7, side if side % 2 else side - 1)
    similar = [
        structural_similarity(a, b, channel_axis=-1, win_size=window)
        for a, b in zip(frames, exact, strict=True)
    ]
    psnr = None if error == 0 else 10 * float(np.log10(255**2 / error))
    return psnr, float(np.mean(similar))


# ---- the picture -------------------------------------------------------------------------------

COLOURS = ("#e4572e", "#2a9d8f", "#1d4e89", "#b5179e", "#8a6d00", "#5b5f97")
INK, SOFT, LINE = "#1f2430", "#667085", "#d0d5dd"
WIDE, HIGH, LEFT, TOP, GAP = 400, 250, 64, 64, 84


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two."""
    raw = max(high - low, 1e-9) / 5
    power = 10 ** np.floor(np.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw)
    return [float(v) for v in np.arange(np.ceil(low / step) * step, high + step * 1e-6, step)]


def panel(x0: float, y0: float, points: list[Point], across: Any, up: Any, words: tuple[str, str]):
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
    for x in ticks(x_low, x_low + x_span):
        at = place(x, y_low)[0]
        out.append(f'<path d="M{at:.1f} {y0}v{HIGH}" stroke="{LINE}"/>')
        out.append(
            f'<text x="{at:.1f}" y="{y0 + HIGH + 17}" text-anchor="middle" fill="{SOFT}">'
            f"{x:g}×</text>"
        )
    for y in ticks(y_low, y_low + y_span):
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
            own = p.threshold == THRESHOLDS[name]
            out.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if own else 3}" fill="{colour}">'
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
            out += panel(x, y, points, across, up, (speed, what))
    x = float(LEFT)
    for colour, name in zip(COLOURS, CACHES, strict=False):
        out.append(f'<circle cx="{x + 5}" cy="{height - 14}" r="4" fill="{colour}"/>')
        out.append(f'<text x="{x + 14}" y="{height - 10}" fill="{INK}">{name}</text>')
        x += 40 + 7 * len(name)
    out.append(
        f'<text x="{x}" y="{height - 10}" fill="{SOFT}">large dot: the threshold by default</text>'
    )
    return "\n".join([*out, "</svg>"]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled", help="name, or folder in the bundled layout")
    parser.add_argument("--picture", type=Path, default=BUNDLED_FOLDER / "example.jpg")
    parser.add_argument("--prompt", default="pan left")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size")
    parser.add_argument("--seed", type=int, default=31337)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each, for the seconds")
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS))
    parser.add_argument("--save-calibration", action="store_true", help="only calibrate magcache")
    args = parser.parse_args()
    request = GenerationRequest(
        prompt=args.prompt,
        seconds=args.seconds,
        steps=args.steps,
        size=args.size,
        seed=args.seed,
    )
    bench = Bench(args.model, args.picture, request, args.device)
    try:
        calibration = calibrate(bench)
    except InputError as error:  # an untrained model, whose blocks add nothing
        print(error)
        calibration = None
    if args.save_calibration:
        if calibration is None:
            return 1
        path = Path(bench.files["transformer"])
        path = (path if path.is_dir() else path.parent) / FILE
        if path.is_file():
            runs = {**Calibration.load(path).runs, **calibration.runs}
            calibration = Calibration(runs)
        calibration.save(path)
        print(f"written: {path}")
        return 0
    points = []
    for point in measure(bench, calibration, tuple(args.factors), args.repeats):
        points.append(point)
        likeness = "equal" if point.psnr is None else f"{point.psnr:.1f} dB"
        print(
            f"{point.cache:12} {point.threshold:<7g} blocks {point.work:6.1%}  "
            f"{points[0].seconds / point.seconds:5.2f}x in {point.seconds:6.2f} s  "
            f"{likeness:>8}  SSIM {point.ssim:.4f}",
            flush=True,
        )
    report(args, bench, calibration, points)
    return 0


def report(args: Any, bench: Bench, calibration: Calibration | None, points: list[Point]) -> None:
    """Write the numbers and the picture."""
    device = bench.components.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    today = datetime.date.today().isoformat()
    folder = Path(os.environ.get("OUT") or HERE / "results")
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "date": today,
        "device": name,
        "torch": torch.__version__,
        "dtype": str(bench.components.dtype),
        "fingerprint": bench.components.fingerprint(),
        "request": bench.request.to_json(),
        "repeats": args.repeats,
        "calibration": calibration and {str(k): v for k, v in calibration.runs.items()},
        "points": [asdict(point) for point in points],
    }
    path = folder / f"cache-curve-{today}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    title = f"Step caches, {bench.files.spec.name} model, {len(points) - 1} runs on {name}, {today}"
    path.with_suffix(".svg").write_text(draw(points, title))
    print(f"written: {path} and .svg")


if __name__ == "__main__":
    sys.exit(main())
