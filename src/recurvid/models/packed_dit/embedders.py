"""What turns latents, timestep, guidance, prompt and picture into tokens and one vector."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurvid.models.packed_dit.blocks import Attention, FeedForward, Modulation
from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.modulation import EPS, gated

FREQUENCIES = 256  # channels of the sinusoidal embedding of a scalar


def sinusoid(value: Tensor) -> Tensor:
    """(b,) to (b, 256), float32: cosines then sines of value / 10000^(i / 128)."""
    half = FREQUENCIES // 2
    exponent = -math.log(10_000) * torch.arange(half, device=value.device).float() / half
    phase = value.float()[:, None] * exponent.exp()
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


class PatchEmbedder(nn.Module):
    """Noisy latents (b, c, t, h, w) to tokens (b, n, d), patches of (1, 2, 2)."""

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.proj = nn.Conv3d(in_channels, width, kernel_size=(1, 2, 2), stride=(1, 2, 2))

    def forward(self, latents: Tensor) -> Tensor:
        """(b, c, t, h, w) to (b, t * h/2 * w/2, d)."""
        return self.proj(latents).flatten(2).transpose(1, 2)


class Embedder(nn.Module):
    """Linear, SiLU, linear."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels) to (b, width)."""
        return self.linear_2(F.silu(self.linear_1(x)))


class ScalarAndTextEmbedder(nn.Module):
    """Timestep, pooled text and, where the model is guidance-distilled, guidance: one vector."""

    def __init__(self, width: int, text_channels: int, *, guidance: bool = False):
        super().__init__()
        self.timestep_embedder = Embedder(FREQUENCIES, width)
        self.text_embedder = Embedder(text_channels, width)
        self.guidance_embedder = Embedder(FREQUENCIES, width) if guidance else None

    def forward(self, timestep: Tensor, pooled: Tensor, guidance: Tensor | None = None) -> Tensor:
        """(b,), (b, p) and (b,), the scalars in thousandths, to (b, width)."""
        temb = self.timestep_embedder(sinusoid(timestep).to(pooled.dtype))
        if self.guidance_embedder is not None:
            assert guidance is not None
            temb = temb + self.guidance_embedder(sinusoid(guidance).to(pooled.dtype))
        return temb + self.text_embedder(pooled)


class ImageProjection(nn.Module):
    """Image tokens (b, n, e) to the width of the network."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.up = nn.Linear(channels, 3 * width)
        self.down = nn.Linear(3 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, n, e) to (b, n, width)."""
        return self.down(F.silu(self.up(tokens)))


class RefinerBlock(nn.Module):
    """Self-attention over the prompt, its residuals gated by timestep and mean prompt."""

    def __init__(self, heads: int, head_dim: int):
        super().__init__()
        width = heads * head_dim
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(heads, head_dim, qk_norm=False)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.ff = FeedForward(width, 4 * width, nn.SiLU())
        self.norm_out = Modulation(width, 2)

    def forward(
        self, x: Tensor, temb: Tensor, mask: Tensor | None, attention: AttentionBackend
    ) -> Tensor:
        """(b, l, d) to the same shape; mask (b, l) says which tokens are real."""
        gate, mlp_gate = self.norm_out(temb).unbind(1)
        y, attn = self.norm1(x), self.attn
        q, k, v = (attn.split(project(y)) for project in (attn.to_q, attn.to_k, attn.to_v))
        x = gated(x, gate, attn.to_out[0](attention(q, k, v, mask).flatten(2)))
        return gated(x, mlp_gate, self.ff(self.norm2(x)))


class TokenRefiner(nn.Module):
    """Holds the refiner's blocks under their released name."""

    def __init__(self, heads: int, head_dim: int, layers: int):
        super().__init__()
        self.refiner_blocks = nn.ModuleList(RefinerBlock(heads, head_dim) for _ in range(layers))


class TextEmbedder(nn.Module):
    """Prompt embeddings to tokens, refined by a small transformer of their own."""

    def __init__(self, channels: int, heads: int, head_dim: int, layers: int):
        super().__init__()
        self.time_text_embed = ScalarAndTextEmbedder(heads * head_dim, channels)
        self.proj_in = nn.Linear(channels, heads * head_dim)
        self.token_refiner = TokenRefiner(heads, head_dim, layers)

    def forward(
        self, text: Tensor, timestep: Tensor, mask: Tensor | None, attention: AttentionBackend
    ) -> Tensor:
        """(b, l, channels) to (b, l, d); where ``mask`` is False the result is noise."""
        if mask is None:
            mean = text.mean(dim=1)
        else:
            weight = mask[..., None].float()
            mean = ((text * weight).sum(dim=1) / weight.sum(dim=1)).to(text.dtype)
        temb = self.time_text_embed(timestep, mean)
        x = self.proj_in(text)
        for block in self.token_refiner.refiner_blocks:
            x = block(x, temb, mask, attention)
        return x
