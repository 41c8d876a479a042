"""Denoising runs of a tiny random transformer, with and without a step cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from tests.models.dit_cases import group, randomise
from torch import Tensor

from recurvid.caching.calibration import Calibration
from recurvid.caching.protocol import StepCache
from recurvid.caching.registry import CACHES, new_cache
from recurvid.conditioning import Conditioning
from recurvid.generation.denoising import Guidance, make_denoiser
from recurvid.generation.step_caches import Caching, calls_of
from recurvid.models.packed_dit.config import PackedDiTConfig
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.packing.pack import Packed, PackedContext
from recurvid.sampling.denoiser import Denoiser
from recurvid.sampling.sigmas import flow_sigmas
from recurvid.sampling.solvers import SOLVERS
from recurvid.sampling.stepping import SolverStep

CONFIG = PackedDiTConfig(
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=12,
    num_layers=2,
    num_single_layers=1,
    num_refiner_layers=1,
    text_embed_dim=8,
    pooled_projection_dim=8,
    guidance_embeds=False,
    has_image_proj=False,
    rope_axes_dim=(4, 4, 4),
)
# A model whose residual hardly changes, measured at ten steps.
CALM = Calibration({10: (1.0, 1.3, 1.02, 1.01, 1.03, 1.0, 0.99, 1.01, 0.97, 0.8)})


def tiny_model(seed: int = 0, config: PackedDiTConfig = CONFIG) -> PackedDiT:
    torch.manual_seed(seed)
    model = PackedDiT(config)
    randomise(model)
    return model.eval().requires_grad_(False)


def conditioning(seed: int, config: PackedDiTConfig = CONFIG) -> Conditioning:
    g = torch.Generator().manual_seed(seed)
    return Conditioning(
        torch.randn(1, 3, config.text_embed_dim, generator=g),
        torch.ones(1, 3, dtype=torch.bool),
        torch.randn(1, config.pooled_projection_dim, generator=g),
    )


@dataclass
class Runs:
    """One model, and as many denoising runs on it as are asked for.

    Attributes:
        made: every cache that was made, in order.
        blocks: how often each block ran.
    """

    model: PackedDiT = field(default_factory=tiny_model)
    steps: int = 10
    solver: str = "euler"
    made: list[StepCache] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        every = [*self.model.transformer_blocks, *self.model.single_transformer_blocks]
        self.blocks = [0] * len(every)
        for i, block in enumerate(every):
            block.register_forward_pre_hook(self._counter(i))

    @property
    def sigmas(self) -> Tensor:
        return flow_sigmas(self.steps, 3.0)

    def denoiser(
        self,
        new: Callable[[], StepCache] | None,
        seed: int = 0,
        guidance: Guidance | None = None,
        told: Conditioning | None = None,
    ) -> Denoiser:
        """A denoiser of one section; context and prompt (unless told) come from ``seed``."""
        g = torch.Generator().manual_seed(seed)
        frames = torch.randn(1, 4, 2, 4, 6, generator=g)
        context = PackedContext((group("k1", frames, torch.tensor([[0, 9]])),))
        caching = None
        if new is not None:
            caching = Caching(self._noted(new), calls_of(SOLVERS[self.solver], self.sigmas))
        return make_denoiser(
            self.model,
            told or conditioning(seed),
            Packed(context, torch.tensor([[5, 6, 7]])),
            guidance or Guidance(),
            torch.float32,
            caching,
        )

    def solve(self, denoiser: Denoiser, seed: int = 0) -> Iterator[SolverStep]:
        """Denoise the noise of ``seed``, going on as it is asked."""
        g = torch.Generator().manual_seed(1000 + seed)
        return SOLVERS[self.solver](denoiser, torch.randn(1, 4, 3, 4, 6, generator=g), self.sigmas)

    def start(
        self,
        new: Callable[[], StepCache] | None,
        seed: int = 0,
        guidance: Guidance | None = None,
    ) -> Iterator[SolverStep]:
        """A run that goes on as it is asked."""
        return self.solve(self.denoiser(new, seed, guidance), seed)

    def finish(
        self,
        new: Callable[[], StepCache] | None,
        seed: int = 0,
        guidance: Guidance | None = None,
    ) -> Tensor:
        """The latents that a run ends at."""
        *_, last = self.start(new, seed, guidance)
        return last.x

    def _noted(self, new: Callable[[], StepCache]) -> Callable[[], StepCache]:
        def make() -> StepCache:
            self.made.append(new())
            return self.made[-1]

        return make

    def _counter(self, i: int) -> Callable[..., None]:
        def count(*_: object) -> None:
            self.blocks[i] += 1

        return count


def maker(name: str, threshold: float | None = None) -> Callable[[], StepCache]:
    """Makes caches of the registry; calibrated ones for a calm model."""
    calibration = CALM if CACHES[name].calibrated else None
    return lambda: new_cache(name, threshold, calibration)
