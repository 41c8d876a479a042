"""generate_section(): pack, denoise, return. The heart."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from recurvid.conditioning import Conditioning
from recurvid.events import Preview, Progress
from recurvid.generation.denoising import Guidance, check_finite, make_denoiser
from recurvid.generation.history import History
from recurvid.generation.step_caches import Caching
from recurvid.latents import LatentFrames, LatentGeometry
from recurvid.models.protocol import Backbone
from recurvid.packing.pack import pack
from recurvid.packing.schedule import PackingSchedule
from recurvid.sampling.noise import NoiseSource
from recurvid.sampling.stepping import Solver
from recurvid.sections import Section


@dataclass(frozen=True)
class Recipe:
    """What is the same for all sections of a video.

    Attributes:
        sigmas: (steps + 1,), from 1 to 0.
        height, width: of the video, in pixels.
        dtype: of the backbone's inputs.
        look: latents as they are seen at a step -> a rough look, (t, h, w, 3) uint8 on the CPU;
            None shows nothing.
        caching: steps that may be skipped; None skips none.
    """

    schedule: PackingSchedule
    solver: Solver
    sigmas: Tensor
    noise: NoiseSource
    geometry: LatentGeometry
    height: int
    width: int
    guidance: Guidance
    device: torch.device
    dtype: torch.dtype
    look: Callable[[Tensor], Tensor] | None = None
    caching: Caching | None = None

    def shape(self, section: Section) -> tuple[int, int, int, int, int]:
        """Latent shape of what a section makes, (1, c, t, h, w)."""
        frames = len(section.lead) + len(section.target)
        return self.geometry.shape(frames, self.height, self.width)


def generate_section(
    section: Section,
    history: History,
    backbone: Backbone,
    conditioning: Conditioning,
    recipe: Recipe,
) -> Generator[Progress | Preview, None, LatentFrames]:
    """Denoise one section: yields a Progress a step, returns float32 latents on the CPU.

    ``conditioning`` lies on the recipe's device. The result's index holds timeline positions.

    Raises:
        NumericsError: NaN or infinity appeared.
    """
    timeline = history.before(section).to(device=recipe.device)
    packed = pack(recipe.schedule, section, timeline)
    x = recipe.noise.draw(section.index, recipe.shape(section)).to(recipe.device)
    denoiser = make_denoiser(
        backbone,
        conditioning,
        packed,
        recipe.guidance,
        recipe.dtype,
        recipe.caching,
        recipe.sigmas,
    )
    for step in recipe.solver(denoiser, x, recipe.sigmas):
        check_finite(step, section.index, recipe.dtype)
        yield Progress("denoise", section.index, step.index + 1, step.steps)
        if recipe.look is not None:
            yield Preview(section.index, step.index + 1, recipe.look(step.denoised))
        x = step.x
    return LatentFrames.of(x.to("cpu", torch.float32), [*section.lead, *section.target])
