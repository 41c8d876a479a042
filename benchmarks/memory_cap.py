"""Does the 13B model run on a card with so much memory, and how much does it take of everything?

    python benchmarks/memory_cap.py --vram 6            # one GPU, 45 GB of disk (int8: 55)
    python benchmarks/memory_cap.py --vram 6 --weights int8
    python benchmarks/memory_cap.py --vram 6 --pinned never --steps 2 --sections 1
    python benchmarks/memory_cap.py --tiny              # any machine, seconds: tries the script

A second process holds the card's memory until ``--vram`` GiB are free. Then a whole run at full
size with random weights, laid out on disk as released: text encoding (LLaMA 8B, CLIP), SigLIP,
VAE encode, denoising of every section, VAE decode, all under that budget. Five times a second it
notes what the allocator has reserved, what the card lost since before the run, the process's
anonymous, shared, pinned and file-backed memory; they are kept in samples.jsonl with the phase.

Weights are written once to ``--work`` and used again. Each finished section is kept there too: a
run that was cut off goes on where it was (``--fresh`` starts over). The verdict is in
memory-cap-*.json in $OUT or benchmarks/results; exit code 1 if a limit is exceeded.
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
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent), str(HERE)]

from card_memory import (  # noqa: E402
    GIB,
    LIMITS,
    PROCESS_GIB,
    Hog,
    Watch,
    exceeded,
    free_bytes,
)
from full_size import model_paths, write_weights  # noqa: E402


def main() -> int:
    args = parse_args()
    if args.child:
        return child(args)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.fresh:
        shutil.rmtree(run_folder(args), ignore_errors=True)
    write_weights(args.work / ("tiny" if args.tiny else "full"), tiny=args.tiny)
    cuda = args.device == "cuda"
    hog = Hog(args.vram) if cuda and not args.no_hog else None
    # What the other process saw last is what this run finds; without one, ask.
    before = hog.free if hog is not None else free_bytes() if cuda else 0
    try:
        command = [sys.executable, __file__, *sys.argv[1:], "--child"]
        command += ["--free-before", str(before)]
        # No prompt cache: encoders are part of what is measured. Rounded weights are kept.
        shutil.rmtree(args.work / "home" / "prompts", ignore_errors=True)
        home = {"RECURVID_HOME": str(args.work / "home")}
        if args.expandable:
            home["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
        code = subprocess.call(command, env=dict(os.environ) | home)
    finally:
        if hog is not None:
            hog.close()
    return code or report(args)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vram", type=float, default=6.0, help="GiB that are left free")
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--sections", type=int, default=3)
    parser.add_argument("--weights", default="auto", choices=list(PROCESS_GIB))
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    parser.add_argument("--pinned", choices=("auto", "never", "always"), default="auto")
    parser.add_argument("--work", type=Path, default=Path("/tmp/recurvid-memory-cap"))
    parser.add_argument("--expandable", action="store_true", help="torch's expandable segments")
    parser.add_argument("--no-hog", action="store_true", help="do not hold the rest of the card")
    parser.add_argument("--fresh", action="store_true", help="forget finished sections")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the script")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--free-before", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tiny:
        args.size, args.steps, args.sections = "64x48", min(args.steps, 2), min(args.sections, 2)
    elif args.device == "cpu":
        parser.error("full size needs a GPU; --tiny tries the script without")
    return args


# The run


def child(args: argparse.Namespace) -> int:
    from recurvid.checkpoints.known import KNOWN
    from recurvid.checkpoints.locate import ModelFiles
    from recurvid.generation import placing
    from recurvid.generation.loading import load_components
    from recurvid.generation.request import GenerationRequest
    from recurvid.generation.runtime import Runtime
    from recurvid.generation.video_plan import plan_video

    torch.set_grad_enabled(False)
    run = run_folder(args)
    run.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    watch = Watch(run / "samples.jsonl", device, args.free_before)
    files = ModelFiles(KNOWN["framepack"], model_paths(args))
    runtime = Runtime.of(args.device, "auto" if args.device == "cuda" else "float32",
                         vram=args.vram, weights=args.weights,
                         compiled=args.compile)  # fmt: skip
    components = load_components(files, runtime)
    request = GenerationRequest(
        prompt="a person walks along the beach while the sun goes down behind the hills, " * 3,
        model="framepack", size=args.size, steps=args.steps,
        seconds=args.sections * 1.2, whole_sections=True,
    )  # fmt: skip
    width, height = map(int, args.size.split("x"))
    plan = plan_video(request, files.spec, (height, width), components.geometry)
    force_source(args.pinned, placing)
    components = placing.under_budget(components, files, plan, run)
    result = {"args": {k: str(v) for k, v in vars(args).items()}, "sections": []}
    make_video(components, plan, watch, run, result)
    watch.close()
    result |= {"seconds": {k: round(v, 2) for k, v in watch.seconds.items()}}
    if args.device == "cuda":
        stats = torch.cuda.memory_stats()
        result |= {k: stats.get(k, 0) for k in ("num_alloc_retries", "num_ooms")}
    (run / "result.json").write_text(json.dumps(result))
    return 0


def force_source(how: str, placing) -> None:
    """Let the plan believe in much or in little system memory."""
    if how == "auto":
        return
    ram = 9 * GIB if how == "never" else 512 * GIB
    placing.available_memory = lambda: (ram, 0)


def make_video(components, plan, watch: Watch, run: Path, result: dict) -> None:
    """All phases. Finished sections are read back; their decode is repeated."""
    from recurvid.generation.denoising import Guidance
    from recurvid.generation.history import History
    from recurvid.generation.section import Recipe, generate_section
    from recurvid.generation.tensor_files import load_latents, save_latents
    from recurvid.latents import LatentFrames
    from recurvid.sampling.noise import NOISE
    from recurvid.sampling.sigmas import dynamic_shift, flow_sigmas
    from recurvid.sampling.solvers import SOLVERS

    request, device, dtype = plan.request, components.device, components.dtype
    picture = np.random.default_rng(0).integers(0, 256, (plan.height, plan.width, 3), np.uint8)
    watch.enter("encode")
    (told,) = components.conditionings([request.prompt], picture, request.guidance_scale)
    told = told.to(device=device, dtype=dtype)
    watch.enter("vae encode")
    given = LatentFrames.of(components.encode_picture(picture), list(plan.sections.given))
    watch.enter("load backbone")
    backbone = components.backbone
    tokens = plan.schedule.tokens(plan.height, plan.width).target
    recipe = Recipe(
        schedule=plan.schedule, solver=SOLVERS[request.solver],
        sigmas=flow_sigmas(request.steps, dynamic_shift(tokens)),
        noise=NOISE[request.noise](request.seed), geometry=components.geometry,
        height=plan.height, width=plan.width, guidance=Guidance(1.0, 0.0, None),
        device=device, dtype=dtype,
    )  # fmt: skip
    history = History(plan.sections, plan.schedule, given, lambda i: load_latents(part(run, i)))
    stream = components.codec.stream(plan.sections.latent_frames, [])
    list(stream.push(given))
    for section in plan.sections.sections:
        done = part(run, section.index).is_file()
        watch.enter("denoise")
        steps: list[float] = []
        if not done:
            maker = generate_section(section, history, backbone, told, recipe)
            latents = timed(maker, steps)
            save_latents(part(run, section.index), latents)
        latents = load_latents(part(run, section.index))
        watch.enter("decode")
        frames = sum(len(piece.frames) for piece in stream.push(latents))
        result["sections"].append(
            {"section": section.index, "step_seconds": steps, "frames": frames,
             "resident": len(backbone.stream.resident), "slots": backbone.stream.slots,
             "host_buffers": backbone.stream.source.buffer_bytes}
        )  # fmt: skip


def timed(maker, steps: list[float]):
    """Run a section, noting the seconds of each step; returns its latents."""
    last = time.perf_counter()
    while True:
        try:
            next(maker)
        except StopIteration as end:
            return end.value
        now = time.perf_counter()
        steps.append(round(now - last, 4))
        last = now


def part(run: Path, section: int) -> Path:
    return run / f"section-{section:04d}.safetensors"


def run_folder(args: argparse.Namespace) -> Path:
    kind = "tiny" if args.tiny else "full"
    how = (
        f"{args.weights}{'-compiled' * args.compile}-{args.pinned}{'-expandable' * args.expandable}"
    )
    name = f"run-{kind}-{args.vram:g}-{args.size}-{args.steps}-{args.sections}-{how}"
    return args.work / name


# The verdict


def report(args: argparse.Namespace) -> int:
    run = run_folder(args)
    result = json.loads((run / "result.json").read_text())
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    peaks: dict[str, dict[str, float]] = {}
    for sample in samples:
        of_phase = peaks.setdefault(sample["phase"], {})
        parts = ("anonymous", "shared", "host_allocator")
        sample["process"] = sum(sample.get(name, 0) for name in parts)
        sample["beside"] = max(0, sample.get("device", 0) - sample.get("reserved", 0))
        for name in ("reserved", "device", "beside", "process", *parts, "file", "swap"):
            gib = sample.get(name, 0) / GIB
            of_phase[f"{name}_gib"] = round(max(of_phase.get(f"{name}_gib", 0.0), gib), 3)
    names = sorted({name for values in peaks.values() for name in values})
    overall = {n: max(values.get(n, 0.0) for values in peaks.values()) for n in names}
    last = max((s.get("reserved_peak", 0) for s in samples), default=0) / GIB
    overall["reserved_gib"] = round(max(overall.get("reserved_gib", 0.0), last), 3)
    limits = LIMITS if args.vram == 6 else {
        "reserved_gib": budget(args.vram).allocator / GIB,
        "device_gib": budget(args.vram).process / GIB,
    }  # fmt: skip
    if args.pinned != "always" and not args.tiny:
        limits = limits | {"process_gib": PROCESS_GIB[args.weights]}
    over = exceeded(overall, limits)
    steps = sorted(s for section in result["sections"] for s in section["step_seconds"][1:])
    summary = {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "card": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "command": " ".join(["python benchmarks/memory_cap.py", *sys.argv[1:]]),
        "peaks": overall, "peaks_by_phase": peaks, "limits": limits, "exceeded": over,
        "samples": len(samples), "step_seconds_median": steps[len(steps) // 2] if steps else None,
        **result,
    }  # fmt: skip
    folder = Path(os.environ.get("OUT") or HERE / "results")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"memory-cap-{run.name.removeprefix('run-')}-{summary['date']}.json"
    path.write_text(json.dumps(summary, indent=1) + "\n")
    for phase, values in peaks.items():
        print(f"{phase:14} " + "  ".join(f"{k} {v:.2f}" for k, v in values.items()))
    print("most: " + ", ".join(f"{k} {v:.2f}" for k, v in overall.items()))
    print(f"step (median, without each section's first): {summary['step_seconds_median']} s")
    print("exceeded:", ", ".join(over) or "nothing", f"\nwritten: {path}", flush=True)
    return 1 if over else 0


def budget(vram: float):
    from recurvid.memory.budget import MemoryBudget

    return MemoryBudget.of(vram)


if __name__ == "__main__":
    sys.exit(main())
