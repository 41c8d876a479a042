"""Double-stream and single-stream blocks. Submodule names are those of the released checkpoints.

Tokens of the video (packed context, then target) are called ``image``; image tokens of the
conditioning and the prompt are together called ``text``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurvid.models.packed_dit.in_pieces import Pieces, double_in_pieces, single_in_pieces
from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.linear.epilogues import (
    after_gelu,
    linear_gelu,
    linear_of_two,
    rounds_in_one,
)
from recurvid.ops.linear.layers import several
from recurvid.ops.modulation import EPS, gated, modulate
from recurvid.ops.norm_rope import Stream, can_turn, norm_rope
from recurvid.ops.rope import RopeTable, apply_rope

DOUBLE_VECTORS, SINGLE_VECTORS = 6, 3


@dataclass(frozen=True)
class BlockInputs:
    """What all blocks of one forward pass share.

    Attributes:
        rope: phases of all tokens, image then text (text is not turned).
        mask: (b, n) bool, True where a token may be attended to; None where all may.
        attention: kernel.
        temb: (b, d) embedding of timestep, guidance and pooled prompt; None when every block is
            handed its modulation vectors instead.
        pieces: how blocks work on some tokens at a time (inference only); None on all at once.
    """

    rope: RopeTable
    mask: Tensor | None
    attention: AttentionBackend
    temb: Tensor | None
    pieces: Pieces | None = None


class Modulation(nn.Module):
    """temb (b, d) to ``count`` vectors: shift, scale, gate, once or twice; (b, count, d)."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.count = count
        self.linear = nn.Linear(width, count * width)

    def forward(self, temb: Tensor) -> Tensor:
        """(b, d) to (b, count, d)."""
        return self.linear(F.silu(temb)).unflatten(-1, (self.count, -1))


class Activated(nn.Module):
    """Linear and activation; the linear is called ``proj``.

    ``fused`` lets the product bend its own result (GELU, inference on CUDA).
    """

    fused = False

    def __init__(self, width: int, hidden: int, activation: nn.Module):
        super().__init__()
        self.proj = nn.Linear(width, hidden)
        self.activation = activation
        self.bends_by_gelu = isinstance(activation, nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., hidden)."""
        if self.fused and self.bends_by_gelu:
            return linear_gelu(self.proj, x)
        return self.activation(self.proj(x))


class FeedForward(nn.Module):
    """Two linears; their names in checkpoints are ``net.0.proj`` and ``net.2``."""

    def __init__(self, width: int, hidden: int, activation: nn.Module):
        super().__init__()
        first, last = Activated(width, hidden, activation), nn.Linear(hidden, width)
        self.net = nn.Sequential(first, nn.Identity(), last)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same shape."""
        first, last = self.net[0], self.net[2]
        assert isinstance(first, Activated)
        if first.fused and first.bends_by_gelu and rounds_in_one(last, x):
            return after_gelu(last, first.proj(x))
        return self.net(x)


class Attention(nn.Module):
    """Projections of one stream: q, k, v with optional RMS norm, and optional output."""

    def __init__(self, heads: int, head_dim: int, *, qk_norm: bool = True, output: bool = True):
        super().__init__()
        width = heads * head_dim
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        if qk_norm:
            self.norm_q = nn.RMSNorm(head_dim, eps=EPS)
            self.norm_k = nn.RMSNorm(head_dim, eps=EPS)
        if output:
            self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def split(self, x: Tensor) -> Tensor:
        """(b, n, d) to (b, n, heads, head_dim)."""
        return x.unflatten(-1, (self.heads, -1))

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised q and k, and v, of (b, n, d); each (b, n, heads, head_dim)."""
        return self.normed(*several(x, self.to_q, self.to_k, self.to_v))

    # The list's items go unsaid, as those of ``several``.
    def turned(self, raw: list, rope: RopeTable, *, fused: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Projections q, k, v (b, n, d): q and k normalised and turned, all split into heads.

        Takes them out of the list, so that each goes as soon as it is done with.
        """
        q, k, v = raw
        raw.clear()
        if fused and can_turn(self.split(q)):
            q = norm_rope(Stream(self.split(q), self.norm_q.weight), None, rope)
            k = norm_rope(Stream(self.split(k), self.norm_k.weight), None, rope)
            return q, k, self.split(v)
        q, k, v = self.normed(q, k, v)
        return apply_rope(q, rope), apply_rope(k, rope), v

    def normed(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised q and k, and v, split into heads."""
        q, k, v = self.split(q), self.split(k), self.split(v)
        # Under autocast norms give fp32; kernels want one type.
        return self.norm_q(q).to(v.dtype), self.norm_k(k).to(v.dtype), v


class JointAttention(Attention):
    """Attention of a double-stream block: both streams attend to both.

    ``fused`` norms, joins and turns in one kernel (inference on CUDA).
    """

    fused = False

    def __init__(self, heads: int, head_dim: int):
        super().__init__(heads, head_dim)
        width = heads * head_dim
        self.add_q_proj = nn.Linear(width, width)
        self.add_k_proj = nn.Linear(width, width)
        self.add_v_proj = nn.Linear(width, width)
        self.norm_added_q = nn.RMSNorm(head_dim, eps=EPS)
        self.norm_added_k = nn.RMSNorm(head_dim, eps=EPS)
        self.to_add_out = nn.Linear(width, width)

    def forward(self, image: Tensor, text: Tensor, shared: BlockInputs) -> tuple[Tensor, Tensor]:
        """(b, n, d) and (b, l, d) to the same shapes."""
        raw = several(image, self.to_q, self.to_k, self.to_v)
        added = several(text, self.add_q_proj, self.add_k_proj, self.add_v_proj)
        q_text, k_text, v_text = map(self.split, added)
        if self.fused and can_turn(q_text):
            q, k, v = map(self.split, raw)
            del raw
            q = norm_rope(*self._streams(q, q_text, self.norm_q, self.norm_added_q), shared.rope)
            k = norm_rope(*self._streams(k, k_text, self.norm_k, self.norm_added_k), shared.rope)
        else:
            q, k, v = self.normed(*raw)
            del raw
            q = apply_rope(torch.cat([q, self.norm_added_q(q_text)], dim=1), shared.rope)
            k = apply_rope(torch.cat([k, self.norm_added_k(k_text)], dim=1), shared.rope)
        v = torch.cat([v, v_text], dim=1)
        out = shared.attention(q, k, v, shared.mask).flatten(2)
        n = image.shape[1]
        return self.to_out[0](out[:, :n]), self.to_add_out(out[:, n:])

    @staticmethod
    def _streams(
        x: Tensor, text: Tensor, norm: nn.RMSNorm, text_norm: nn.RMSNorm
    ) -> tuple[Stream, Stream]:
        return Stream(x, norm.weight), Stream(text, text_norm.weight)


class DoubleBlock(nn.Module):
    """Image and text keep weights of their own and meet in attention."""

    def __init__(self, heads: int, head_dim: int, mlp_width: int):
        super().__init__()
        width = heads * head_dim
        self.norm1 = Modulation(width, DOUBLE_VECTORS)
        self.norm1_context = Modulation(width, DOUBLE_VECTORS)
        self.attn = JointAttention(heads, head_dim)
        self.ff = FeedForward(width, mlp_width, nn.GELU(approximate="tanh"))
        self.ff_context = FeedForward(width, mlp_width, nn.GELU(approximate="tanh"))

    def vectors(self, temb: Tensor) -> tuple[Tensor, Tensor]:
        """Modulation of image and of text, (b, 6, d) each: all that the block takes from temb."""
        return self.norm1(temb), self.norm1_context(temb)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        shared: BlockInputs,
        vectors: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(b, n, d) and (b, l, d) to the same shapes.

        ``vectors`` are made from ``shared.temb`` unless they were made before.
        """
        if vectors is None:
            assert shared.temb is not None
            vectors = self.vectors(shared.temb)
        if shared.pieces is not None:
            return double_in_pieces(self, image, text, shared, vectors, shared.pieces)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = vectors[0].unbind(1)
        t_shift, t_scale, t_gate, t_mlp_shift, t_mlp_scale, t_mlp_gate = vectors[1].unbind(1)
        update, t_update = self.attn(
            modulate(image, shift, scale), modulate(text, t_shift, t_scale), shared
        )
        image, text = gated(image, gate, update), gated(text, t_gate, t_update)
        update = self.ff(modulate(image, mlp_shift, mlp_scale))
        t_update = self.ff_context(modulate(text, t_mlp_shift, t_mlp_scale))
        return gated(image, mlp_gate, update), gated(text, t_mlp_gate, t_update)


class SingleBlock(nn.Module):
    """One stream of image and text tokens; attention and feed-forward side by side.

    ``fused`` keeps the wide hidden layer from being copied (inference on CUDA).
    """

    fused = False

    def __init__(self, heads: int, head_dim: int, mlp_width: int):
        super().__init__()
        width = heads * head_dim
        self.norm = Modulation(width, SINGLE_VECTORS)
        self.attn = Attention(heads, head_dim, output=False)
        self.proj_mlp = nn.Linear(width, mlp_width)
        self.proj_out = nn.Linear(width + mlp_width, width)

    def vectors(self, temb: Tensor) -> Tensor:
        """Modulation (b, 3, d): all that the block takes from temb."""
        return self.norm(temb)

    def forward(self, x: Tensor, shared: BlockInputs, vectors: Tensor | None = None) -> Tensor:
        """(b, n + l, d), image tokens first, to the same shape."""
        if vectors is None:
            assert shared.temb is not None
            vectors = self.vectors(shared.temb)
        if shared.pieces is not None:
            return single_in_pieces(self, x, shared, vectors, shared.pieces)
        shift, scale, gate = vectors.unbind(1)
        y = modulate(x, shift, scale)
        attn = self.attn
        in_one = self.fused and rounds_in_one(self.proj_out, y)
        if self.fused and not in_one:
            raw = several(y, attn.to_q, attn.to_k, attn.to_v)
            hidden = linear_gelu(self.proj_mlp, y)
        else:
            # popped, since unpacking with a star makes a tuple of it under torch 2.11's compiler
            raw = several(y, attn.to_q, attn.to_k, attn.to_v, self.proj_mlp)
            hidden = raw.pop()
            hidden = hidden if in_one else F.gelu(hidden, approximate="tanh")
        # What is done with is let go at once: here is where a step needs the most memory.
        del y
        q, k, v = attn.turned(raw, shared.rope, fused=self.fused)
        attended = shared.attention(q, k, v, shared.mask).flatten(2)
        del q, k, v
        if in_one:
            return gated(x, gate, after_gelu(self.proj_out, hidden, attended))
        if self.fused:
            return gated(x, gate, linear_of_two(self.proj_out, attended, hidden))
        joined = torch.cat([attended, hidden], dim=-1)
        del attended, hidden
        return gated(x, gate, self.proj_out(joined))
