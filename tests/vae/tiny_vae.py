"""Tiny autoencoders built from the real classes, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo

from recurvid.vae.taehv import TAEHV, TAEHVConfig


def tiny_hunyuan(
    seed: int = 0, attention: bool = False, channels: int = 4
) -> AutoencoderKLHunyuanVideo:
    """A few thousand parameters of AutoencoderKLHunyuanVideo, 4x in time and 8x in space."""
    torch.manual_seed(seed)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=channels,
        block_out_channels=(4, 4, 4, 4),  # type: ignore
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=attention,
    )
    return vae.eval().requires_grad_(False)


def tiny_taehv(seed: int = 0, **config: Any) -> TAEHV:
    """A TAEHV of a few thousand parameters, with a memory that shows in the picture."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "latent_channels": 4,
        "encoder_width": 4,
        "decoder_widths": (8, 8, 4, 4),
    }
    return TAEHV(TAEHVConfig(**(shape | config))).eval().requires_grad_(False)


def inverted_sections(count: int, size: int = 9) -> list[range]:
    """Targets of an inverted run, in the order of generation: the last frames first."""
    return [range(1 + size * i, 1 + size * (i + 1)) for i in reversed(range(count))]
