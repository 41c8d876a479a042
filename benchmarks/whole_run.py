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
system memory (anonymous, shared and pinned; page cache not counted), five times a second.

Beside it, in the same command on the same card, diffusers: a step with resident weights and one
with streamed ones under 6 GiB, decodes of 9 and of 18 latents, whole and tiled; its video is
computed from these (``peer_decode.py``). MagCache skips by a schedule, not by what it sees, so that
random weights tell its speed.

Everything known is in whole-run-DATE.json (in $OUT or benchmarks/results) after each run, the plot
beside it. No run is begun in the last --reserve of --seconds. With fewer --steps than 25, seconds
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
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent), str(HERE)]

import charts  # noqa: E402
from memory_cap import free_bytes, model_paths, process_memory, write_weights  # noqa: E402

GIB = 2**30
PHASES = ("encode", "load", "denoise", "decode", "write")
STEPS, SECTIONS, MINUTE = 25, 3, 50
CACHE = "magcache"


@dataclass(frozen=True)
class Run:
    """How one video is made.

    Attributes:
        vram: GiB that it may use; None for what is free.
        peer: which of diffusers' ways it stands beside.
    """

    vram: float | None = None
    weights: str = "auto"
    cache: str = "off"
    compiled: bool = False
    peer: str = "resident"


PLAIN = {
    "resident-bf16": Run(compiled=True),
    "vram6-int8": Run(6, "int8", peer="offload"),
    "resident-int8": Run(weights="int8", compiled=True),
    "vram6-bf16": Run(6, peer="offload"),
}
RUNS = PLAIN | {
    f"{name}-cached": Run(run.vram, run.weights, CACHE, run.compiled, run.peer)
    for name, run in PLAIN.items()
}
RUNS["resident-bf16-eager"] = Run()


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
    for name in names:
        left = args.seconds - (time.perf_counter() - began)
        if args.go_on and "failed" not in found["runs"].get(name, {"failed": "not run"}):
            print(f"{name}: is there already", flush=True)
        elif left < args.reserve:
            print(f"{name}: not begun, {left:.0f} s are left; --go-on runs it", flush=True)
        else:
            if not args.minute and "peer" not in found:
                found["peer"] = peer(args, left)
                save(found, place)
            print(f"{name}:", flush=True)
            left = args.seconds - (time.perf_counter() - began)
            found["runs"][name] = in_a_process(name, args, left)
            tell(name, found["runs"][name])
        save(found, place)
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
    if args.go_on and not (folder / name).is_file() and (HERE / "results" / name).is_file():
        shutil.copy(HERE / "results" / name, folder / name)
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


def save(found: dict[str, Any], place: Path) -> None:
    place.write_text(json.dumps(found, indent=1) + "\n")


# The runs


def in_a_process(name: str, args: argparse.Namespace, left: float) -> dict[str, Any]:
    """Make one video; what is known when time is up is kept."""
    part = args.work / f"whole-run-{name}.json"
    part.unlink(missing_ok=True)
    home = args.work / "home"
    shutil.rmtree(home / "prompts", ignore_errors=True)
    before = free_bytes() if args.device == "cuda" else 0
    command = [sys.executable, __file__, "--child", name, "--free-before", str(before)]
    for option in ("size", "steps", "sections", "device", "work", "minute_run"):
        command += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    command += ["--tiny"] * args.tiny
    try:
        done = subprocess.run(
            command, env=dict(os.environ) | {"RECURVID_HOME": str(home)}, timeout=left - 15,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said = done.stderr.strip().splitlines()
        cut = None if done.returncode == 0 else f"exit {done.returncode}: {(said or [''])[-1]}"
        if cut:
            print("\n".join(said[-25:]), flush=True)
    except subprocess.TimeoutExpired:
        cut = "time was up"
    found = json.loads(part.read_text()) if part.is_file() else {}
    return found | ({"failed": cut[:400]} if cut else {})


def child(args: argparse.Namespace) -> int:
    """One video in this process; the JSON in --work is whole after each section."""
    from recurvid.events import Finished, Planned, Progress, SectionDone

    run = RUNS[args.minute_run if args.child == "minute" else args.child]
    place = args.work / f"whole-run-{args.child}.json"
    watch = Watch(torch.device(args.device), args.free_before)
    session, folder = open_video(run, args)
    result: dict[str, Any] = {
        "run": vars(run) | {"name": args.child}, "steps": args.steps, "sections": [],
        "seconds": dict.fromkeys(PHASES, 0.0), "step_seconds": [], "frames": 0,
    }  # fmt: skip
    began = last = time.perf_counter()
    phase, here = "encode", dict.fromkeys(PHASES, 0.0)
    for event in session.run():
        now = time.perf_counter()
        if isinstance(event, Progress):
            # A phase says that it begins with step 0; denoising only tells its finished steps.
            phase = event.phase if event.step or event.phase == "denoise" else phase
        spent, last = now - last, now
        result["seconds"][phase] += spent
        here[phase] += spent
        if isinstance(event, Progress):
            phase = event.phase
            if event.phase == "denoise":
                result["step_seconds"].append(round(spent, 4))
        if isinstance(event, SectionDone):
            result["frames"] = event.frames
            result["sections"].append(
                {k: round(v, 3) for k, v in here.items()} | watch.section() | placed(session)
            )
            here = dict.fromkeys(PHASES, 0.0)
        if isinstance(event, Planned):
            result["planned"] = {"frames": event.frames, "sections": event.sections}
        if isinstance(event, Finished):
            result["bytes"] = event.video.stat().st_size
        result |= {"total_seconds": now - began, "peaks": watch.peaks}
        if isinstance(event, SectionDone | Finished):
            place.write_text(json.dumps(summed(result)))
    watch.close()
    result["peaks"] = watch.peaks
    place.write_text(json.dumps(summed(result)))
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def open_video(run: Run, args: argparse.Namespace) -> tuple[Any, Path]:
    """A session as ``recurvid generate`` opens it, over our random weights."""
    import numpy as np
    from PIL import Image

    from recurvid.checkpoints.known import KNOWN
    from recurvid.checkpoints.locate import ModelFiles
    from recurvid.generation.journal import Journal, Local
    from recurvid.generation.loading import load_components
    from recurvid.generation.placing import under_budget
    from recurvid.generation.request import GenerationRequest
    from recurvid.generation.runtime import Runtime
    from recurvid.generation.session import GenerationSession
    from recurvid.generation.video_plan import plan_video

    torch.set_grad_enabled(False)
    folder = args.work / f"session-{args.child}"
    shutil.rmtree(folder, ignore_errors=True)
    width, height = map(int, args.size.split("x"))
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    picture = args.work / "picture.png"
    Image.fromarray(pixels).save(picture)
    request = GenerationRequest(
        prompt="a person walks along the beach while the sun goes down behind the hills, " * 3,
        model="framepack", size=args.size, steps=args.steps, step_cache=run.cache,
        seconds=args.sections * 1.2, whole_sections=True,
    )  # fmt: skip
    journal = Journal.create(
        folder, request, Local(str(args.work / "video.mp4"), overwrite=True), picture, None
    )
    files = ModelFiles(KNOWN["framepack"], model_paths(args))
    runtime = Runtime.of(
        args.device, "auto" if args.device == "cuda" else "float32", vram=run.vram,
        weights=run.weights, compiled=run.compiled and args.device == "cuda",
    )  # fmt: skip
    components = load_components(files, runtime)
    plan = plan_video(request, files.spec, (height, width), components.geometry, end_picture=False)
    components = under_budget(components, files, plan, folder)
    return GenerationSession(journal, plan, components), folder


def placed(session: Any) -> dict[str, int]:
    """How the blocks lie, where they are placed."""
    stream = getattr(vars(session.components).get("backbone"), "stream", None)
    if stream is None:
        return {}
    return {"resident": len(stream.resident), "slots": stream.slots}


def summed(result: dict[str, Any]) -> dict[str, Any]:
    """With seconds a frame, and for 25 steps where there were fewer."""
    frames, seconds, steps = result["frames"], result["seconds"], result["steps"]
    if not frames:
        return result
    result = result | {
        "seconds_a_frame": (seconds["denoise"] + seconds["decode"]) / frames,
        "seconds_a_frame_in_all": result["total_seconds"] / frames,
    }
    later = sorted(result["step_seconds"][1:]) or result["step_seconds"]
    result["step_seconds_median"] = later[len(later) // 2]
    if steps != STEPS and result["step_seconds"]:
        at_25 = result["step_seconds_median"] * STEPS * len(result["sections"])
        result["extrapolated_seconds_a_frame"] = (at_25 + seconds["decode"]) / frames
    return result


class Watch:
    """The most of each kind of memory, five times a second, in a thread; and since last asked."""

    def __init__(self, device: torch.device, free_before: int):
        self._cuda, self._free = device.type == "cuda", free_before
        self.peaks: dict[str, float] = {}
        self._section: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def section(self) -> dict[str, float]:
        """The most since the last call."""
        found, self._section = self._section, {}
        self._sample(found)
        return found

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            self._sample(self._section)

    def _sample(self, section: dict[str, float]) -> None:
        memory = process_memory()
        now = {
            "process_gib": memory.get("anonymous", 0) + memory.get("shared", 0),
            "page_cache_gib": memory.get("file", 0),
            "swap_gib": memory.get("swap", 0),
        }
        if self._cuda and torch.cuda.is_initialized():
            now["reserved_gib"] = torch.cuda.memory_reserved()
            now["device_gib"] = max(0, self._free - torch.cuda.mem_get_info()[0])
            most = torch.cuda.max_memory_reserved() / GIB
            self.peaks["reserved_gib"] = max(self.peaks.get("reserved_gib", 0.0), round(most, 3))
        for name, size in now.items():
            for peaks in (section, self.peaks):
                peaks[name] = max(peaks.get(name, 0.0), round(size / GIB, 3))


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


def peer_seconds(found: dict[str, Any], way: str, sections: int = SECTIONS) -> dict[str, float]:
    """A video of diffusers: a step's time by 25 and by the sections, one decode of 9, then 18s."""
    step = found.get(way, {}).get("ms")
    decodes = found.get("vae", {})
    kind = "whole" if way == "resident" else "tiled"
    if step is None or f"18 {kind}" not in decodes:
        return {}
    decode = decodes[f"9 {kind}"]["ms"] + (sections - 1) * decodes[f"18 {kind}"]["ms"]
    return {"denoise": STEPS * sections * step / 1000, "decode": decode / 1000}


# What is told


def tell(name: str, run: dict[str, Any]) -> None:
    if "failed" in run:
        print(f"  FAILED: {run['failed']}", flush=True)
    if not run.get("frames"):
        return
    phases = ", ".join(f"{k} {v:.1f}" for k, v in run["seconds"].items())
    peaks = ", ".join(f"{k} {v:.2f}" for k, v in sorted(run["peaks"].items()))
    print(f"  {run['seconds_a_frame']:.3f} s/frame ({run['seconds_a_frame_in_all']:.3f} in all), "
          f"step {run['step_seconds_median']:.3f} s; {phases}\n  {peaks}", flush=True)  # fmt: skip


def draw(found: dict[str, Any], place: Path) -> None:
    """The stacked bars, and the minute's lines."""
    runs = {n: r for n, r in found["runs"].items() if r.get("frames") and n != "minute"}
    rows: list[tuple[str, dict[str, float]]] = []
    for name, run in runs.items():
        rows.append((name, {p: run["seconds"][p] / run["frames"] for p in PHASES}))
    frames = 1 + 36 * SECTIONS
    for way in ("resident", "offload"):
        seconds = peer_seconds(found.get("peer", {}), way)
        if seconds:
            rows.append((f"diffusers, {way}", {k: v / frames for k, v in seconds.items()}))
    steps = {run["steps"] for run in runs.values()}
    said = "/".join(map(str, sorted(steps)))
    title = f"Three sections of {found['size']}, {said} steps, on {found['card']}"
    note = (
        f"{found['date']}. diffusers is computed from its step and its decodes, measured in the "
        "same command; encoding and loading are not in it."
    )
    if steps - {STEPS}:
        note = f"diffusers with {STEPS} steps. {note}"
    if rows:
        place.with_suffix(".svg").write_text(charts.bars(title, rows, "seconds a frame", note))
    minute = found["runs"].get("minute", {})
    if minute.get("sections"):
        rows_of = minute["sections"]
        panels = [
            ("seconds of a section", {p: [s[p] for s in rows_of] for p in ("denoise", "decode")}),
            ("memory, GiB", {n.removesuffix("_gib"): [s.get(n, 0.0) for s in rows_of]
                             for n in ("reserved_gib", "device_gib", "process_gib")}),
        ]  # fmt: skip
        title = f"{len(rows_of)} sections of {found['size']} under --vram 6, {found['card']}"
        note = f"{found['date']}; {minute['steps']} steps a section, {minute['frames']} frames"
        path = place.with_name(place.stem + "-minute.svg")
        path.write_text(charts.lines(title, panels, "section, first to last", note))


if __name__ == "__main__":
    sys.exit(main())
