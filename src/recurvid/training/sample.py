"""Samples from a model in training, through the functions that generation uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recurvid.conditioning import Conditioning
from recurvid.latents import LatentFrames
from recurvid.packing import Packed, PackingSchedule, pack
from recurvid.planning.orders import plan
from recurvid.sampling.denoiser import Denoiser, guided, velocity_to_denoised
from recurvid.sampling.noise import section_noise
from recurvid.sampling.sigmas import flow_sigmas
from recurvid.sampling.solvers import SOLVERS, solve
from recurvid.training.backbone import FORWARD, INVERTED, Trained

_SCHEDULES = {share.order: share.schedule for share in (INVERTED, FORWARD)}


@dataclass(frozen=True)
class SampleRun:
    """How a video is sampled."""

    order: str = "inverted"
    sections: int = 2
    steps: int = 20
    shift: float = 3.0
    cfg_scale: float = 1.0
    seed: int = 0


@torch.no_grad()
def sample_video(model: Trained, start: Tensor, prompt: str, run: SampleRun) -> Tensor:
    """Latents (1, c, 9n + 1, h, w) float32 of one video that begins with a picture.

    Args:
        start: (1, c, 1, h, w) latent of the picture, on the model's device.
    """
    device = start.device
    schedule = PackingSchedule.parse(_SCHEDULES[run.order])
    timeline = LatentFrames.of(start, [0])
    half = device.type == "cuda"
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        embeds = [model.text([text]) for text in (prompt, "")]

    def denoiser(packed: Packed, which: int) -> Denoiser:
        e = embeds[which]

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                v = model.backbone(
                    LatentFrames(x, packed.target_index),
                    torch.full((1,), float(sigma) * 1000, device=device),
                    Conditioning(e.text, e.mask, e.pooled),
                    packed.context,
                )
            return velocity_to_denoised(x, v.float(), sigma)

        return denoise

    for section in plan(run.order, schedule, run.sections).sections:
        packed = pack(schedule, section, timeline)
        chosen = denoiser(packed, 0)
        if run.cfg_scale != 1.0:
            chosen = guided(chosen, denoiser(packed, 1), run.cfg_scale)
        shape = (1, start.shape[1], len(section.frames), *start.shape[3:])
        x = section_noise(run.seed, section.index, shape).to(device)
        x = solve(SOLVERS["euler"], chosen, x, flow_sigmas(run.steps, run.shift))
        made = torch.tensor([section.frames], device=device)
        timeline = LatentFrames(
            torch.cat([timeline.data, x], 2), torch.cat([timeline.index, made], 1)
        )
    return timeline.data[:, :, timeline.index[0].argsort()]
