"""How long does a section's decode take beside the original's way, and how far is it from whole?

    python benchmarks/vae_decode.py                   # one GPU with 60 GiB free, under 3 minutes
    python benchmarks/vae_decode.py --variants lean,lean-windows --room 3.7
    python benchmarks/vae_decode.py --tiny            # any machine, seconds: tries the script

HunyuanVideo's autoencoder at full size with random weights in fp16, 480x832. A section is 9 latents
in the middle of a video. The original decodes 18 for it (it and the section before), through
diffusers' ``vae.decode``: whole in space, or in tiles of 256 pixels on a small card. Both are timed
here, first and last. Ours is what a session does: ``codec.stream``, three temporal tiles of 5.

Differences are those of one temporal tile: to the same decode in fp32, whole in space (the truth),
in levels of 255 where the picture spans 255, and in percent of the picture's deviation. Weights of
the last layer are scaled so that it has one: random ones give nearly grey.

Also timed: the rough look after each step (linear), a whole preview decode of a TAEHV file's
layout, and frames on their way to a writer. Results go to vae-decode-DATE.json in $OUT or
benchmarks/results after each variant.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent)]

from recurvid.latents import LatentFrames  # noqa: E402
from recurvid.vae.hunyuan import HunyuanCodec  # noqa: E402
from recurvid.vae.lean_decoder import BYTES, lean_decode  # noqa: E402
from recurvid.vae.preview import linear_preview  # noqa: E402
from recurvid.vae.taehv import TAEHV, TAEHVConfig  # noqa: E402
from recurvid.vae.taehv_codec import TAEHVCodec  # noqa: E402
from recurvid.vae.windows import decode_windows, fit_windows  # noqa: E402

GIB = 2**30
SECTION = 9
#: Of the original's time, each at most.
TARGETS = {"whole": 0.5, "under 6 GB": 0.5}
#: GiB that the 6 GB plan leaves for a decoder run beside weights and what a job keeps.
ROOM = 3.7
STEP_MS = 800.0  # of a step that the preview is compared with, where no other is given


def main() -> int:
    args = parse_args()
    torch.set_grad_enabled(False)
    bench = Bench(args)
    bench.begin()
    variants = {
        "lean": lambda: bench.ours("lean", bench.decoder()),
        "lean-joined": lambda: bench.ours("lean-joined", bench.decoder(joined=True)),
        "lean-windows": lambda: bench.ours("lean-windows", bench.windows(bench.decoder())),
        "lean-joined-windows": lambda: bench.ours(
            "lean-joined-windows", bench.windows(bench.decoder(joined=True))
        ),
        "plain": lambda: bench.ours("plain", bench.plain()),
        "plain-tiles": bench.plain_tiles,
        "preview": bench.preview,
        "taehv": bench.taehv,
        "to-writer": bench.to_writer,
        "lean-sizes": bench.sizes,
        "compiled": lambda: bench.ours("compiled", bench.compiled()),
        "peer-again": lambda: bench.peers(" again"),
    }
    names = args.variants.split(",") if args.variants else list(variants)
    if unknown := [name for name in names if name not in variants]:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(variants)}")
        return 2
    for name in names:
        bench.guarded(name, variants[name])
    return bench.finish()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", help="comma separated; default: all")
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--room", type=float, default=ROOM, help="GiB for a run in windows")
    parser.add_argument("--step-ms", type=float, default=STEP_MS, help="of a denoising step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=400, help="no variant is begun after")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.tiny:
        args.size, args.room = "192x160", 0.004
    elif args.device == "cpu":
        parser.error("full size needs a GPU; --tiny tries the script without")
    return args


class Bench:
    """One autoencoder, one video of random latents, and the clock."""

    def __init__(self, args: argparse.Namespace):
        from diffusers import AutoencoderKLHunyuanVideo

        self.args, self.start = args, time.perf_counter()
        self.device = torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        self.dtype = torch.float16 if self.cuda else torch.float32
        small: dict[str, Any] = (
            {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
            if args.tiny
            else {}
        )
        torch.manual_seed(0)
        with torch.device(self.device):
            self.vae = AutoencoderKLHunyuanVideo(**small).eval().requires_grad_(False)
        self.vae = self.vae.to(self.dtype)
        width, height = map(int, args.size.split("x"))
        self.height, self.width = height // 8, width // 8
        self.scale_up()
        self.codec = HunyuanCodec(self.vae)
        self.result: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "card": torch.cuda.get_device_name() if self.cuda else "cpu",
            "torch": torch.__version__,
            "cudnn": torch.backends.cudnn.version() if self.cuda else None,
            "size": args.size,
            "targets": TARGETS,
            "peer": {},
            "ours": {},
        }
        self.failed: list[str] = []
        folder = Path(os.environ.get("OUT") or HERE / "results")
        folder.mkdir(parents=True, exist_ok=True)
        name = f"vae-decode-{'tiny-' if args.tiny else ''}{args.size}-{self.result['date']}.json"
        self.path = folder / name

    def latents(self, frames: int) -> torch.Tensor:
        g = torch.Generator(device=self.device).manual_seed(frames)
        shape = (1, 16, frames, self.height, self.width)
        return torch.randn(shape, generator=g, device=self.device)

    def scale_up(self) -> None:
        """A picture with a deviation of 0.5."""
        z = self.latents(2)[:, :, :, :20, :20].to(self.dtype)
        deviation = self.vae.decoder(self.vae.post_quant_conv(z)).float().std()
        self.vae.decoder.conv_out.conv.weight.mul_(0.5 / deviation)

    def begin(self) -> None:
        """The truth of one tile, the peer's difference from it, and its times."""
        self.tile = self.latents(5)
        z = (self.tile / self.codec.scaling_factor).to(self.dtype)
        before = [p.data for p in self.vae.parameters()]
        torch.backends.cudnn.allow_tf32 = False
        self.vae.float()
        self.truth = self.vae.decoder(self.vae.post_quant_conv(z.float())).cpu()
        torch.backends.cudnn.allow_tf32 = True
        for parameter, data in zip(self.vae.parameters(), before, strict=True):
            parameter.data = data
        self.deviation = self.truth.std().item()
        print(f"truth: deviation {self.deviation:.3f}, {self.clock():.0f} s", flush=True)
        self.peers()
        self.result["peer"]["difference"] = self.difference(self.codec.decode_tile(self.tile))
        self.vae.enable_tiling()
        self.result["peer"]["difference tiled"] = self.difference(self.codec.decode_tile(self.tile))
        self.vae.disable_tiling()
        self.save()

    def peers(self, which: str = "") -> None:
        """diffusers' decode of 9 and 18 latents, whole and in tiles."""
        for tiled in (False, True):
            (self.vae.enable_tiling if tiled else self.vae.disable_tiling)()
            for frames in (SECTION, 2 * SECTION):
                if frames == SECTION and which:
                    continue
                z = self.latents(frames).to(self.dtype)
                name = f"{frames} latents {'tiled' if tiled else 'whole'}{which}"
                found = self.measured(lambda z=z: self.vae.decode(z))
                self.result["peer"][name] = found
                self.say(f"diffusers {name}", found)
        self.vae.disable_tiling()

    def measured(self, run: Callable[[], Any]) -> dict[str, Any]:
        """Median milliseconds after a warm-up, and peak memory beside what was there."""
        self.clean()
        before = torch.cuda.memory_allocated() if self.cuda else 0
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        run()
        self.wait()
        first = time.perf_counter() - began
        times = [self.timed(run) for _ in range(self.args.repeats if self.cuda else 1)]
        found: dict[str, Any] = {"ms": sorted(times)[len(times) // 2], "ms_all": times}
        found["first_s"] = first
        if self.cuda:
            found["peak_gib"] = (torch.cuda.max_memory_allocated() - before) / GIB
            found["reserved_gib"] = torch.cuda.max_memory_reserved() / GIB
        return found

    def ours(self, name: str, decode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """A section's decode through a stream whose tiles are decoded so."""
        codec = HunyuanCodec(self.vae)
        codec.decode_tile = decode  # type: ignore[method-assign]
        z = self.latents(28).cpu()
        parts = [
            LatentFrames.of(z[:, :, span.start : span.stop], span)
            for span in (range(19, 28), range(10, 19))
        ]

        def section() -> tuple[float, int]:
            stream = codec.stream(28)
            stream.push(parts[0])  # not iterated: its tiles are decoded with the next
            codec.decode_tile = lambda z: torch.zeros(  # type: ignore[method-assign]
                1, 3, 4 * z.shape[2] - 3, 8 * self.height, 8 * self.width, device=self.device,
                dtype=self.dtype,
            )  # fmt: skip
            stream._decode_tile = codec.decode_tile
            list(stream._decode_ready())
            stream._decode_tile = decode
            self.wait()
            began = time.perf_counter()
            frames = sum(len(run.frames) for run in stream.push(parts[1]))
            self.wait()
            return 1000 * (time.perf_counter() - began), frames

        self.clean()
        before = torch.cuda.memory_allocated() if self.cuda else 0
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        first, frames = section()
        times = [section()[0] for _ in range(self.args.repeats if self.cuda else 1)]
        found: dict[str, Any] = {"ms": sorted(times)[len(times) // 2], "ms_all": times}
        found |= {"first_s": first / 1000, "frames": frames}
        if self.cuda:
            found["peak_gib"] = (torch.cuda.max_memory_allocated() - before) / GIB
            found["reserved_gib"] = torch.cuda.max_memory_reserved() / GIB
        found["difference"] = self.difference(decode(self.tile))
        peer = self.result["peer"]
        tiled = "windows" in name or "tiles" in name
        against = peer[f"18 latents {'tiled' if tiled else 'whole'}"]["ms"]
        found |= {"ratio": found["ms"] / against, "target": 0.5}
        found["tile_ms"] = self.measured(lambda: decode(self.tile))["ms"]
        if self.cuda and not name.startswith("compiled"):
            found["profile"] = profile(lambda: decode(self.tile))
        self.result["ours"][name] = found
        self.say(name, found)

    def decoder(self, *, joined: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
        """Our decoder, whole in space."""
        vae, scale = self.vae, self.codec.scaling_factor

        def decode(z: torch.Tensor) -> torch.Tensor:
            z = z.to(self.device, self.dtype) / scale
            return lean_decode(vae.decoder, vae.post_quant_conv(z), joined=joined)

        return decode

    def windows(self, decode: Callable[[torch.Tensor], torch.Tensor]):
        """The same in windows that fit into --room."""
        area = int(self.args.room * GIB) // (BYTES * 17 * 64)
        windows = fit_windows(self.height, self.width, area)
        said = f"{len(windows.rows)}x{len(windows.columns)} of {len(windows.rows[0])}x"
        self.result["windows"] = said + f"{len(windows.columns[0])} latents"
        print(f"  windows: {self.result['windows']}", flush=True)
        return lambda z: decode_windows(decode, z.to(self.device), windows)

    def plain(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """diffusers' decoder on our tiles."""
        vae, scale = self.vae, self.codec.scaling_factor

        def decode(z: torch.Tensor) -> torch.Tensor:
            z = z.to(self.device, self.dtype) / scale
            return vae.decoder(vae.post_quant_conv(z))

        return decode

    def plain_tiles(self) -> None:
        """diffusers' tiles in space on our tiles in time."""
        vae, scale = self.vae, self.codec.scaling_factor

        def decode(z: torch.Tensor) -> torch.Tensor:
            return vae.tiled_decode(z.to(self.device, self.dtype) / scale, return_dict=False)[0]

        self.vae.enable_tiling()
        self.ours("plain-tiles", decode)
        self.vae.disable_tiling()

    def compiled(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """diffusers' decoder under torch.compile."""
        vae, scale = self.vae, self.codec.scaling_factor
        run = torch.compile(vae.decoder, backend="inductor" if self.cuda else "eager")

        def decode(z: torch.Tensor) -> torch.Tensor:
            z = z.to(self.device, self.dtype) / scale
            return run(vae.post_quant_conv(z))

        return decode

    def preview(self) -> None:
        """The rough look after each step."""
        z = self.latents(SECTION)
        found = self.measured(lambda: linear_preview(z))
        found["of_a_step"] = found["ms"] / self.args.step_ms
        self.result["preview"] = found
        print(f"linear preview: {found['ms']:.2f} ms, {found['of_a_step']:.2%} of a step of "
              f"{self.args.step_ms:.0f} ms", flush=True)  # fmt: skip

    def taehv(self) -> None:
        """A section through a tiny decoder in the published files' layout."""
        torch.manual_seed(0)
        with torch.device(self.device):
            tiny = {"decoder_widths": (8, 8, 8, 8), "encoder_width": 8} if self.args.tiny else {}
            model = TAEHV(TAEHVConfig(**tiny)).eval().requires_grad_(False).to(self.dtype)
        codec = TAEHVCodec(model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        z = self.latents(SECTION)
        found = self.measured(lambda: codec.decode(z))
        self.result["taehv"] = found
        self.say("TAEHV, 9 latents", found)

    def to_writer(self) -> None:
        """36 frames from the card to bytes that a writer takes."""
        from recurvid.vae.codec import runs

        frames = torch.rand(1, 3, 36, 8 * self.height, 8 * self.width, device=self.device)
        frames = (2 * frames - 1).to(self.dtype)
        found = self.measured(lambda: [run.uint8() for run in runs(0, frames, [])])
        self.result["to_writer"] = found
        self.say("36 frames to a writer", found)

    def sizes(self) -> None:
        """Peak memory of a run at several sizes: what a plan reckons with."""
        found: dict[str, Any] = {}
        for h, w in ((32, 32), (34, 32), (60, 40), (60, 56), (60, 104), (80, 80)):
            if self.args.tiny and h > 40:
                continue
            z = torch.randn(1, 16, 5, h, w, device=self.device, dtype=self.dtype)
            one = self.measured(
                lambda z=z: lean_decode(self.vae.decoder, self.vae.post_quant_conv(z))
            )
            one["bytes"] = one.get("peak_gib", 0.0) * GIB / (17 * 64 * h * w)
            found[f"{h}x{w}"] = one
            print(f"  {h}x{w} latents: {one['ms']:.0f} ms, {one['bytes']:.0f} bytes a pixel and "
                  "frame", flush=True)  # fmt: skip
        self.result["sizes"] = found

    def difference(self, out: torch.Tensor) -> dict[str, float]:
        """From the truth: the worst pixel and the mean square, in levels of 255."""
        away = out.float().cpu() - self.truth
        return {
            "worst_levels": away.abs().max().item() * 127.5,
            "rms_levels": away.square().mean().sqrt().item() * 127.5,
            "rms_of_deviation": away.square().mean().sqrt().item() / self.deviation,
        }

    def guarded(self, name: str, run: Callable[[], None]) -> None:
        """Run a variant; whatever happens, the next one can go on."""
        if self.clock() > self.args.seconds:
            print(f"{name}: skipped, {self.clock():.0f} s have passed", flush=True)
            return
        try:
            run()
        except Exception as error:  # noqa: BLE001 - the list must go on
            self.failed.append(name)
            self.result["ours"][name] = {"failed": traceback.format_exc()[-2000:]}
            print(f"{name}: FAILED {type(error).__name__}: {str(error)[:200]}", flush=True)
        self.save()

    def timed(self, run: Callable[[], Any]) -> float:
        self.wait()
        began = time.perf_counter()
        run()
        self.wait()
        return 1000 * (time.perf_counter() - began)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def clean(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def clock(self) -> float:
        return time.perf_counter() - self.start

    def say(self, name: str, found: dict[str, Any]) -> None:
        ratio = f"  {found['ratio']:.3f} of the original" if "ratio" in found else ""
        apart = found.get("difference")
        words = f"  worst {apart['worst_levels']:.2f} levels" if apart else ""
        peak = f"  peak {found['peak_gib']:.2f} GiB" if "peak_gib" in found else ""
        print(f"{name:26} {found['ms']:8.0f} ms{ratio}{words}{peak}   [{self.clock():.0f} s]",
              flush=True)  # fmt: skip

    def save(self) -> None:
        self.path.write_text(json.dumps(self.result, indent=1) + "\n")

    def finish(self) -> int:
        ours = self.result["ours"]
        groups = {"whole": ("lean", "lean-joined"),
                  "under 6 GB": ("lean-windows", "lean-joined-windows")}  # fmt: skip
        missed: list[str] = []
        for target, names in groups.items():
            ratios = [ours[n]["ratio"] for n in names if "ratio" in ours.get(n, {})]
            if ratios and min(ratios) > TARGETS[target]:
                missed.append(target)
        self.result["missed"] = missed
        self.save()
        print(f"missed: {', '.join(missed) or 'nothing'}\nwritten: {self.path}", flush=True)
        return 0 if self.args.tiny and not self.failed else int(bool(missed or self.failed))


def profile(run: Callable[[], Any]) -> list[tuple[float, int, str]]:
    """The largest kernels: milliseconds, calls, name."""
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    rows = [
        (round(event.self_device_time_total / 1000, 2), event.count, event.key[:110])
        for event in seen.key_averages()
        if event.self_device_time_total > 0
    ]
    return sorted(rows, reverse=True)[:20]


if __name__ == "__main__":
    sys.exit(main())
