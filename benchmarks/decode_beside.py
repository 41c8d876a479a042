"""Does a section get shorter if the section before it is decoded at the same time?

    python benchmarks/decode_beside.py                # one GPU with 72 GiB free, about 2 minutes
    python benchmarks/decode_beside.py --tiny         # any machine, seconds: tries the script

The 13B model in bf16 (compiled) or int8 and HunyuanVideo's decoder in fp16, both resident with
random weights, 480x832. Timed: N steps, a decode of one section (three temporal tiles of 5 latents,
as a session does it), one after the other, and both at once from two threads on two streams. The
gain is what "at once" saves of "one after the other"; nothing of a session is involved. Also told:
whether both outputs keep their bits, and how much more memory is reserved at once.

Results go to decode-beside-DATE.json in $OUT or benchmarks/results.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src"), str(HERE.parent)]

from model_parity_gpu import TINY, Bench, device_name  # noqa: E402

from recurvid.models.compiled import compile_blocks, fuse_products  # noqa: E402
from recurvid.models.packed_dit.config import PRESETS  # noqa: E402
from recurvid.models.quantized import quantize  # noqa: E402
from recurvid.vae.hunyuan import HunyuanCodec  # noqa: E402
from recurvid.vae.lean_decoder import lean_decode  # noqa: E402

GIB = 2**30
Work = Callable[[], torch.Tensor]


def main() -> int:
    args = parse_args()
    torch.set_grad_enabled(False)
    cuda = args.device == "cuda"
    step = steps_of(args)
    decode = decode_of(args)
    streams = [torch.cuda.Stream() for _ in range(2)] if cuda else [None, None]

    def on(stream: Any, work: Work) -> torch.Tensor:
        torch.set_grad_enabled(False)  # a thread's own switch
        if stream is None:
            return work()
        with torch.cuda.stream(stream):
            made = work()
        stream.synchronize()
        return made

    def after() -> list[torch.Tensor]:
        return [on(streams[0], step), on(streams[1], decode)]

    def at_once() -> list[torch.Tensor]:
        with ThreadPoolExecutor(2) as pool:
            return [made.result() for made in [pool.submit(on, s, w)
                    for s, w in zip(streams, (step, decode), strict=True)]]  # fmt: skip

    ways: dict[str, Callable[[], Any]] = {
        "steps": lambda: on(streams[0], step),
        "decode": lambda: on(streams[1], decode),
        "one after the other": after,
        "at once": at_once,
    }
    kept = [made.cpu() for made in after()]  # also warms and compiles
    times: dict[str, list[float]] = {name: [] for name in ways}
    reserved = {}
    for _ in range(args.repeats):
        for name, way in ways.items():
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            times[name].append(seconds(way, cuda))
            reserved[name] = torch.cuda.max_memory_reserved() / GIB if cuda else 0.0
    same = [torch.equal(a, b.cpu()) for a, b in zip(kept, at_once(), strict=True)]
    report(args, times, reserved, same)
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5, help="denoised beside one decode")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--form", choices=["bf16", "int8"], default="bf16")
    parser.add_argument("--eager", action="store_true", help="no torch.compile")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.device == "cpu" and not args.tiny:
        parser.error("full size needs a GPU; --tiny tries the script without")
    return args


def steps_of(args: argparse.Namespace) -> Work:
    config, size = (TINY, (12, 20)) if args.tiny else (PRESETS["13b"], (60, 104))
    bench = Bench(config, size, args.device)
    if not args.tiny:
        bench.to_bf16()
    model = bench.model
    del bench.theirs
    if args.form == "int8":
        quantize(model, "int8")
    fuse_products(model)
    if args.device == "cuda" and not args.eager:
        compile_blocks(model)
    step = bench.prepare()

    def run() -> torch.Tensor:
        for _ in range(args.steps):
            made = step()
        return made

    return run


def decode_of(args: argparse.Namespace) -> Work:
    from diffusers import AutoencoderKLHunyuanVideo

    small: dict[str, Any] = (
        {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
        if args.tiny
        else {}
    )
    torch.manual_seed(0)
    dtype = torch.float16 if args.device == "cuda" else torch.float32
    with torch.device(args.device):
        vae = AutoencoderKLHunyuanVideo(**small).eval().requires_grad_(False).to(dtype)
        height, width = (12, 20) if args.tiny else (60, 104)
        tile = torch.randn(1, 16, 5, height, width).to(dtype)
    scale = HunyuanCodec(vae).scaling_factor

    def run() -> torch.Tensor:
        for _ in range(3):
            made = lean_decode(vae.decoder, vae.post_quant_conv(tile / scale))
        return made

    return run


def seconds(way: Callable[[], Any], cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    way()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def report(
    args: argparse.Namespace,
    times: dict[str, list[float]],
    reserved: dict[str, float],
    same: list[bool],
) -> None:
    middle = {name: statistics.median(values) for name, values in times.items()}
    saved = middle["one after the other"] - middle["at once"]
    found = {
        "device": device_name(args.device),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "command": " ".join(sys.argv),
        "form": args.form,
        "steps": args.steps,
        "seconds": middle,
        "seconds_all": times,
        "reserved_gib": reserved,
        "saved_s": saved,
        "saved_of_the_decode": saved / middle["decode"],
        "same_bits": dict(zip(("steps", "decode"), same, strict=True)),
    }
    for name, value in middle.items():
        print(f"{name:22} {value:8.3f} s   {reserved[name]:6.2f} GiB reserved")
    print(f"at once saves {saved:.3f} s, {saved / middle['decode']:.0%} of the decode; same bits: "
          f"{found['same_bits']}")  # fmt: skip
    folder = Path(os.environ.get("OUT") or HERE / "results")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"decode-beside-{'tiny-' if args.tiny else ''}{args.form}-{found['date']}.json"
    (folder / name).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
