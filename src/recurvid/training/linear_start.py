"""Starts an autoencoder as the best linear code of its data.

A principal-component code of 4 x 8 x 8 pixel blocks beats a small autoencoder trained for minutes
from random weights. In the layout with ``patch_size`` 8 the network can *be* that code: every
value v travels as the pair relu(v), relu(-v), so ReLU changes nothing, and residual branches begin
near zero. Training then only has to improve on it (neighbouring blocks, motion, colours).

The code is built in the steps in which the network joins frames: 192 pixels of a block to ``dims``
numbers, twice two frames to one, and the latent channels of what is left. The decoder is the
transpose.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurvid.vae.taehv import TAEHV, MemBlock, TGrow, TPool

_BRANCH = 0.01  # how large residual branches and free channels begin


@dataclass(frozen=True)
class LinearCode:
    """Orthonormal bases, rows = components.

    Attributes:
        mean: (192,) mean block, pixels in 0..1.
        block: (dims, 192) one frame's block.
        pairs: two of (dims, 2 * dims): two frames to one, twice.
        latent: (channels, dims), rows scaled so that rare details are not lost in noise.
        unlatent: (dims, channels), undoes ``latent`` on its own span.
    """

    mean: Tensor
    block: Tensor
    pairs: tuple[Tensor, Tensor]
    latent: Tensor
    unlatent: Tensor


def principal(rows: Tensor, count: int) -> Tensor:
    """(count, d) leading principal directions of centred rows (n, d)."""
    covariance = rows.T.double() @ rows.double() / rows.shape[0]
    _, vectors = torch.linalg.eigh(covariance)
    return vectors.flip(1)[:, :count].T.to(rows.dtype)


def fit(clips: Tensor, dims: int, channels: int, spread: float = 0.12) -> LinearCode:
    """Fit the code on clips (b, 3, 4k+1, h, w) in -1..1.

    Args:
        spread: root mean square that the latents get, inside the decoder's soft clamp of 3.
    """
    x = torch.cat([clips[:, :, :1].expand(-1, -1, 3, -1, -1), clips], 2).transpose(1, 2)
    blocks = F.pixel_unshuffle((x + 1) / 2, 8)  # (b, t, 192, h/8, w/8)
    blocks = blocks.permute(0, 3, 4, 1, 2)  # (b, h, w, t, 192)
    mean = blocks.reshape(-1, 192).mean(0)
    block = principal((blocks - mean).reshape(-1, 192), dims)
    values = (blocks - mean) @ block.T  # (b, h, w, t, dims)
    pairs: list[Tensor] = []
    for _ in range(2):
        joined = values.reshape(*values.shape[:3], values.shape[3] // 2, 2 * dims)
        pairs.append(principal(joined.reshape(-1, 2 * dims), dims))
        values = joined @ pairs[-1].T
    basis = principal(values.reshape(-1, dims), channels)
    deviation = (values.reshape(-1, dims) @ basis.T).std(0)
    # half-whitened: coarse structure stays larger than detail, but not by orders of magnitude
    scale = deviation.pow(-0.5)
    scale = scale * spread / (deviation * scale).square().mean().sqrt()
    return LinearCode(
        mean, block, (pairs[0], pairs[1]), basis * scale[:, None], basis.T / scale[None, :]
    )


@torch.no_grad()
def install(model: TAEHV, code: LinearCode) -> None:
    """Write the code into a fresh model with ``patch_size`` 8, in place."""
    for module in model.modules():
        if isinstance(module, MemBlock):
            last = module.conv[4]
            assert isinstance(last, nn.Conv2d)
            last.weight.mul_(_BRANCH)
    encoder, decoder = model.encoder, model.decoder
    dims = code.block.shape[0]
    _tap(encoder[0], _split_rows(code.block), bias=-code.block @ code.mean)
    pools = [layer for layer in encoder if isinstance(layer, TPool)]
    for pool, joint in zip(pools, (*code.pairs, torch.eye(dims)), strict=True):
        halves = joint.split(dims, 1)
        _tap(pool.conv, _signed(torch.cat([_joined_columns(half) for half in halves], 1)))
    for position, layer in enumerate(encoder):
        if isinstance(layer, TPool):
            _tap(encoder[position + 1], torch.eye(2 * dims))
    _tap(encoder[-1], _joined_columns(code.latent))
    _tap(decoder[1], _split_rows(code.unlatent))
    grows = [layer for layer in decoder if isinstance(layer, TGrow)]
    for grow, joint in zip(grows, (torch.eye(dims), code.pairs[1], code.pairs[0]), strict=True):
        width = grow.conv.in_channels
        for frame, half in enumerate(joint.split(dims, 1)):
            _tap(grow.conv, _signed(_joined_columns(half.T)), first_row=frame * width)
    for position, layer in enumerate(decoder):
        if isinstance(layer, TGrow):
            _tap(decoder[position + 1], torch.eye(2 * dims))
    _tap(decoder[-1], _joined_columns(code.block.T), bias=code.mean)


def _split_rows(matrix: Tensor) -> Tensor:
    """V -> (v, -v)."""
    return torch.cat([matrix, -matrix], 0)


def _signed(matrix: Tensor) -> Tensor:
    return _split_rows(matrix)


def _joined_columns(matrix: Tensor) -> Tensor:
    """(relu(v), relu(-v)) -> matrix @ v."""
    return torch.cat([matrix, -matrix], 1)


def _tap(
    layer: nn.Module, matrix: Tensor, *, bias: Tensor | None = None, first_row: int = 0
) -> None:
    """Make a convolution act as ``matrix`` on its first channels, the rest begins small."""
    assert isinstance(layer, nn.Conv2d)
    rows, columns = matrix.shape
    middle = layer.kernel_size[0] // 2
    if first_row == 0:
        layer.weight.mul_(_BRANCH)
    window = layer.weight[first_row : first_row + rows]
    window.zero_()
    window[:, :columns, middle, middle] = matrix.to(window)
    if bias is not None and layer.bias is not None:
        full = _split_rows(bias[:, None])[:, 0] if len(bias) * 2 == rows else bias
        layer.bias[: len(full)] = full.to(layer.bias)
