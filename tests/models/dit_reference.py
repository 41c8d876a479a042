"""A forward pass put together from diffusers' own submodules, for what its model cannot run.

One sample at a time, so that every sample has indices, groups and a prompt length of its own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_hunyuan_video_framepack import _pad_for_3d_conv
from torch import Tensor, nn

from recurvid.conditioning import Conditioning
from recurvid.latents import LatentFrames


def reference(
    theirs: nn.Module,
    convs: dict[tuple[int, int, int], nn.Conv3d],
    target: LatentFrames,
    timestep: Tensor,
    conditioning: Conditioning,
    groups: list[tuple[tuple[int, int, int], LatentFrames]],
) -> Tensor:
    """``convs``: (t, h, w) kernel -> patchify layer. (16, 32, 32) goes, pooled, through k8's."""
    rows = [
        _one(theirs, convs, _row(target, i), timestep[i : i + 1], _slice(conditioning, i),
             [(kernel, _row(frames, i)) for kernel, frames in groups])
        for i in range(target.data.shape[0])
    ]  # fmt: skip
    return torch.cat(rows)


def _row(frames: LatentFrames, i: int) -> LatentFrames:
    return LatentFrames(frames.data[i : i + 1], frames.index[i : i + 1])


def _slice(c: Conditioning, i: int) -> Conditioning:
    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[i : i + 1]

    return Conditioning(
        c.text[i : i + 1],
        c.text_mask[i : i + 1],
        c.pooled[i : i + 1],
        cut(c.image),
        cut(c.guidance),
    )


def _tokens(convs, kernel, latents: Tensor) -> Tensor:
    data: Any = _pad_for_3d_conv(latents, kernel)
    if kernel == (16, 32, 32):
        data, kernel = F.avg_pool3d(data, 2), (8, 16, 16)
    return convs[kernel](data).flatten(2).transpose(1, 2)


def _one(theirs, convs, target, timestep, conditioning, groups) -> Tensor:
    def rope(frames: LatentFrames):
        height, width = frames.data.shape[-2:]
        return theirs.rope(frames.index[0], height, width, frames.data.device)

    tokens, phases = [theirs.x_embedder(target.data)], [rope(target)]
    count = tokens[0].shape[1]
    for kernel, frames in reversed(groups):
        t, h, w = kernel
        height, width = (n // 2 for n in frames.data.shape[-2:])
        tokens.insert(0, _tokens(convs, kernel, frames.data))
        phases.insert(0, theirs._pad_rotary_emb(rope(frames), height, width, (t, h // 2, w // 2)))
    freqs = (torch.cat([p[0] for p in phases]), torch.cat([p[1] for p in phases]))

    c = conditioning
    guidance = None if c.guidance is None else c.guidance * 1000
    temb, _ = theirs.time_text_embed(timestep, c.pooled, guidance)
    text = theirs.context_embedder(c.text, timestep, c.text_mask)[:, : int(c.text_mask.sum())]
    if theirs.image_projection is not None and c.image is not None:
        text = torch.cat([theirs.image_projection(c.image), text], dim=1)
    x = torch.cat(tokens, dim=1)
    for block in [*theirs.transformer_blocks, *theirs.single_transformer_blocks]:
        x, text = block(x, text, temb, None, freqs)
    x = theirs.proj_out(theirs.norm_out(x[:, -count:], temb))
    _, _, t, h, w = target.data.shape
    x = x.reshape(1, t, h // 2, w // 2, -1, 1, 2, 2).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)
