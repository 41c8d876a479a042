"""How far does each form of the weights, and 8-bit attention, lead a model's step astray?

    python benchmarks/weight_forms.py             # a CPU, about two minutes
    python benchmarks/weight_forms.py --no-video  # without the bundled model's videos

Relative L2 errors against the same thing in fp32, on a CPU, where 8-bit products are computed
exactly from the rounded numbers:

1. one wide layer on normal numbers, on heavy-tailed ones (Student's t, 4 degrees), and with one
   channel in 256 thirty times as loud, as trained transformers have them;
2. one step of a model of 384 channels and 12 blocks with random weights;
3. one step of the bundled model, on the picture of its example at three sigmas;
4. the bundled model's video of 2 s: PSNR of its frames against those of the fp32 model.

Prints tables in Markdown and writes weight-forms-DATE.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from model_parity_gpu import TINY, draw_inputs, draw_weights  # noqa: E402

from recurvid.checkpoints.locate import BUNDLED_FOLDER, locate  # noqa: E402
from recurvid.generation.journal import Journal, Local  # noqa: E402
from recurvid.generation.loading import load_components  # noqa: E402
from recurvid.generation.request import GenerationRequest  # noqa: E402
from recurvid.generation.runtime import Runtime  # noqa: E402
from recurvid.generation.session import GenerationSession  # noqa: E402
from recurvid.generation.video_plan import plan_video  # noqa: E402
from recurvid.models.loading import load_backbone  # noqa: E402
from recurvid.models.packed_dit.model import PackedDiT  # noqa: E402
from recurvid.models.quantized import quantize  # noqa: E402
from recurvid.ops.attention.backend import AttentionBackend  # noqa: E402
from recurvid.ops.attention.eight_bit import simulated, simulated_by_token  # noqa: E402
from recurvid.ops.attention.sdpa import SDPA  # noqa: E402
from recurvid.ops.linear.forms import FORMS  # noqa: E402
from recurvid.video.pictures import load_picture  # noqa: E402
from recurvid.video.reader import read_frames  # noqa: E402

MIDDLE = replace(
    TINY,
    num_attention_heads=6,
    attention_head_dim=64,
    num_layers=4,
    num_single_layers=8,
    rope_axes_dim=(16, 24, 24),
)
FP8_ATTENTION = AttentionBackend("cudnn-fp8", lambda q, k, v, _: simulated(q, k, v), lambda _: None)
WIDE_OUT = AttentionBackend(
    "fp8, result not", lambda q, k, v, _: simulated(q, k, v, narrow_out=False), lambda _: None
)
PLAIN_FP8 = AttentionBackend(
    "cudnn-fp8, K as it is", lambda q, k, v, _: simulated(q, k, v, smooth=False), lambda _: None
)
OWN_FP8, OWN_INT8 = (
    AttentionBackend(
        f"triton-{name}",
        lambda q, k, v, _, whole=whole: simulated_by_token(q, k, v, whole=whole),
        lambda _: None,
    )
    for name, whole in (("fp8", False), ("int8", True))
)
ATTENTIONS = (FP8_ATTENTION, WIDE_OUT, PLAIN_FP8, OWN_FP8, OWN_INT8)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-video", action="store_true", help="leave the videos out")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), "torch": torch.__version__}
    steps = (("layer", layers), ("random_model", random_model), ("bundled_model", bundled_model))
    if not (BUNDLED_FOLDER / "dit.safetensors").is_file():
        print("the bundled model is not in this checkout: its tables are left out")
        steps, args.no_video = steps[:2], True
    for name, measure in (*steps, *(() if args.no_video else (("bundled_video", videos),))):
        result[name] = measure()
        table(name, result[name])
        save(result)
    return 0


def layers() -> dict[str, dict[str, float]]:
    """A 3072 -> 1024 layer, 512 tokens."""
    g = torch.Generator().manual_seed(0)
    linear = nn.Linear(3072, 1024).requires_grad_(False)
    linear.weight.normal_(0, 0.02, generator=g)
    normal = torch.randn(512, 3072, generator=g)
    chi = torch.randn(4, 512, 3072, generator=g).square().mean(0).sqrt()
    loud = normal.clone()
    loud[:, ::256] *= 30
    inputs = {"normal": normal, "heavy-tailed": normal / chi, "loud channels": loud}
    found: dict[str, dict[str, float]] = {}
    for name, form in FORMS.items():
        made = form.make(linear)
        found[name] = {kind: relative(made(x), linear(x)) for kind, x in inputs.items()}
    return found


def random_model() -> dict[str, dict[str, float]]:
    """A step of a model with random weights; bf16 for comparison."""
    target, timestep, conditioning, context = draw_inputs(MIDDLE, (12, 20), torch.device("cpu"))

    def step(model: PackedDiT, attention: AttentionBackend | None = None) -> torch.Tensor:
        place = {"device": torch.device("cpu"), "dtype": model.dtype}
        inputs = (target.to(**place), timestep, conditioning.to(**place), context.to(**place))
        return model(*inputs, attention=attention)

    def fresh() -> PackedDiT:
        with torch.device("meta"):
            model = PackedDiT(MIDDLE)
        draw_weights(model, torch.device("cpu"), None)
        return model.eval().requires_grad_(False)

    exact = step(fresh())
    found = {"bfloat16": {"error": relative(step(fresh().bfloat16()), exact)}}
    for attention in ATTENTIONS:
        found[f"{attention.name} attention"] = {"error": relative(step(fresh(), attention), exact)}
    for name in FORMS:
        model = fresh()
        quantize(model, name)
        found[name] = {"error": relative(step(model), exact)}
    model = fresh()
    quantize(model, "int8")
    found["int8 + fp8 attention"] = {"error": relative(step(model, FP8_ATTENTION), exact)}
    return found


def bundled_model() -> dict[str, dict[str, float]]:
    """A step of the bundled model on real latents: its section as a session would see it."""
    sections: list[dict[str, Any]] = []
    model = load_backbone(BUNDLED_FOLDER / "dit.safetensors")

    def recording(*inputs: Any, **named: Any) -> torch.Tensor:
        sections.append({"inputs": inputs, "section": named.get("section")})
        return PackedDiT.__call__(model, *inputs, **named)

    watched = Watching(model, recording)
    make_video(watched, seconds=1, steps=8)
    steps = [sections[i] for i in (0, 3, 6)]

    def errors(other: PackedDiT, attention: AttentionBackend | None = None) -> dict[str, float]:
        row: dict[str, float] = {}
        for made in steps:
            sigma = made["inputs"][1].flatten()[0].item() / 1000
            exact = model(*made["inputs"], section=made["section"])
            got = other(*made["inputs"], section=made["section"], attention=attention)
            row[f"sigma {sigma:.2f}"] = relative(got, exact)
        return row

    found = {f"{a.name} attention": errors(model, a) for a in ATTENTIONS}
    for name in FORMS:
        other = load_backbone(BUNDLED_FOLDER / "dit.safetensors")
        quantize(other, name)
        found[name] = errors(other)
    return found


def videos() -> dict[str, dict[str, float]]:
    """PSNR of each form's video against the fp32 model's, frame by frame, and the worst frame."""
    model = load_backbone(BUNDLED_FOLDER / "dit.safetensors")
    exact = make_video(model, seconds=2, steps=12)
    found: dict[str, dict[str, float]] = {}
    attention = "cudnn-fp8 attention"
    for name, ends in (
        *((name, 0) for name in ("bfloat16", *FORMS, attention, f"int8 and {attention}")),
        *((attention, ends) for ends in (1, 2, 3)),
    ):
        other = load_backbone(BUNDLED_FOLDER / "dit.safetensors")
        form = name.removesuffix(attention).removesuffix(" and ")
        if form == "bfloat16":
            other = other.bfloat16()
        elif form:
            quantize(other, form)
        if form != name:
            other.attention = FP8_ATTENTION
        got = make_video(other, seconds=2, steps=12, exact_steps=ends)
        each = [psnr(a, b) for a, b in zip(got, exact, strict=True)]
        row = f"{name}, {ends} exact steps at each end" if ends else name
        found[row] = {"PSNR": sum(each) / len(each), "worst frame": min(each)}
    return found


class Watching:
    """A backbone whose calls go through a function."""

    def __init__(self, model: PackedDiT, call: Any):
        self.model, self.call = model, call
        self.dtype, self.embed_section = model.dtype, model.embed_section

    def __call__(self, *inputs: Any, **named: Any) -> torch.Tensor:
        return self.call(*inputs, **named)


def make_video(
    backbone: Any, seconds: float, steps: int, exact_steps: int = 0
) -> list[torch.Tensor]:
    """Frames (h, w, 3), float, of the example's video by this backbone.

    ``exact_steps`` at each end of a section run with exact attention, whatever the backbone's own.
    """
    picture = BUNDLED_FOLDER / "example.jpg"
    files = locate("bundled")
    dtype = "bfloat16" if backbone.dtype == torch.bfloat16 else "float32"
    components = load_components(files, Runtime.of("cpu", dtype, exact_steps=exact_steps))
    components.exact_attention = SDPA if exact_steps else None
    components.loaders = replace(components.loaders, backbone=lambda: backbone)
    request = GenerationRequest(prompt="pan left", seconds=seconds, steps=steps, size="128", crf=4)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "video.mp4"
        journal = Journal.create(Path(folder) / "s", request, Local(str(out)), picture, None)
        pixels = load_picture(picture)
        size = (pixels.shape[0], pixels.shape[1])
        plan = plan_video(request, files.spec, size, components.geometry, end_picture=False)
        for _ in GenerationSession(journal, plan, components).run():
            pass
        return [torch.from_numpy(frame).float() for frame in read_frames(out)]


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """In dB, of frames in 0..255."""
    return 10 * math.log10(255**2 / max((a - b).square().mean().item(), 1e-6))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative L2 error of a against b."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def table(name: str, rows: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(rows.values())))
    print(f"\n{name}\n\n| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for row, values in rows.items():
        cells = [f"{v:.1f} dB" if v > 1 else f"{100 * v:.2f} %" for v in values.values()]
        print(f"| {row} | {' | '.join(cells)} |", flush=True)


def save(result: dict[str, Any]) -> None:
    folder = Path(os.environ.get("OUT") or HERE / "results")
    path = folder / f"weight-forms-{result['date']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
