"""Components of a model of a few thousand parameters, built from the real classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

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
    """A decoder whose frames differ, so that a frame in a wrong place is seen."""
    torch.manual_seed(0)
    model = TAEHV(TAE).eval().requires_grad_(False)
    decoder = [layer for layer in model.decoder.modules() if isinstance(layer, nn.Conv2d)]
    for layer in decoder:
        layer.weight *= 1.6
    probe = model.decode(torch.randn(1, 4, 4, 6, 8))
    scale = 0.25 / probe.std().item()
    decoder[-1].weight *= scale
    assert decoder[-1].bias is not None
    decoder[-1].bias.copy_(0.5 + scale * (decoder[-1].bias - (probe.mean() + 1) / 2))
    return TAEHVCodec(model)


def tiny_components(weights: tuple[Path, ...] = ()) -> Components:
    return Components(
        loaders=Loaders(lambda: tiny_text, None, tiny_codec, tiny_backbone),
        geometry=LatentGeometry(4, 4, 8),
        weights={"transformer": weights},
        runtime=Runtime.of("cpu"),
        dtype=torch.float32,
        guided=False,
    )
