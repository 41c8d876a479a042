"""The rough look at latents."""

from __future__ import annotations

import pytest
import torch
from tests.vae.tiny_vae import tiny_hunyuan, tiny_taehv

from recurvid.vae.hunyuan import HunyuanCodec
from recurvid.vae.preview import decoded_preview, linear_preview, preview
from recurvid.vae.taehv_codec import TAEHVCodec


@pytest.mark.parametrize(
    ("channel", "value", "rgb"),
    [
        # bias .0259 -.0192 -.0761, then channel * (R G B), clamped to 0..1, times 255
        (0, 0.0, (7, 0, 0)),
        (10, 5.0, (155, 203, 103)),  # .1166 .1627 .0962
        (12, -3.0, (184, 142, 84)),  # -.2315 -.1920 -.1355
        (15, -4.0, (0, 43, 154)),  # .0249 -.0469 -.1703
        (10, 9.0, (255, 255, 201)),
    ],
)
def test_linear_preview_written_out(channel: int, value: float, rgb: tuple[int, int, int]):
    latents = torch.zeros(1, 16, 2, 1, 3)
    latents[0, channel, 1, 0, 2] = value
    pixels = linear_preview(latents)
    assert pixels.shape == (2, 1, 3, 3)
    assert pixels.dtype is torch.uint8
    assert tuple(pixels[1, 0, 2].tolist()) == rgb
    assert tuple(pixels[0, 0, 0].tolist()) == (7, 0, 0)


def test_linear_preview_of_half_precision():
    latents = torch.full((1, 16, 1, 1, 1), 0.5, dtype=torch.bfloat16)
    assert torch.equal(linear_preview(latents), linear_preview(latents.float()))


def test_decoded_preview_is_each_latents_own_first_frame():
    codec = TAEHVCodec(tiny_taehv())
    latents = torch.randn(1, 4, 3, 4, 6)
    pixels = decoded_preview(codec, latents)
    assert pixels.shape == (3, 32, 48, 3)
    with torch.no_grad():
        alone = codec.module.decode(latents[:, :, 2:3])[0, :, 0]
    expected = ((alone.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0)
    assert (pixels[2].float() - expected).abs().max() <= 1


def test_decoded_preview_shrinks_large_pictures():
    codec = TAEHVCodec(tiny_taehv())
    assert decoded_preview(codec, torch.zeros(1, 4, 2, 20, 40)).shape == (2, 64, 128, 3)
    assert decoded_preview(codec, torch.zeros(1, 4, 1, 40, 1)).shape == (1, 128, 8, 3)


def test_preview_takes_what_the_codec_offers():
    small = preview(HunyuanCodec(tiny_hunyuan()), torch.zeros(1, 4, 2, 2, 3))
    assert small.shape == (2, 16, 24, 3)  # 4 channels: not the map of 16
    latents = torch.randn(1, 16, 2, 4, 6)
    full = HunyuanCodec(tiny_hunyuan(channels=16))
    assert torch.equal(preview(full, latents), linear_preview(latents))
