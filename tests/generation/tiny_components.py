"""Components of a model of a few thousand parameters, built from the real classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recurvid.generation.components import Components, Loaders
from recurvid.generation.runtime import Runtime
from recurvid.latents import LatentGeometry
from recurvid.models.packed_dit.config import PackedDiTConfig
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.vae.codec import Codec
from recurvid.vae.taehv import TAEHV, TAEHVConfig
from recurvid.vae.taehv_codec import TAEHVCodec

DIT = PackedDiTConfig(
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=12,
    num_layers=1,
    num_single_layers=1,
    num_refiner_layers=1,
    text_embed_dim=8,
    pooled_projection_dim=8,
    guidance_embeds=False,
    has_image_proj=False,
    rope_axes_dim=(4, 4, 4),
)
TAE = TAEHVConfig(latent_channels=4, encoder_width=4, decoder_widths=(8, 8, 4, 4))


@dataclass(frozen=True)
class TinyEmbeds:
    text: Tensor
    mask: Tensor
    pooled: Tensor


class CountingDiT(PackedDiT):
    """Counts its calls."""

    calls = 0

    def forward(self, *args, **kwargs) -> Tensor:
        type(self).calls += 1
        return super().forward(*args, **kwargs)


def tiny_text(texts: list[str]) -> TinyEmbeds:
    """Embeddings that depend on the characters of a text."""
    rows = []
    for text in texts:
        generator = torch.Generator().manual_seed(sum(map(ord, text)))
        rows.append(torch.randn(1, 5, 8, generator=generator))
    embeds = torch.cat(rows)
    mask = torch.ones(len(texts), 5, dtype=torch.bool)
    return TinyEmbeds(embeds, mask, embeds.mean(1))


def tiny_backbone() -> PackedDiT:
    torch.manual_seed(0)
    return CountingDiT(DIT).eval().requires_grad_(False)


def tiny_codec() -> Codec:
    torch.manual_seed(0)
    return TAEHVCodec(TAEHV(TAE).eval().requires_grad_(False))


def tiny_components(weights: tuple[Path, ...] = ()) -> Components:
    return Components(
        loaders=Loaders(lambda: tiny_text, None, tiny_codec, tiny_backbone),
        geometry=LatentGeometry(4, 4, 8),
        weights={"transformer": weights},
        runtime=Runtime.of("cpu"),
        dtype=torch.float32,
        guided=False,
    )
