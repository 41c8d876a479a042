"""A rough look at latents, cheap enough for every step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recurvid.vae.codec import Codec
from recurvid.vae.hunyuan import HunyuanCodec

#: One row a latent channel, columns R G B, for colours in 0..1: the linear map that the original
#: shows its previews with (HunyuanVideo's VAE; paper.md section 10).
HUNYUAN_FACTORS: tuple[tuple[float, float, float], ...] = (
    (-0.0395, -0.0331, 0.0445),
    (0.0696, 0.0795, 0.0518),
    (0.0135, -0.0945, -0.0282),
    (0.0108, -0.0250, -0.0765),
    (-0.0209, 0.0032, 0.0224),
    (-0.0804, -0.0254, -0.0639),
    (-0.0991, 0.0271, -0.0669),
    (-0.0646, -0.0422, -0.0400),
    (-0.0696, -0.0595, -0.0894),
    (-0.0799, -0.0208, -0.0375),
    (0.1166, 0.1627, 0.0962),
    (0.1165, 0.0432, 0.0407),
    (-0.2315, -0.1920, -0.1355),
    (-0.0270, 0.0401, -0.0821),
    (-0.0616, -0.0997, -0.0727),
    (0.0249, -0.0469, -0.1703),
)
HUNYUAN_BIAS = (0.0259, -0.0192, -0.0761)

#: Decoding at less than this many latents on the longer side costs too much picture.
_SMALLEST = 8
#: Latents on the longer side in a look through a tiny decoder: pictures of 256 pixels.
DRAFT_SIDE = 32


def linear_preview(latents: Tensor) -> Tensor:
    """HunyuanVideo latents as the backbone has them -> small pictures.

    Args:
        latents: (b, 16, t, h, w); the first sample is shown.

    Returns:
        (t, h, w, 3) uint8 on the CPU: one pixel a latent, one picture a latent frame.
    """
    factors = torch.tensor(HUNYUAN_FACTORS, dtype=torch.float32, device=latents.device)
    bias = torch.tensor(HUNYUAN_BIAS, dtype=torch.float32, device=latents.device)
    colours = torch.einsum("cthw,cr->thwr", latents[0].float(), factors) + bias
    return colours.clamp(0, 1).mul(255).round().to("cpu", torch.uint8)


def decoded_preview(codec: Codec, latents: Tensor, longest: int = 16) -> Tensor:
    """Latents of any codec -> pictures, by decoding them shrunk: for small autoencoders.

    Each latent frame is decoded for itself, as a first frame, so no memory of a past that may
    not exist yet gets in. (A mean over latents is not what the encoder gives for a smaller
    picture, but near enough to look at.)

    Args:
        latents: (b, c, t, h, w); the first sample is shown.
        longest: height and width are shrunk to at most this many latents before decoding.

    Returns:
        (t, height, width, 3) uint8 on the CPU.
    """
    frames = latents[0].transpose(0, 1).float()  # (t, c, h, w)
    h, w = frames.shape[2:]
    scale = min(1.0, max(longest, _SMALLEST) / max(h, w))
    size = (max(1, round(h * scale)), max(1, round(w * scale)))
    small = F.interpolate(frames, size=size, mode="area")
    pictures = codec.decode(small.unsqueeze(2))[:, :, 0]  # (t, 3, height, width)
    levels = pictures.clamp(-1, 1).mul(127.5).add(127.5).round()
    return levels.to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous()


def preview(codec: Codec, latents: Tensor) -> Tensor:
    """The look that suits a codec: its linear map where one is known, else a shrunk decode.

    Returns:
        (t, height, width, 3) uint8 on the CPU; sizes differ between codecs.
    """
    if isinstance(codec, HunyuanCodec) and codec.geometry.channels == len(HUNYUAN_FACTORS):
        return linear_preview(latents)
    return decoded_preview(codec, latents)
