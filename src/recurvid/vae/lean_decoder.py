"""The decoder of HunyuanVideo's autoencoder, faster and in a third of the memory.

The same weights and the same arithmetic as diffusers' ``HunyuanVideoDecoder3D``, in another order
of work: a pixel's channels lie together (``frame_kernels``), a convolution is handed a few frames
at a time, residuals are added in place, and attention, which is causal by frames, runs frame by
frame without a mask. Numbers differ from diffusers' by rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recurvid.vae.frame_kernels import SAME, Border, Enlarge, norm_scale, padded

#: Bytes of a convolution's padded input, about: enough to fill a card, little beside the frames.
CHUNK = 400 * 2**20
#: Peak bytes a pixel and frame of what is decoded, for two-byte numbers: the last stage holds its
#: input (256 channels), its middle and its output (128 each), and a few frames of work.
BYTES = 1150
#: The same of diffusers' decoder, measured.
PLAIN_BYTES = 3500


def bytes_of_tile(side: int, frames: int = 17) -> int:
    """What diffusers' decoder takes for a square tile of so many pixels a side, in two bytes."""
    return frames * side * side * PLAIN_BYTES


def lean_decode(decoder: Any, z: Tensor, *, joined: bool = False, chunk: int = CHUNK) -> Tensor:
    """Decode one video: (1, c, t, h, w) after ``post_quant_conv`` -> (1, 3, 4t-3, 8h, 8w).

    Args:
        decoder: diffusers' ``HunyuanVideoDecoder3D``; nothing of it is changed.
        joined: convolve in two dimensions over three frames joined, instead of in three.
        chunk: bytes of a convolution's input at one time.
    """
    walk = _Walk(z[0].permute(1, 2, 3, 0).contiguous(), joined, chunk)
    walk.convolve(decoder.conv_in)
    walk.resnet(decoder.mid_block.resnets[0])
    for attention, resnet in zip(
        decoder.mid_block.attentions, decoder.mid_block.resnets[1:], strict=True
    ):
        if attention is not None:
            walk.attend(attention)
        walk.resnet(resnet)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            walk.resnet(resnet)
        for upsampler in block.upsamplers or ():
            time, high, _ = upsampler.upsample_factor
            walk.convolve(upsampler.conv, enlarge=Enlarge(int(time), int(high)))
    walk.convolve(decoder.conv_out, norm=decoder.conv_norm_out)
    return walk.x.permute(3, 0, 1, 2)[None].contiguous()


class _Walk:
    """Frames (t, h, w, c) on their way. They live here alone, so that a step can let them go."""

    def __init__(self, x: Tensor, joined: bool, chunk: int):
        self.x, self._joined, self._chunk = x, joined, chunk

    def convolve(self, conv: Any, *, norm: Any = None, enlarge: Enlarge = SAME) -> None:
        """Convolve x, normalised and bent before where there is a norm."""
        self.x = self._convolved(self.x, conv, norm, enlarge)

    def resnet(self, block: Any) -> None:
        """Add to x what the block makes of it."""
        h = self._convolved(self.x, block.conv1, block.norm1, SAME)
        if block.conv_shortcut is not None:
            weight = block.conv_shortcut.conv.weight
            self.x = F.linear(self.x, weight.flatten(1), block.conv_shortcut.conv.bias)
        self._convolved(h, block.conv2, block.norm2, Enlarge(), onto=self.x)

    def attend(self, attention: Any) -> None:
        """Add attention to x; a frame sees itself and those before it."""
        t, h, w, channels = self.x.shape
        scale, shift = norm_scale(self.x, attention.group_norm)
        tokens = (self.x.float() * scale + shift).to(self.x.dtype).view(t, h * w, channels)
        q, k, v = (layer(tokens) for layer in (attention.to_q, attention.to_k, attention.to_v))
        for frame in range(t):
            seen_k, seen_v = (y[: frame + 1].reshape(1, 1, -1, channels) for y in (k, v))
            out = F.scaled_dot_product_attention(q[frame][None, None], seen_k, seen_v)
            out = attention.to_out[0](out[0, 0])
            self.x[frame] += out.view(h, w, channels)

    def _convolved(
        self, x: Tensor, conv: Any, norm: Any, enlarge: Enlarge, onto: Tensor | None = None
    ) -> Tensor:
        """A causal convolution of x; added to ``onto`` where that is given."""
        scales = None if norm is None else norm_scale(x, norm)
        frames = 1 + (x.shape[0] - 1) * enlarge.time
        weight = _arranged(conv.conv.weight, self._joined)
        size = (x.shape[1] * enlarge.space, x.shape[2] * enlarge.space)
        out = onto
        if out is None:
            out = x.new_empty(frames, *size, conv.conv.out_channels)
        each = self._chunk // (
            size[0] * size[1] * x.shape[3] * x.itemsize * (3 if self._joined else 1)
        )
        each = max(1, each - 2)
        for start in range(0, frames, each):
            part = range(start, min(start + each, frames))
            made = _three(padded(x, part, Border(), scales, enlarge), weight, conv.conv.bias)
            if onto is None:
                out[part.start : part.stop] = made
            else:
                out[part.start : part.stop] += made
        return out


def _arranged(weight: Tensor, joined: bool) -> Tensor:
    """A kernel (o, c, 3, 3, 3) as its convolution wants it; 4-dimensional for joined frames."""
    if not joined:
        return weight.contiguous(memory_format=torch.channels_last_3d)
    out, channels, time, high, wide = weight.shape
    flat = weight.transpose(1, 2).reshape(out, time * channels, high, wide)
    return flat.contiguous(memory_format=torch.channels_last)


def _three(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve padded frames (n + 2, h + 2, w + 2, c) -> (n, h, w, o)."""
    if weight.ndim == 5:
        return F.conv3d(x.permute(3, 0, 1, 2)[None], weight, bias)[0].permute(1, 2, 3, 0)
    joined = torch.cat([x[:-2], x[1:-1], x[2:]], dim=3)
    return F.conv2d(joined.permute(0, 3, 1, 2), weight, bias).permute(0, 2, 3, 1)
