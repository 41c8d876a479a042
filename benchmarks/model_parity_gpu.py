"""Does the backbone at full size compute what diffusers computes, how exactly, and how fast?

    python benchmarks/model_parity_gpu.py            # one GPU with 72 GiB free, about 3 minutes
    python benchmarks/model_parity_gpu.py --tiny     # any machine, seconds: tries the script

One set of random weights (drawn by seed on the device, rounded to bf16 as released ones are) is
shared by two models, ours and diffusers'. At 480x832 with the released inverted schedule:

1. fp32, TF32 off: ours, and diffusers' as a check. Ours is the truth for the rest.
2. bf16: relative L2 error of each against it. Ours may be at most 1.1 times diffusers'.
3. bf16: time of a step, median of 3 after a warm-up, both in turn, and peak memory of each.

Prints a table, writes model-parity-DATE.json to $OUT, or to benchmarks/results.
Exit code 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src"))

from recurvid.conditioning import Conditioning  # noqa: E402
from recurvid.latents import LatentFrames  # noqa: E402
from recurvid.models.packed_dit.config import PRESETS, PackedDiTConfig  # noqa: E402
from recurvid.models.packed_dit.model import PackedDiT  # noqa: E402
from recurvid.packing.kernel import Kernel  # noqa: E402
from recurvid.packing.pack import ContextGroup, PackedContext  # noqa: E402

GIB = 2**30
SEED = 20_260_101
TINY = PackedDiTConfig(
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    num_single_layers=3,
    text_embed_dim=64,
    pooled_projection_dim=32,
    image_proj_dim=48,
    rope_axes_dim=(4, 6, 6),
)
LIMITS = {"fp32_ours_vs_diffusers": 1e-4, "error_ratio": 1.1}


def main() -> int:
    args = parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_grad_enabled(False)
    config, size = (TINY, (12, 20)) if args.tiny else (PRESETS["13b"], (60, 104))
    clock, result = Clock(), {"device": device_name(args.device), "torch": torch.__version__}
    bench = Bench(config, size, args.device)
    clock.mark("weights")

    truth = bench.ours()
    clock.mark("fp32 ours")
    theirs = bench.diffusers()
    result["fp32_ours_vs_diffusers"] = relative(truth, theirs)
    del theirs
    clock.mark("fp32 diffusers")

    bench.to_bf16()
    clock.mark("to bf16")
    result["bf16_error_ours"] = relative(bench.ours(), truth)
    result["bf16_error_diffusers"] = relative(bench.diffusers(), truth)
    result["error_ratio"] = result["bf16_error_ours"] / result["bf16_error_diffusers"]
    clock.mark("bf16 errors")

    runs = {"diffusers": bench.diffusers, "ours": bench.ours, "ours_prepared": bench.prepare()}
    result |= measure(runs, args.device, args.repeats)
    for name in ("ours", "ours_prepared"):
        result[f"speedup_{name}"] = result["ms_diffusers"] / result[f"ms_{name}"]
    clock.mark("timing")

    result["seconds"] = clock.seconds
    result["exceeded"] = [k for k, limit in LIMITS.items() if not result[k] <= limit]
    report(result, config, size, args)
    return 1 if result["exceeded"] else 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--device", help="default: cuda, or cpu with --tiny and no GPU")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each")
    args = parser.parse_args()
    if args.device is None:
        args.device = "cpu" if args.tiny and not torch.cuda.is_available() else "cuda"
    return args


class Bench:
    """Two models over one set of weights, and inputs for both."""

    def __init__(self, config: PackedDiTConfig, size: tuple[int, int], device: str):
        from diffusers import HunyuanVideoFramepackTransformer3DModel

        self.device = torch.device(device)
        fields = {k: v for k, v in config.to_dict().items() if k != "context_kernels"}
        with torch.device("meta"):
            self.model = PackedDiT(config)
            self.theirs = HunyuanVideoFramepackTransformer3DModel.from_config(fields)
        draw_weights(self.model, self.device, std=0.02 if config == PRESETS["13b"] else None)
        self.theirs.load_state_dict(self.model.state_dict(), strict=True, assign=True)
        for model in (self.model, self.theirs):
            model.eval().requires_grad_(False)
        self._check_shared()
        self.dtype = torch.float32
        self.inputs = draw_inputs(config, size, self.device)

    def to_bf16(self) -> None:
        """Weights of both models, one tensor at a time, so that the fp32 ones are let go."""
        others = dict(self.theirs.named_parameters())
        for name, parameter in self.model.named_parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
            others[name].data = parameter.data
        self.dtype = torch.bfloat16
        self._check_shared()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def ours(self, **made_before: object) -> torch.Tensor:
        return self.model(*self._our_inputs(), **made_before)

    def prepare(self):
        """Our step with everything made before that a job or a section makes once."""
        target, timestep, conditioning, context = self._our_inputs()
        section = self.model.embed_section(context, target)
        prompt = self.model.with_vectors(self.model.embed_prompt(conditioning, timestep))
        return lambda: self.ours(prompt=prompt, section=section)

    def diffusers(self) -> torch.Tensor:
        target, timestep, conditioning, context = self._our_inputs()
        k4, k2, k1 = (group.frames for group in context.groups)
        return self.theirs(
            hidden_states=target.data,
            timestep=timestep,
            encoder_hidden_states=conditioning.text,
            encoder_attention_mask=conditioning.text_mask,
            pooled_projections=conditioning.pooled,
            image_embeds=conditioning.image,
            guidance=conditioning.guidance * 1000,
            indices_latents=target.index[0],
            latents_clean=k1.data,
            indices_latents_clean=k1.index[0],
            latents_history_2x=k2.data,
            indices_latents_history_2x=k2.index[0],
            latents_history_4x=k4.data,
            indices_latents_history_4x=k4.index[0],
            return_dict=False,
        )[0]

    def _our_inputs(self):
        target, timestep, conditioning, context = self.inputs
        place = {"device": self.device, "dtype": self.dtype}
        return target.to(**place), timestep, conditioning.to(**place), context.to(**place)

    def _check_shared(self) -> None:
        others = dict(self.theirs.named_parameters())
        mine = dict(self.model.named_parameters())
        assert mine.keys() == others.keys()
        assert all(p.data_ptr() == others[name].data_ptr() for name, p in mine.items())


def draw_weights(model: torch.nn.Module, device: torch.device, std: float | None) -> None:
    """Matrices of ``std`` (None: by fan-in), biases 0.02, norm weights near 1.

    Values that bf16 can say, held in fp32.
    """
    g = torch.Generator(device=device).manual_seed(SEED)
    state = {}
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape, generator=g, device=device)
        matrix = parameter.ndim > 1 and std is None
        value.mul_(parameter[0].numel() ** -0.5 if matrix else std or 0.02)
        if "norm" in name and parameter.ndim == 1 and name.endswith("weight"):
            value.add_(1)
        state[name] = value.bfloat16().float()
        del value
    model.load_state_dict(state, strict=True, assign=True)


def draw_inputs(config: PackedDiTConfig, size: tuple[int, int], device: torch.device):
    """A step of the inverted order: start frame, gap of 9, 9 targets, history 1 + 2 + 16.

    60 prompt tokens of 512 and 729 image tokens; values that bf16 can say. Timestep and guidance
    stay fp32 in all runs, so that their rounding is no part of the comparison.
    """
    g = torch.Generator(device=device).manual_seed(SEED + 1)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g, device=device).bfloat16().float()

    def frames(index: list[int]) -> LatentFrames:
        return LatentFrames.of(rand(1, config.in_channels, len(index), *size), index)

    mask = torch.zeros(1, 512, device=device, dtype=torch.bool)
    mask[:, :60] = True
    conditioning = Conditioning(
        text=rand(1, 512, config.text_embed_dim),
        text_mask=mask,
        pooled=rand(1, config.pooled_projection_dim),
        image=rand(1, 729, config.image_proj_dim),
        guidance=torch.tensor([10.0], device=device),
    )
    groups = (
        ContextGroup(Kernel(4, 8, 8), frames(list(range(22, 38)))),
        ContextGroup(Kernel(2, 4, 4), frames([20, 21])),
        ContextGroup(Kernel(1, 2, 2), frames([0, 19])),
    )
    timestep = torch.tensor([700.0], device=device)
    return frames(list(range(10, 19))), timestep, conditioning, PackedContext(groups)


def measure(runs: dict, device: str, repeats: int) -> dict:
    """Milliseconds (median) and peak GiB of each, taken in turn so that drift hits all alike."""
    cuda = torch.device(device).type == "cuda"
    times: dict[str, list[float]] = {name: [] for name in runs}
    peaks: dict[str, float] = {}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            run()
            if cuda:
                torch.cuda.synchronize()
                peaks[f"peak_gib_{name}"] = torch.cuda.max_memory_allocated() / GIB
            if turn:  # the first turn warms up
                times[name].append(1000 * (time.perf_counter() - start))
    middle = {f"ms_{name}": sorted(ms)[len(ms) // 2] for name, ms in times.items()}
    return middle | {f"ms_all_{name}": ms for name, ms in times.items()} | peaks


class Clock:
    """Seconds that each phase took, said as they pass: a run that is cut off has told something."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def mark(self, name: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[name], self.last = round(now - self.last, 2), now
        print(f"  {name}: {self.seconds[name]:.1f} s", flush=True)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative L2 error of a against b."""
    error = ((a.double() - b.double()).norm() / b.double().norm()).item()
    if not torch.isfinite(a).all():
        raise SystemExit("the output is not finite")
    return error


def device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return device


def report(result: dict, config: PackedDiTConfig, size: tuple[int, int], args) -> None:
    for key, value in result.items():
        if isinstance(value, float):
            print(f"{key:28} {value:.4g}" + (f"   (limit {LIMITS[key]})" if key in LIMITS else ""))
    print("exceeded:", ", ".join(result["exceeded"]) or "nothing", flush=True)
    import diffusers

    today = datetime.date.today().isoformat()
    result |= {
        "date": today,
        "diffusers": diffusers.__version__,
        "limits": LIMITS,
        "latent_size": size,
        "config": asdict(replace(config)),
    }
    folder = Path(os.environ.get("OUT") or HERE / "results")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"model-parity-{'tiny-' if args.tiny else ''}{today}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
