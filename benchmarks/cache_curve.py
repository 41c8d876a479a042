"""What a step cache costs and saves: speed against likeness to the uncached video.

    .venv/bin/python benchmarks/cache_curve.py                        the bundled model
    .venv/bin/python benchmarks/cache_curve.py --model FOLDER         one in the bundled layout
    .venv/bin/python benchmarks/cache_curve.py --case a.jpg "zoom in" --case b.jpg "pan left"
    .venv/bin/python benchmarks/cache_curve.py --model FOLDER --save-calibration

Every cache makes the same videos at several thresholds. Work is counted in runs of a block, which
no machine changes; seconds are those of the denoising alone: of the clock, or on a CPU those of the
process, which others that run beside it do not change. PSNR and SSIM compare the decoded
frames, before any video codec, with those of the run without a cache.

MagCache takes the calibration beside the weights, if it has a run of so many steps; else it is
calibrated first, with another noise (seed + 1), so that it is not measured on what it was fitted
to. --save-calibration measures that with the cases that are given, leaves it beside the weights
(runs of other numbers of steps stay there) and does nothing else.

Writes cache-curve-STEPS-DATE.json and .svg to benchmarks/results, or to $OUT.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from cache_plot import Point, draw  # noqa: E402
from cache_runs import Bench  # noqa: E402
from skimage.metrics import structural_similarity  # noqa: E402

from recurvid.caching.calibration import FILE, JUMP, Calibration, RatioRecorder  # noqa: E402
from recurvid.caching.registry import CACHES, new_cache  # noqa: E402
from recurvid.caching.thresholds import threshold_of  # noqa: E402
from recurvid.errors import InputError  # noqa: E402
from recurvid.generation.request import GenerationRequest  # noqa: E402

# Multiples of a cache's own threshold.
FACTORS = (0.5, 1.0, 1.5, 2.0)
PHOTOGRAPHS = HERE.parent / "tests" / "photographs"  # training never saw them
CASES = (
    (PHOTOGRAPHS / "forest0.jpg", "pan left"),
    (PHOTOGRAPHS / "coffee.jpg", "zoom in"),
)
# A small model's residual shrinks evenly, but faster than published rules let pass.
SMALL_JUMP = 1.0


def calibration_file(bench: Bench) -> Path:
    """Where the calibration of a model lies."""
    path = Path(bench.files["transformer"])
    return (path if path.is_dir() else path.parent) / FILE


def calibrate(bench: Bench, jump: float) -> Calibration:
    """MagCache's ratios, from runs with the next seed; averaged over cases and sections."""
    made = bench.run(RatioRecorder, seed=bench.request.seed + 1)
    return Calibration.of([c.ratios for c in made.caches if isinstance(c, RatioRecorder)], jump)


def calibration_of(bench: Bench, jump: float, steps: int) -> tuple[Calibration | None, str]:
    """A calibration and where it is from; None where the model's blocks add nothing."""
    if calibration_file(bench).is_file():
        saved = Calibration.load(calibration_file(bench))
        if steps in saved.runs:
            return saved, "beside the weights"
    try:
        return calibrate(bench, jump), "measured with the next seed"
    except InputError as error:  # an untrained model, whose blocks add nothing
        return None, str(error)


def measure(
    bench: Bench, calibration: Calibration | None, factors: tuple[float, ...], repeats: int
):
    """Points of every cache, the uncached run first."""
    bench.run(None)  # warms up
    plain = [bench.run(None) for _ in range(repeats)]
    exact = plain[0]
    yield Point("off", 0.0, 1.0, 1.0, statistics.median(m.seconds for m in plain), None, None, 1.0)
    for name, kind in CACHES.items():
        default = threshold_of(name, bench.request.model)
        assert default is not None
        for factor in () if kind.calibrated and calibration is None else factors:
            threshold = round(default * factor, 4)
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
                *likeness(runs[0].videos, exact.videos),
                default=factor == 1,
            )


def likeness(videos, exact) -> tuple[float | None, float | None, float]:
    """PSNR over all videos and of the worst (None if equal), and the mean SSIM of their frames."""
    errors = [
        float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
        for a, b in zip(videos, exact, strict=True)
    ]
    weights = [video.size for video in exact]
    window = min(7, *(side if side % 2 else side - 1 for v in exact for side in v.shape[1:3]))
    similar = [
        structural_similarity(a, b, channel_axis=-1, win_size=window)
        for one, other in zip(videos, exact, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    mean = float(np.average(errors, weights=weights))
    return psnr(mean), psnr(max(errors)), float(np.mean(similar))


def psnr(error: float) -> float | None:
    """Of a mean squared error in levels; None where there is none."""
    return None if error == 0 else 10 * float(np.log10(255**2 / error))


def arguments() -> argparse.Namespace:
    """What was asked on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled", help="name, or folder in the bundled layout")
    parser.add_argument("--case", nargs=2, action="append", metavar=("PICTURE", "PROMPT"))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each video")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size")
    parser.add_argument("--seed", type=int, default=31337)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each, for the seconds")
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS))
    parser.add_argument("--save-calibration", action="store_true", help="only calibrate magcache")
    parser.add_argument(
        "--jump", type=float, help="magcache's, see the file (default: 1 for a small model)"
    )
    return parser.parse_args()


def main() -> int:
    args = arguments()
    cases = [(Path(picture), prompt) for picture, prompt in args.case or CASES]
    request = GenerationRequest(
        seconds=args.seconds, steps=args.steps, size=args.size, seed=args.seed
    )
    bench = Bench(args.model, cases, request, args.device)
    jump = args.jump or (SMALL_JUMP if bench.files.spec.bundled else JUMP)
    if args.save_calibration:
        return save_calibration(bench, jump)
    steps = args.steps or bench.files.spec.defaults.steps
    calibration, whence = calibration_of(bench, jump, steps)
    print(f"magcache's calibration: {whence}")
    points: list[Point] = []
    for point in measure(bench, calibration, tuple(args.factors), args.repeats):
        points.append(point)
        print(told(point, points[0]), flush=True)
    result = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python benchmarks/cache_curve.py", *sys.argv[1:]]),
        "steps": steps,
        "cases": [[picture.name, prompt] for picture, prompt in cases],
        "request": bench.request.to_json(),
        "repeats": args.repeats,
        "calibration_from": whence,
        "calibration": calibration and {str(k): v for k, v in calibration.runs.items()},
        "points": [asdict(point) for point in points],
    }
    report(result, bench, points)
    return 0


def save_calibration(bench: Bench, jump: float) -> int:
    """Leave a calibration beside the weights, with the runs of other lengths that it held."""
    path = calibration_file(bench)
    try:
        calibration = calibrate(bench, jump)
    except InputError as error:
        print(error)
        return 1
    if path.is_file():
        calibration = Calibration({**Calibration.load(path).runs, **calibration.runs}, jump)
    calibration.save(path)
    print(f"written: {path}")
    return 0


def told(point: Point, plain: Point) -> str:
    """A point as a line."""
    likeness = "equal" if point.psnr is None else f"{point.psnr:.1f} dB (worst {point.worst:.1f})"
    mark = "  default" if point.default else ""
    return (
        f"{point.cache:12} {point.threshold:<7g} blocks {point.work:6.1%}  "
        f"{plain.seconds / point.seconds:5.2f}x in {point.seconds:6.2f} s  "
        f"{likeness:>22}  SSIM {point.ssim:.4f}{mark}"
    )


def report(result: dict[str, Any], bench: Bench, points: list[Point]) -> None:
    """Write the numbers and the picture."""
    device = bench.components.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    folder = Path(os.environ.get("OUT") or HERE / "results")
    folder.mkdir(parents=True, exist_ok=True)
    result |= {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "fingerprint": bench.components.fingerprint(),
    }
    path = folder / f"cache-curve-{result['steps']}-{result['date']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    title = (
        f"Step caches, {bench.files.spec.name} model, {result['steps']} steps, "
        f"{len(bench.cases)} videos on {name}, {result['date']}"
    )
    path.with_suffix(".svg").write_text(draw(points, title))
    print(f"written: {path} and .svg")


if __name__ == "__main__":
    sys.exit(main())
