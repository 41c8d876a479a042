"""The whole sampling path against HunyuanVideoFramepackPipeline, in fp32, from picture to latents.

Ours goes through planner, packer, History, generate_section and PackedDiT with the pipeline's
weights read back from disk. Both draw from one generator in the pipeline's order: start posterior,
end posterior, one noise a section.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.parity.tiny_framepack import scheduler, tiny_framepack
from torch import Tensor

from recurvid.conditioning import Conditioning
from recurvid.generation.denoising import Guidance
from recurvid.generation.history import History
from recurvid.generation.section import Recipe, generate_section
from recurvid.latents import LatentFrames
from recurvid.models.loading import load_backbone
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.packing import PackedContext, PackingSchedule, layout, pack
from recurvid.planning import ORDERS, plan
from recurvid.sampling.noise import SequentialNoise
from recurvid.sampling.sigmas import dynamic_shift, flow_sigmas
from recurvid.sampling.solvers import SOLVERS
from recurvid.vae.hunyuan import HunyuanCodec
from recurvid.video.buckets import buckets, center_crop_resize

pytestmark = pytest.mark.parity

PROMPT = "a woman dances in the rain, slowly"
NEGATIVE = "blurry, dull"
SCHEDULES = {
    "inverted": "f1k1_x_g9_f1k1f2k2f16k4_td",
    "forward": "f1k1_f16k4f2k2f1k1_g9",
}
SAMPLING = {"inverted": "inverted_anti_drifting", "forward": "vanilla"}
TOLERANCE = 1e-4
SEEN = 20 * TOLERANCE  # what any shift by one must exceed; the smallest here moves 3e-3


@dataclass(frozen=True)
class Run:
    """One video, told to both sides."""

    order: str
    sections: int
    shift: float | None = None
    end_picture: bool = False
    cfg_scale: float = 1.0
    steps: int = 3
    size: tuple[int, int] = (64, 96)
    seed: int = 0


@dataclass(frozen=True)
class Sides:
    pipeline: Any  # HunyuanVideoFramepackPipeline
    backbone: PackedDiT


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    pipeline = tiny_framepack()
    folder = tmp_path_factory.mktemp("transformer")
    pipeline.transformer.save_pretrained(folder)
    return Sides(pipeline, load_backbone(folder))


def pictures(run: Run) -> list[NDArray[np.uint8]]:
    """Start and end picture: random, smooth, of bucket size."""
    rng = np.random.default_rng(run.seed)
    small = rng.integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    height, width = run.size
    return [np.asarray(Image.fromarray(p).resize((width, height))) for p in small]


def theirs(sides: Sides, run: Run, output: str = "latent"):
    """What the pipeline returns: latents after each section, or frames."""
    start, end = (Image.fromarray(p) for p in pictures(run))
    height, width = run.size
    sides.pipeline.scheduler = scheduler(run.shift)
    return sides.pipeline(
        image=start,
        last_image=end if run.end_picture else None,
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        true_cfg_scale=run.cfg_scale,
        height=height,
        width=width,
        num_frames=33 * run.sections,
        num_inference_steps=run.steps,
        guidance_scale=10.0,
        generator=torch.Generator().manual_seed(run.seed),
        output_type=output,
        sampling_type=SAMPLING[run.order],
    ).frames


def ours(sides: Sides, run: Run) -> Tensor:
    """The finished timeline (1, c, t, h, w), start picture included."""
    generator = torch.Generator().manual_seed(run.seed)
    given = posterior_samples(sides, run, generator)
    schedule = PackingSchedule.parse(SCHEDULES[run.order])
    video = plan(run.order, schedule, run.sections, end_picture=run.end_picture)
    made: dict[int, LatentFrames] = {}
    known = LatentFrames.of(torch.cat(given, dim=2), list(video.given))
    history = History(video, schedule, known, made.__getitem__)
    recipe = recipe_of(sides, run, schedule, SequentialNoise(generator))
    conditioning = conditioning_of(sides, PROMPT, run)
    for section in video.sections:
        running = generate_section(section, history, sides.backbone, conditioning, recipe)
        made[section.index] = finish(running)
    everything = [known, *made.values()]
    index = torch.cat([frames.index[0] for frames in everything])
    data = torch.cat([frames.data for frames in everything], dim=2)[:, :, index.argsort()]
    assert index.sort().values.tolist() == list(range(video.latent_frames + run.end_picture))
    return data[:, :, : video.latent_frames]


def posterior_samples(sides: Sides, run: Run, generator: torch.Generator) -> list[Tensor]:
    """Start and end latents as the pipeline has them: samples, where the product takes means."""
    codec = HunyuanCodec(sides.pipeline.vae)
    samples: list[Tensor] = []
    for picture in pictures(run)[: 1 + run.end_picture]:
        assert any(run.size in buckets(base) for base in (80, 96, 640))
        pixels = torch.tensor(center_crop_resize(picture, *run.size)) / 127.5 - 1
        frame = pixels.permute(2, 0, 1)[None, :, None]
        posterior = sides.pipeline.vae.encode(frame).latent_dist
        assert torch.equal(codec.encode(frame), posterior.mode() * codec.scaling_factor)
        samples.append(posterior.sample(generator) * codec.scaling_factor)
    return samples


def conditioning_of(sides: Sides, prompt: str, run: Run) -> Conditioning:
    """From the pipeline's own encoders: ours have parity tests of their own."""
    text, pooled, mask = sides.pipeline.encode_prompt(prompt)
    picture = sides.pipeline.video_processor.preprocess(
        Image.fromarray(pictures(run)[0]), *run.size
    )
    image = sides.pipeline.encode_image(picture)
    return Conditioning(text, mask.bool(), pooled, image, torch.tensor([10.0]))


def recipe_of(sides: Sides, run: Run, schedule: PackingSchedule, noise: SequentialNoise) -> Recipe:
    height, width = run.size
    tokens = schedule.generated * (height // 16) * (width // 16)
    shift = dynamic_shift(tokens) if run.shift is None else run.shift
    negative = conditioning_of(sides, NEGATIVE, run) if run.cfg_scale != 1 else None
    return Recipe(
        schedule=schedule,
        solver=SOLVERS["euler"],
        sigmas=flow_sigmas(run.steps, shift),
        noise=noise,
        geometry=HunyuanCodec(sides.pipeline.vae).geometry,
        height=height,
        width=width,
        guidance=Guidance(run.cfg_scale, 0.0, negative),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def finish(running) -> LatentFrames:
    while True:
        try:
            next(running)
        except StopIteration as done:
            return done.value


def error(sides: Sides, run: Run) -> float:
    """Relative L2 error of the generated latents, of the section where it is largest."""
    expected, actual = theirs(sides, run)[-1], ours(sides, run)
    height, width = run.size
    assert expected.shape == (1, 4, 9 * run.sections + 1, height // 8, width // 8)
    assert actual.shape == expected.shape
    assert torch.equal(actual[:, :, 0], expected[:, :, 0])  # the start picture
    pairs = zip(actual[:, :, 1:].split(9, dim=2), expected[:, :, 1:].split(9, dim=2), strict=True)
    return max(((a - b).norm() / b.norm()).item() for a, b in pairs)


GRID = [
    Run(order, sections, shift, end)
    for order, end in [("inverted", False), ("inverted", True), ("forward", False)]
    for sections in (1, 3, 4, 5, 7)
    for shift in (None, 7.0)
]


@pytest.mark.parametrize("run", GRID, ids=str)
def test_latents_equal_the_pipelines(sides: Sides, run: Run):
    assert error(sides, run) < TOLERANCE


@pytest.mark.parametrize("order", SCHEDULES)
@pytest.mark.parametrize("size", [(96, 96), (64, 160), (160, 64)])
def test_latents_equal_the_pipelines_at_other_sizes(sides: Sides, order: str, size):
    """Latent sizes that the coarse kernels do not divide."""
    assert error(sides, Run(order, 2, size=size, seed=3)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("order", SCHEDULES)
def test_latents_equal_the_pipelines_at_480p(sides: Sides, order: str):
    """A released bucket, where the dynamic shift is at its cap."""
    assert error(sides, Run(order, 2, steps=2, size=(480, 832), seed=5)) < TOLERANCE


@pytest.mark.parametrize("order", SCHEDULES)
def test_latents_equal_the_pipelines_under_real_guidance(sides: Sides, order: str):
    assert error(sides, Run(order, 2, cfg_scale=2.5, seed=4)) < TOLERANCE


def shifted(frames: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(i + 1 for i in frames)


def shift_packer(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """The frames of one kernel reach the model one slot late."""

    def late(*args, **kwargs):
        packed = pack(*args, **kwargs)
        groups = tuple(
            replace(g, frames=replace(g.frames, data=g.frames.data.roll(1, dims=2)))
            if str(g.kernel) == kernel
            else g
            for g in packed.context.groups
        )
        assert any(str(g.kernel) == kernel for g in groups)
        return replace(packed, context=PackedContext(groups))

    monkeypatch.setattr("recurvid.generation.section.pack", late)


def shift_planner(monkeypatch: pytest.MonkeyPatch, order: str, field: str) -> None:
    """One field of every section is off by one latent frame."""
    right = ORDERS[order]

    def wrong(schedule, wish):
        for section in right(schedule, wish):
            value = getattr(section, field)
            off = value + 1 if isinstance(value, int) else shifted(value)
            yield replace(section, **{field: off})

    monkeypatch.setitem(ORDERS, order, lambda schedule, wish: list(wrong(schedule, wish)))


def shift_layout(monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    """The RoPE indices of target, anchors or history are off by one."""

    def wrong(*args, **kwargs):
        right = layout(*args, **kwargs)
        if role == "target":
            return replace(right, target=shifted(right.target))
        groups = (
            replace(g, index=shifted(g.index)) if role in (g.role, str(g.group.kernel)) else g
            for g in right.groups
        )
        return replace(right, groups=tuple(groups))

    monkeypatch.setattr(sys.modules["recurvid.packing.pack"], "layout", wrong)


@pytest.mark.parametrize("order", SCHEDULES)
@pytest.mark.parametrize("kernel", ["k1", "k2", "k4"])
def test_a_shifted_packer_is_seen(sides, monkeypatch, order, kernel):
    shift_packer(monkeypatch, kernel)
    assert error(sides, Run(order, 4)) > SEEN


@pytest.mark.parametrize(
    ("order", "field"),
    [*product(SCHEDULES, ["history", "anchors"]), ("inverted", "gap")],  # F1 has no gap
)
def test_a_shifted_planner_is_seen(sides, monkeypatch, order, field):
    shift_planner(monkeypatch, order, field)
    assert error(sides, Run(order, 4)) > SEEN


@pytest.mark.parametrize("order", SCHEDULES)
@pytest.mark.parametrize("role", ["target", "anchor", "history", "k1", "k2", "k4"])
def test_a_shifted_layout_is_seen(sides, monkeypatch, order, role):
    shift_layout(monkeypatch, role)
    assert error(sides, Run(order, 4)) > SEEN
