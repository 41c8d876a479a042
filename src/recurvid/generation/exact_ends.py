"""ExactEnds: a backbone whose attention is another one in the first and last steps of a run.

The first steps settle what the picture shows, and the last ones are not followed by any that could
mend an error. So 8-bit attention gives way at both ends, sparse attention at the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recurvid.caching.protocol import CachedStep
from recurvid.conditioning import Conditioning
from recurvid.latents import LatentFrames
from recurvid.models.protocol import Backbone, PreparingBackbone
from recurvid.ops.attention.backend import AttentionBackend
from recurvid.packing.pack import PackedContext


class ExactEnds:
    """A Backbone that hands another kernel to one at a run's first and last noise levels.

    Args:
        backbone: attends with its own kernel at all other levels.
        kernel: for the ends.
        steps: how many at each end.
        sigmas: (steps of the run + 1,), falling.
        last: how many at the last one, where that is not ``steps``.
    """

    def __init__(
        self,
        backbone: Backbone,
        kernel: AttentionBackend,
        steps: int,
        sigmas: Tensor,
        *,
        last: int | None = None,
    ):
        self.backbone, self.kernel = backbone, kernel
        levels = (1000.0 * sigmas[:-1]).to(torch.float32)  # as timesteps are made
        first, last = (min(n, len(levels)) for n in (steps, steps if last is None else last))
        self._from = float(levels[first - 1]) if first else float("inf")
        self._to = float(levels[-last]) if last else float("-inf")

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the computation."""
        return self.backbone.dtype

    def prepare(
        self,
        conditioning: Conditioning,
        timesteps: Sequence[Tensor],
        attention: AttentionBackend | None = None,
    ) -> None:
        """As the backbone does, if it does; each timestep with the kernel of its call."""
        if not isinstance(self.backbone, PreparingBackbone):
            return
        for ends in (True, False):
            some = [t for t in timesteps if self._at_an_end(t) == ends]
            if some:
                self.backbone.prepare(conditioning, some, self.kernel if ends else attention)

    def embed_section(self, context: PackedContext, target: LatentFrames) -> Any:
        """What is the same in every step of a section."""
        return self.backbone.embed_section(context, target)

    def __call__(  # noqa: PLR0913 - the signature of every backbone
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
        """Velocity; see Backbone."""
        return self.backbone(
            target,
            timestep,
            conditioning,
            context,
            attention=self.kernel if self._at_an_end(timestep) else attention,
            prompt=prompt,
            section=section,
            cache=cache,
        )

    def _at_an_end(self, timestep: Tensor) -> bool:
        value = float(timestep[0])
        return value >= self._from or value <= self._to
