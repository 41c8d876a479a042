"""Backbone: what everyone above the models may assume about the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from recurvid.caching.protocol import CachedStep
from recurvid.conditioning import Conditioning
from recurvid.latents import LatentFrames
from recurvid.ops.attention.backend import AttentionBackend
from recurvid.packing.pack import PackedContext


@runtime_checkable
class Backbone(Protocol):
    """Predicts the velocity (noise - data) of a section's noisy latents."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the computation."""
        ...

    def embed_section(self, context: PackedContext, target: LatentFrames) -> Any:
        """What is the same in every step of a section: made once, handed in as ``section``."""
        ...

    def __call__(  # noqa: PLR0913 - four inputs, and what may be handed in beside them
        self,
        target: LatentFrames,
        timestep: Tensor,
        conditioning: Conditioning,
        context: PackedContext,
        *,
        attention: AttentionBackend | None = None,
        prompt: Any = None,
        section: Any = None,
        cache: CachedStep | None = None,
    ) -> Tensor:
        """Velocity (b, c, t, h, w), float32.

        Args:
            target: noisy latents (b, c, t, h, w) and their RoPE frame index (b, t).
            timestep: (b,), 1000 * sigma.
            conditioning: prompt, picture, guidance.
            context: packed history and anchors.
            attention: kernel; the backbone's default where None.
            prompt: what depends on prompt and timestep only, made before by the same backbone.
            section: what ``embed_section`` of the same backbone returned.
            cache: is handed the blocks instead of their being run; None runs them.
        """
        ...


@runtime_checkable
class PreparingBackbone(Protocol):
    """A Backbone that makes what depends on prompt and timestep once, for all steps of a job."""

    def prepare(
        self,
        conditioning: Conditioning,
        timesteps: Sequence[Tensor],
        attention: AttentionBackend | None = None,
    ) -> None:
        """Make it, unless it is there; timesteps (b,) each, 1000 * sigma.

        ``attention`` is the kernel of the calls at these timesteps; the backbone's own where None.
        """
        ...
