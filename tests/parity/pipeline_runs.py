"""One video on both sides: diffusers' pipeline, and our planner, packer and section loop."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.parity.tiny_framepack import TRANSFORMERS, save_tiny_framepack, scheduler
from torch import Tensor

from recurvid.conditioning import Conditioning
from recurvid.generation.denoising import Guidance
from recurvid.generation.history import History
from recurvid.generation.section import Recipe, generate_section
from recurvid.latents import LatentFrames
from recurvid.models.loading import load_backbone
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.packing import PackingSchedule
from recurvid.planning import plan
from recurvid.sampling.noise import SequentialNoise
from recurvid.sampling.sigmas import dynamic_shift, flow_sigmas
from recurvid.sampling.solvers import SOLVERS
from recurvid.sections import SectionPlan
from recurvid.vae.hunyuan import HunyuanCodec
from recurvid.video.buckets import buckets, center_crop_resize

PROMPT = "the girl dances gracefully , with clear movements"
NEGATIVE = "a cat runs !"
SCHEDULES = {
    "inverted": "f1k1_x_g9_f1k1f2k2f16k4_td",
    "forward": "f1k1_f16k4f2k2f1k1_g9",
}
SAMPLING = {"inverted": "inverted_anti_drifting", "forward": "vanilla"}


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
    root: Path


def both_sides(root: Path) -> Sides:
    """The pipeline, and our backbone filled with its weights by way of the disk."""
    pipeline = save_tiny_framepack(root)
    return Sides(pipeline, load_backbone(root / TRANSFORMERS["inverted"]), root)


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


def planned(run: Run) -> SectionPlan:
    schedule = PackingSchedule.parse(SCHEDULES[run.order])
    return plan(run.order, schedule, run.sections, end_picture=run.end_picture)


def ours(sides: Sides, run: Run) -> Tensor:
    """The finished timeline (1, c, t, h, w), start picture included."""
    generator = torch.Generator().manual_seed(run.seed)
    given = posterior_samples(sides, run, generator)
    schedule = PackingSchedule.parse(SCHEDULES[run.order])
    video = planned(run)
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
        assert any(run.size in buckets(base) for base in (32, 80, 96, 640))
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


def finish(running: Generator[Any, None, LatentFrames]) -> LatentFrames:
    while True:
        try:
            next(running)
        except StopIteration as done:
            return done.value
