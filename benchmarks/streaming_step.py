"""What does streaming cost a step? Resident, pinned and mapped, in one process on one card.

    python benchmarks/streaming_step.py --cap 5.2       # one GPU with 28 GiB free, 26 GB of disk
    python benchmarks/streaming_step.py --tiny          # any machine, seconds: tries the script

The 13B model with random bf16 weights at 480x832, prompt and section made before, as in a job:

1. all blocks resident (and the modulation gone, as always): the time to compare with;
2. as many resident as ``--cap`` GiB in all allow, the others from pinned memory;
3. the same, the others from the memory-mapped file through the ring.

Outputs must be equal to the bit. Targets: pinned at most 1.05 of resident, mapped in page cache at
most 1.3. Prints a table and writes streaming-step-*.json to $OUT or benchmarks/results.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent), str(HERE)]

from memory_cap import write_file  # noqa: E402
from model_parity_gpu import TINY, draw_inputs  # noqa: E402

from recurvid.generation.memory_plan import DENOISE, MemoryQuestion, phase_needs  # noqa: E402
from recurvid.memory.budget import CONTEXT, GIB, MemoryBudget, place_phase  # noqa: E402
from recurvid.memory.residency import free, limit_allocator  # noqa: E402
from recurvid.models.loading import load_backbone  # noqa: E402
from recurvid.models.packed_dit.config import PRESETS  # noqa: E402
from recurvid.models.packed_dit.model import PackedDiT  # noqa: E402
from recurvid.models.placed import PlacedDiT, Streaming  # noqa: E402

TARGETS = {"pinned": 1.05, "mapped": 1.3}


def main() -> int:
    args = parse_args()
    torch.set_grad_enabled(False)
    device = torch.device(args.device)
    config, size = (TINY, (12, 20)) if args.tiny else (PRESETS["13b"], (60, 104))
    path = weights(args.work, config, tiny=args.tiny)
    allowed = int(args.cap * GIB) - CONTEXT
    question = MemoryQuestion("f1k1_x_g9_f1k1f2k2f16k4_td", 8 * size[0], 8 * size[1], steps=1)
    need = phase_needs(MemoryBudget(int(args.cap * GIB)), question, config)[5]
    assert need.name == DENOISE
    plan = place_phase(need, allowed)
    some = {"resident": len(plan.resident) if not args.tiny else 2, "slots": max(2, plan.slots)}
    ways = {
        "resident": Streaming(resident=len(need.blocks)),
        "pinned": Streaming(**some, pinned=True),
        "mapped": Streaming(**some, ring=args.ring, threads=args.threads),
    }
    drawn = draw_inputs(config, size, device)
    half = {"device": device, "dtype": torch.bfloat16}
    # The timestep stays float32, as in a job.
    inputs = [x if torch.is_tensor(x) else x.to(**half) for x in drawn]
    result: dict = {"plan": some, "cap_gib": args.cap}
    truth = None
    for name, streaming in ways.items():
        if device.type == "cuda" and name != "resident":
            limit_allocator(device, allowed)
        out, measured = one_way(path, streaming, inputs, device, args.repeats)
        truth = out if truth is None else truth
        measured["equal"] = bool(out.equal(truth))
        measured["ratio"] = measured["ms"] / result.get("resident", measured)["ms"]
        result[name] = measured
        print(name, json.dumps(measured), flush=True)
    missed = [n for n, t in TARGETS.items() if result[n]["ratio"] > t or not result[n]["equal"]]
    write(result | {"targets": TARGETS, "missed": missed, "torch": torch.__version__,
                    "card": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"},
          tiny=args.tiny)  # fmt: skip
    print("missed:", ", ".join(missed) or "nothing")
    return 0 if args.tiny and all(result[n]["equal"] for n in ways) else int(bool(missed))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cap", type=float, default=5.2, help="GiB in all, CUDA's own included")
    parser.add_argument("--ring", type=int, default=3, help="pinned buffers of the mapped source")
    parser.add_argument("--threads", type=int, default=0, help="that fill them; 0: by cores")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("/tmp/recurvid-memory-cap"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def weights(work: Path, config, *, tiny: bool) -> Path:
    """The transformer's folder; memory_cap.py's where that was there before."""
    path = work / ("tiny-step" if tiny else "full") / "transformer"
    if not (path / "model.safetensors").is_file():
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(config.to_dict()))
        with torch.device("meta"):
            shapes = {k: list(v.shape) for k, v in PackedDiT(config).state_dict().items()}
        write_file(path / "model.safetensors", shapes, torch.bfloat16)
    return path


def one_way(path: Path, streaming: Streaming, inputs, device, repeats: int):
    """Output, and median milliseconds after one warm-up, of a model that is placed so."""
    target, timestep, conditioning, context = inputs
    cuda = device.type == "cuda"
    model = PlacedDiT(load_backbone(path, dtype=torch.bfloat16), device, streaming)
    start = time.perf_counter()
    model.prepare(conditioning, [timestep])
    section = model.embed_section(context, target)
    prepared = time.perf_counter() - start
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times: list[float] = []
    for _ in range(repeats + 1):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        out = model(target, timestep, conditioning, context, section=section)
        if cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    measured = {
        "ms": sorted(times[1:])[len(times[1:]) // 2], "ms_all": [round(t, 1) for t in times],
        "prepare_s": round(prepared, 2), "resident_blocks": len(model.stream.resident),
        "slots": model.stream.slots, "host_buffers": model.stream.source.buffer_bytes,
    }  # fmt: skip
    if cuda:
        measured["allocated_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 3)
        measured["reserved_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 3)
    model.leave()
    model.stream.source.close()
    del model
    gc.collect()
    free(device)
    return out, measured


def write(result: dict, *, tiny: bool) -> None:
    folder = Path(os.environ.get("OUT") or HERE / "results")
    folder.mkdir(parents=True, exist_ok=True)
    today = datetime.date.today().isoformat()
    path = folder / f"streaming-step-{'tiny-' if tiny else ''}{today}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
