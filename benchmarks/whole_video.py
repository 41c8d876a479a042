"""One video of whole_run.py, in a process of its own: phases, steps, sections, memory as JSON."""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from card_memory import GIB, LIMITS, PROCESS_GIB, exceeded, process_memory
from full_size import model_paths

from recurvid import durable

PHASES = ("encode", "load", "denoise", "decode", "write")
STEPS, SECTIONS, MINUTE = 25, 3, 50
CACHE = "magcache"
TELL_EACH = 15.0  # seconds


@dataclass(frozen=True)
class Run:
    """How one video is made.

    Attributes:
        vram: GiB that it may use; None for what is free.
        peer: which of diffusers' ways it stands beside.
        attention: name of a kernel, or "auto".
    """

    vram: float | None = None
    weights: str = "auto"
    cache: str = "off"
    compiled: bool = False
    peer: str = "resident"
    attention: str = "auto"


PLAIN = {
    "resident-bf16": Run(compiled=True),
    "vram6-int8": Run(6, "int8", peer="offload"),
    "resident-int8": Run(weights="int8", compiled=True),
    "vram6-bf16": Run(6, peer="offload"),
}
EIGHT_BITS = {
    "resident-int8-attention8": Run(weights="int8", compiled=True, attention="triton-int8")
}
CACHED = {
    f"{name}-cached": replace((PLAIN | EIGHT_BITS)[name], cache=CACHE)
    for name in ("vram6-int8", "resident-int8", "resident-bf16", "vram6-bf16", *EIGHT_BITS)
}
# As one calls, in the order of what they tell.
RUNS = PLAIN | EIGHT_BITS | CACHED | {"resident-bf16-eager": Run()}


def child(args: argparse.Namespace) -> int:
    """One video in this process; the JSON in --work is whole after each section."""
    from recurvid.events import Finished, Planned, Progress, SectionDone

    run = RUNS[args.minute_run if args.child == "minute" else args.child]
    place = part_file(args, args.child)
    watch = Watch(torch.device(args.device), args.free_before)
    session, folder = open_video(run, args)
    result: dict[str, Any] = {
        "run": vars(run) | {"name": args.child}, "steps": args.steps, "sections": [],
        "seconds": dict.fromkeys(PHASES, 0.0), "step_seconds": [], "frames": 0,
    }  # fmt: skip
    began = last = told = time.perf_counter()
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
        if isinstance(event, SectionDone | Finished) or now - told > TELL_EACH:
            told = now
            durable.write_json(place, summed(result))
            say(result, args)
    watch.close()
    result["peaks"] = watch.peaks
    result |= verdict(run, watch.peaks, args)
    durable.write_json(place, summed(result))
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def verdict(run: Run, peaks: dict[str, float], args: argparse.Namespace) -> dict[str, Any]:
    """What the allocator had to try again, and which limits of the claim for 6 GiB are exceeded."""
    found: dict[str, Any] = {}
    if args.device != "cpu":
        stats = torch.cuda.memory_stats()
        found |= {name: stats.get(name, 0) for name in ("num_alloc_retries", "num_ooms")}
    if run.vram == 6 and args.size == "832x480":
        limits = LIMITS | {"process_gib": PROCESS_GIB[run.weights]}
        found |= {"limits": limits, "exceeded": exceeded(peaks, limits)}
    return found


def say(result: dict[str, Any], args: argparse.Namespace) -> None:
    """How far, and the seconds to go: of this video by its pace, and until it is cut off."""
    steps, sections = result["step_seconds"], len(result["sections"])
    at = min(sections + 1, args.sections)
    words = [f"section {at} of {args.sections}", f"{len(steps)} steps"]
    if len(steps) > 1:
        pace = sorted(steps[1:])[len(steps[1:]) // 2]
        decode = result["seconds"]["decode"] / max(1, sections)
        left = pace * (args.steps * args.sections - len(steps))
        left += decode * (args.sections - sections)
        words += [f"{pace:.3f} s a step", f"about {left:.0f} s to go"]
    if args.until:
        words.append(f"{args.until - time.time():.0f} s left")
    print(f"  {', '.join(words)}", flush=True)


def part_file(args: argparse.Namespace, name: str) -> Path:
    """Where a run keeps what is known so far."""
    return args.work / f"whole-run-{name}.json"


def open_video(run: Run, args: argparse.Namespace) -> tuple[Any, Path]:
    """A session as ``recurvid generate`` opens it, over our random weights."""
    import numpy as np
    from PIL import Image

    from recurvid.checkpoints.known import KNOWN
    from recurvid.checkpoints.locate import ModelFiles
    from recurvid.generation import placing
    from recurvid.generation.journal import Journal, Local
    from recurvid.generation.loading import load_components
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
        attention=run.attention if args.device == "cuda" else "auto",
    )  # fmt: skip
    components = load_components(files, runtime)
    plan = plan_video(request, files.spec, (height, width), components.geometry, end_picture=False)
    if run.vram and not args.tiny:  # the claim's machine: blocks that it cannot pin are mapped
        placing.available_memory = lambda: (int(PROCESS_GIB[run.weights] * GIB), 0)
    components = placing.under_budget(components, files, plan, folder)
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
    if result["step_seconds"]:
        later = sorted(result["step_seconds"][1:]) or result["step_seconds"]
        result = result | {"step_seconds_median": later[len(later) // 2]}
    if not frames:
        return result
    result = result | {
        "seconds_a_frame": (seconds["denoise"] + seconds["decode"]) / frames,
        "seconds_a_frame_in_all": result["total_seconds"] / frames,
    }
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
            # torch's own pinned memory, which the system may count as no page of the process.
            host = getattr(torch.cuda, "host_memory_stats", dict)()
            now["host_allocator_gib"] = host.get("allocated_bytes.current", 0)
            now["process_gib"] += now["host_allocator_gib"]
            now["beside_gib"] = max(0, now["device_gib"] - now["reserved_gib"])
            most = torch.cuda.max_memory_reserved() / GIB
            self.peaks["reserved_gib"] = max(self.peaks.get("reserved_gib", 0.0), round(most, 3))
        for name, size in now.items():
            for peaks in (section, self.peaks):
                peaks[name] = max(peaks.get(name, 0.0), round(size / GIB, 3))
