"""Conditioning: everything beside the latents that steers one section."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """What the backbone is told, as in HunyuanVideo.

    Attributes:
        text: (b, l, d) prompt embeddings, padded on the right.
        text_mask: (b, l) bool, True where ``text`` is a real token.
        pooled: (b, p) pooled prompt embedding.
        image: (b, n, e) image tokens, or None for a model without image projection.
        guidance: (b,) distilled guidance scale (10.0, not 10000), or None for a model without
            guidance embedding.
    """

    text: Tensor
    text_mask: Tensor
    pooled: Tensor
    image: Tensor | None = None
    guidance: Tensor | None = None

    def to(self, *, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditioning:
        """The same on another device, embeddings in another floating point type."""
        return replace(
            self,
            text=self.text.to(device=device, dtype=dtype),
            text_mask=self.text_mask.to(device=device),
            pooled=self.pooled.to(device=device, dtype=dtype),
            image=None if self.image is None else self.image.to(device=device, dtype=dtype),
            guidance=None if self.guidance is None else self.guidance.to(device=device),
        )
