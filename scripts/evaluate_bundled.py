"""Measures the bundled model through the product's own path: picture -> session -> file -> frames.

    python scripts/evaluate_bundled.py tests/photographs/*.jpg --out eval [--zero] [--model NAME]

For every picture four videos: pan left, pan right, zoom in, zoom out. Measured on the decoded mp4:
PSNR of the first frame against the prepared picture, and optical flow from first to last frame.
``--zero`` sets the backbone's weights to zero: the same test must then fail.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from recurvid.evaluation.motion import measure_motion
from recurvid.evaluation.quality import psnr
from recurvid.events import Finished
from recurvid.generation.journal import Journal, Local
from recurvid.generation.opening import open_session
from recurvid.generation.request import GenerationRequest
from recurvid.video.buckets import center_crop_resize
from recurvid.video.contact_sheet import contact_sheet, evenly_spaced, write_picture
from recurvid.video.pictures import load_picture
from recurvid.video.reader import read_frames

PAIRS = (("pan left", "pan right", "right"), ("zoom in", "zoom out", "outward"))


def make(picture, request, folder, model, zero):
    out = folder / "video.mp4"
    local = Local(output=str(out), model=model)
    journal = Journal.create(folder / "session", request, local, picture)
    session = open_session(journal)
    if zero:
        with torch.no_grad():
            for p in session.components.backbone.parameters():
                p.zero_()
    done = [event for event in session.run() if isinstance(event, Finished)]
    return np.stack(list(read_frames(done[0].video)))


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("pictures", type=Path, nargs="+")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--zero", action="store_true")
    p.add_argument("--model", help="a folder in the bundled layout instead of the bundled model")
    p.add_argument("--size", default="192x192")
    p.add_argument("--seconds", type=float, default=5)
    p.add_argument("--steps", type=int)
    p.add_argument("--set", nargs="*", default=[], help="more request fields, NAME=JSON")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    more = {k: json.loads(v) for k, v in (item.split("=", 1) for item in a.set)}
    width, height = map(int, a.size.split("x"))
    rows, cells = [], []
    for picture in track(a.pictures):
        prepared = center_crop_resize(load_picture(picture), height, width)
        for one, other, axis in PAIRS:
            values = []
            for prompt in (one, other):
                request = GenerationRequest(
                    prompt=prompt, seconds=a.seconds, size=a.size, steps=a.steps, seed=7, **more
                )
                began = time.monotonic()
                with tempfile.TemporaryDirectory() as folder:
                    frames = make(picture, request, Path(folder), a.model, a.zero)
                motion = measure_motion(frames)
                values.append(getattr(motion, axis))
                cells += [frames[i] for i in evenly_spaced(len(frames), 7)]
                rows.append({
                    "picture": picture.name, "prompt": prompt,
                    "psnr": round(psnr(frames[0], prepared), 2),
                    "length": round(motion.length, 2), "right": round(motion.right, 2),
                    "outward": round(motion.outward, 2), "flicker": round(motion.flicker, 3),
                    "seconds": round(time.monotonic() - began, 1),
                })  # fmt: skip
                print(rows[-1], flush=True)
            rows[-1]["opposite"] = bool(values[0] > 0 > values[1])
    summary = summarize(rows)
    (a.out / "evaluation.json").write_text(json.dumps({"summary": summary, "rows": rows}, indent=1))
    write_picture(a.out / "evaluation.jpg", contact_sheet(cells, columns=7, cell=128))
    print(json.dumps(summary, indent=1))


def summarize(rows):
    first = [r["psnr"] for r in rows]
    pairs = [r for r in rows if "opposite" in r]
    pans = [r["opposite"] for r in pairs if r["prompt"] == "pan right"]
    zooms = [r["opposite"] for r in pairs if r["prompt"] == "zoom out"]
    return {
        "videos": len(rows),
        "first frame PSNR, mean": round(float(np.mean(first)), 2),
        "first frame PSNR, worst": round(float(np.min(first)), 2),
        "median flow length, median over videos": round(
            float(np.median([r["length"] for r in rows])), 2
        ),
        "videos with flow under 3 px": sum(r["length"] < 3 for r in rows),
        "flicker, mean": round(float(np.mean([r["flicker"] for r in rows])), 3),
        "pan left against right opposite": f"{sum(pans)} of {len(pans)}",
        "zoom in against out opposite": f"{sum(zooms)} of {len(zooms)}",
        "seconds a video, mean": round(float(np.mean([r["seconds"] for r in rows])), 1),
    }


if __name__ == "__main__":
    main()
