"""What does a whole video cost, phase by phase: resident, under 6 GB, in 8 bits, with a step cache?

    python benchmarks/whole_run.py                      # one GPU with 40 GiB free, 60 GB of disk
    python benchmarks/whole_run.py --go-on              # what today's file does not hold yet
    python benchmarks/whole_run.py --runs resident-bf16,vram6-int8 --steps 8
    python benchmarks/whole_run.py --minute             # 50 sections under --vram 6, 2 steps each
    python benchmarks/whole_run.py --tiny               # any machine: tries the script
    python benchmarks/whole_run.py --draw FILE          # the plot of results that are there

Each run is a process of its own and makes a video of three sections at 480x832, 25 steps, as
``recurvid generate`` does: a session from text encoding (LLaMA 8B) to the written file, everything
at full size with random weights. Noted are the seconds of each phase, each step and each section,
the most that torch's allocator has reserved, the most that the process took of the card and of
system memory (anonymous, shared and pinned; page cache not counted), five times a second. Under
--vram another process holds the card's memory until exactly so many GiB are free, the plan counts
on 12 GiB of system memory (int8) or 16 (bf16), and the claim's limits are told as kept or exceeded.
Compiled kernels are kept in --work for the runs after.

Beside it, in the same command on the same card, diffusers: a step with resident weights and one
with streamed ones under 6 GiB, decodes of 9 and of 18 latents, whole and tiled; its video is
computed from these (``peer_decode.py``). MagCache skips by a schedule, not by what it sees, so that
random weights tell its speed.

Everything known is in whole-run-DATE.json (in $OUT or benchmarks/results, and in --work for
--go-on) every few seconds, the plot beside it at the end. No run is begun in the last --reserve of
--seconds; one that runs says how many are left. With fewer --steps than 25, seconds
of denoising are also given for 25, marked as extrapolated.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent), str(HERE)]

from card_memory import Hog, free_bytes  # noqa: E402
from full_size import write_weights  # noqa: E402
from whole_charts import beside, draw  # noqa: E402
from whole_video import (  # noqa: E402
    MINUTE,
    PLAIN,
    RUNS,
    SECTIONS,
    STEPS,
    child,
    part_file,
)


def main() -> int:
    args = parse_args()
    if args.child:
        return child(args)
    if args.draw:
        draw(json.loads(args.draw.read_text()), args.draw)
        return 0
    began = time.perf_counter()
    place = results(args)
    found: dict[str, Any] = json.loads(place.read_text()) if args.go_on and place.is_file() else {}
    found |= facts(args)
    args.work.mkdir(parents=True, exist_ok=True)
    write_weights(args.work / ("tiny" if args.tiny else "full"), tiny=args.tiny)
    names = ["minute"] if args.minute else args.runs
    for number, name in enumerate(names):
        left = args.seconds - (time.perf_counter() - began)
        if args.go_on and "failed" not in found["runs"].get(name, {"failed": "not run"}):
            print(f"{name}: is there already", flush=True)
        elif left < args.reserve:
            print(f"{name}: not begun, {left:.0f} s are left; --go-on runs it", flush=True)
        else:
            print(f"{name}: {left:.0f} s left", flush=True)
            found["runs"][name] = in_a_process(name, args, left, keeper(found, name, place, args))
            tell(name, found["runs"][name])
        save(found, place, args)
        left = args.seconds - (time.perf_counter() - began)
        due = number + 1 >= len(PLAIN) or name == names[-1]  # the most telling runs go first
        if due and not args.minute and not found.get("peer") and left > args.reserve:
            print(f"diffusers: {left:.0f} s left", flush=True)
            found["peer"] = peer(args, left)
            save(found, place, args)
    beside(found)
    save(found, place, args)
    draw(found, place)
    print(f"written: {place}", flush=True)
    failed = [n for n in names if "failed" in found["runs"].get(n, {})]
    return int(bool(failed))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", help=f"comma separated, of {', '.join(RUNS)}")
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--sections", type=int)
    parser.add_argument("--minute", action="store_true", help=f"{MINUTE} sections under --vram 6")
    parser.add_argument("--minute-run", default="vram6-int8", choices=tuple(RUNS))
    parser.add_argument("--seconds", type=float, default=570, help="for everything")
    parser.add_argument("--reserve", type=float, default=100, help="no run is begun with less")
    parser.add_argument("--go-on", action="store_true", help="keep what today's file holds")
    parser.add_argument("--work", type=Path, default=Path("/tmp/recurvid-memory-cap"))
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the script")
    parser.add_argument("--draw", type=Path, help="only draw the plot of this file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--child", choices=(*RUNS, "minute"), help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--free-before", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.runs = args.runs.split(",") if args.runs else [n for n in RUNS if "eager" not in n]
    if unknown := [name for name in args.runs if name not in RUNS]:
        parser.error(f"unknown runs {', '.join(unknown)}; known: {', '.join(RUNS)}")
    minute = args.minute or args.child == "minute"
    args.steps = args.steps or (2 if minute or args.tiny else STEPS)
    args.sections = args.sections or ((3 if args.tiny else MINUTE) if minute else SECTIONS)
    if args.tiny:
        args.size = "64x48"
    elif args.device == "cpu" and not args.draw:
        parser.error("full size needs a GPU; --tiny tries the script without")
    return args


def results(args: argparse.Namespace) -> Path:
    folder = Path(os.environ.get("OUT") or HERE / "results")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"whole-run-{'tiny-' if args.tiny else ''}{args.size}-{datetime.date.today()}.json"
    for other in (args.work, HERE / "results"):
        if args.go_on and not (folder / name).is_file() and (other / name).is_file():
            shutil.copy(other / name, folder / name)
    return folder / name


def facts(args: argparse.Namespace) -> dict[str, Any]:
    old = json.loads(results(args).read_text()) if args.go_on and results(args).is_file() else {}
    return {
        "date": datetime.date.today().isoformat(),
        "card": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "size": args.size,
        "runs": old.get("runs", {}),
    }


def save(found: dict[str, Any], place: Path, args: argparse.Namespace) -> None:
    """Here, and beside the weights, where a later command with --go-on finds it."""
    text = json.dumps(found, indent=1) + "\n"
    for path in (place, args.work / place.name):
        partial = path.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(path)


def keeper(
    found: dict[str, Any], name: str, place: Path, args: argparse.Namespace
) -> Callable[[dict[str, Any]], None]:
    """Saves what is known of a run that is still going on."""

    def keep(so_far: dict[str, Any]) -> None:
        save(found | {"runs": found["runs"] | {name: so_far}}, place, args)

    return keep


# The runs


def in_a_process(
    name: str, args: argparse.Namespace, left: float, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Make one video; what is known is kept every few seconds, and when time is up."""
    part = part_file(args, name)
    part.unlink(missing_ok=True)
    home = args.work / "home"
    shutil.rmtree(home / "prompts", ignore_errors=True)
    run = RUNS[args.minute_run if name == "minute" else name]
    cuda = args.device == "cuda"
    hog = Hog(run.vram) if cuda and run.vram else None
    before = hog.free if hog else free_bytes() if cuda else 0
    until = time.time() + left - 15
    command = [sys.executable, __file__, "--child", name, "--free-before", str(before)]
    for option in ("size", "steps", "sections", "device", "work", "minute_run"):
        command += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    command += ["--until", str(until), *["--tiny"] * args.tiny]
    errors = args.work / f"whole-run-{name}.txt"
    with errors.open("w") as said:
        process = subprocess.Popen(command, env=environment(args), stderr=said)
        cut = watched(
            process, until, lambda: keep(known(part) | {"failed": "cut off from outside"})
        )
    if hog:
        hog.close()
    if cut:
        lines = errors.read_text().strip().splitlines()
        print("\n".join(lines[-25:]), flush=True)
        cut = f"{cut}: {(lines or [''])[-1]}" if cut != "time was up" else cut
    return known(part) | ({"failed": cut[:400]} if cut else {})


def environment(args: argparse.Namespace) -> dict[str, str]:
    """Rounded weights and compiled kernels lie beside the weights."""
    kept = {
        "RECURVID_HOME": "home",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
    }
    return dict(os.environ) | {name: str(args.work / folder) for name, folder in kept.items()}


def watched(process: subprocess.Popen[bytes], until: float, keep: Callable[[], None]) -> str:
    """Wait for a run; returns why it came to no good end, "" if it did."""
    while time.time() < until:
        try:
            code = process.wait(timeout=max(0.1, min(5.0, until - time.time())))
        except subprocess.TimeoutExpired:
            keep()
        else:
            return f"exit {code}" if code else ""
    process.kill()
    process.wait()
    return "time was up"


def known(part: Path) -> dict[str, Any]:
    return json.loads(part.read_text()) if part.is_file() else {}


# The peer


def peer(args: argparse.Namespace, left: float) -> dict[str, Any]:
    """diffusers' times, from a process of its own."""
    out = args.work / "peer.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / "peer_decode.py"), "--out", str(out)]
    command += ["--size", args.size, *["--tiny"] * args.tiny]
    try:
        subprocess.run(command, timeout=max(10.0, min(left - 20, 240)), check=False)
    except subprocess.TimeoutExpired:
        print("diffusers: cut off", flush=True)
    return json.loads(out.read_text()) if out.is_file() else {}


# What is told


def tell(name: str, run: dict[str, Any]) -> None:
    if "failed" in run:
        print(f"  FAILED: {run['failed']}", flush=True)
    if not run.get("frames"):
        if "step_seconds_median" in run:
            print(f"  {len(run['step_seconds'])} steps of {run['step_seconds_median']:.3f} s each")
        return
    phases = ", ".join(f"{k} {v:.1f}" for k, v in run["seconds"].items())
    peaks = ", ".join(f"{k} {v:.2f}" for k, v in sorted(run["peaks"].items()))
    if "limits" in run:
        said = ", ".join(f"{k} {v:g}" for k, v in run["limits"].items())
        print(f"  limits {said}: exceeded {', '.join(run['exceeded']) or 'nothing'}", flush=True)
    if "num_ooms" in run:
        print(f"  out of memory {run['num_ooms']} times, {run['num_alloc_retries']} tried again")
    print(f"  {run['seconds_a_frame']:.3f} s/frame ({run['seconds_a_frame_in_all']:.3f} in all), "
          f"step {run['step_seconds_median']:.3f} s; {phases}\n  {peaks}", flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
