"""Blocks that work on some tokens at a time: what a card needs that has room for little else.

Only attention sees all tokens at once. What comes before it makes q, k and v of each token, what
comes after it goes from the attended values to the block's result, token by token; both run on a
piece of the tokens after another. So the hidden layer, four times as wide as all else, and what
norms and phases do in float32 never exist whole: beside a block's input there are q, k, v and what
is attended, and no more.

Every row goes through the same arithmetic. In int8 that gives the same bits, since its sums are
whole numbers; in 16 bits a library may multiply a shorter matrix with other tiles, which sum in
another order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recurvid.ops.linear.epilogues import after_gelu, linear_gelu, linear_of_two, rounds_in_one
from recurvid.ops.linear.layers import several
from recurvid.ops.modulation import gated, modulate
from recurvid.ops.norm_rope import Stream, can_turn, norm_rope
from recurvid.ops.rope import RopeTable, apply_rope
from recurvid.ops.token_pieces import by_tokens

if TYPE_CHECKING:
    from recurvid.models.packed_dit.blocks import BlockInputs, DoubleBlock, SingleBlock

Three = tuple[Tensor, Tensor, Tensor]


def image_before(block: DoubleBlock, x: Tensor, vectors: Tensor, rope: RopeTable) -> Three:
    """Image tokens (b, m, d), vectors (b, 6, d): q, k, v (b, m, heads, head_dim), turned."""
    attn = block.attn
    raw = several(modulate(x, vectors[:, 0], vectors[:, 1]), attn.to_q, attn.to_k, attn.to_v)
    return attn.turned(raw, rope, fused=attn.fused)


def text_before(block: DoubleBlock, x: Tensor, vectors: Tensor, rope: RopeTable) -> Three:
    """The same for text tokens, with the layers that are theirs."""
    attn = block.attn
    y = modulate(x, vectors[:, 0], vectors[:, 1])
    q, k, v = map(attn.split, several(y, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj))
    if attn.fused and can_turn(q):
        q = norm_rope(Stream(q, attn.norm_added_q.weight), None, rope)
        k = norm_rope(Stream(k, attn.norm_added_k.weight), None, rope)
        return q, k, v
    return apply_rope(attn.norm_added_q(q), rope), apply_rope(attn.norm_added_k(k), rope), v


def image_after(block: DoubleBlock, x: Tensor, attended: Tensor, vectors: Tensor) -> Tensor:
    """Image tokens x (b, m, d) and what they attended to (b, m, d): the block's result."""
    _, _, gate, shift, scale, mlp_gate = vectors.unbind(1)
    x = gated(x, gate, block.attn.to_out[0](attended))
    return gated(x, mlp_gate, block.ff(modulate(x, shift, scale)))


def text_after(block: DoubleBlock, x: Tensor, attended: Tensor, vectors: Tensor) -> Tensor:
    """The same for text tokens."""
    _, _, gate, shift, scale, mlp_gate = vectors.unbind(1)
    x = gated(x, gate, block.attn.to_add_out(attended))
    return gated(x, mlp_gate, block.ff_context(modulate(x, shift, scale)))


def single_before(block: SingleBlock, x: Tensor, vectors: Tensor, rope: RopeTable) -> Three:
    """Tokens (b, m, d) of a single-stream block, vectors (b, 3, d): q, k, v, turned."""
    attn = block.attn
    raw = several(modulate(x, vectors[:, 0], vectors[:, 1]), attn.to_q, attn.to_k, attn.to_v)
    return attn.turned(raw, rope, fused=block.fused)


def single_after(block: SingleBlock, x: Tensor, attended: Tensor, vectors: Tensor) -> Tensor:
    """Tokens x (b, m, d) and what they attended to: the block's result."""
    shift, scale, gate = vectors.unbind(1)
    y = modulate(x, shift, scale)
    if block.fused and rounds_in_one(block.proj_out, y):
        return gated(x, gate, after_gelu(block.proj_out, block.proj_mlp(y), attended))
    if block.fused:
        hidden = linear_gelu(block.proj_mlp, y)
        return gated(x, gate, linear_of_two(block.proj_out, attended, hidden))
    hidden = F.gelu(block.proj_mlp(y), approximate="tanh")
    return gated(x, gate, block.proj_out(torch.cat([attended, hidden], dim=-1)))


@dataclass(frozen=True)
class Parts:
    """What is done to a piece of the tokens, as written here or compiled."""

    image_before: Callable[..., Three] = image_before
    text_before: Callable[..., Three] = text_before
    image_after: Callable[..., Tensor] = image_after
    text_after: Callable[..., Tensor] = text_after
    single_before: Callable[..., Three] = single_before
    single_after: Callable[..., Tensor] = single_after

    @staticmethod
    def compiled(**options: Any) -> Parts:
        """Each compiled at its first call, once for all blocks; options of ``torch.compile``."""

        def one(function: Callable[..., Any]) -> Callable[..., Any]:
            return torch.compile(function, fullgraph=True, **options)

        return Parts(
            one(image_before), one(text_before), one(image_after), one(text_after),
            one(single_before), one(single_after),
        )  # fmt: skip


@dataclass(frozen=True)
class Pieces:
    """How blocks work on some tokens at a time.

    Attributes:
        tokens: at most so many at once.
        parts: what is done to them.
    """

    tokens: int
    parts: Parts = Parts()


def single_in_pieces(
    block: SingleBlock, x: Tensor, shared: BlockInputs, vectors: Tensor, how: Pieces
) -> Tensor:
    """SingleBlock.forward, inference only."""
    n, parts = x.shape[1], how.parts
    qkv = _room(x, n, block.attn.heads, vectors)

    def before(part: slice) -> Three:
        return parts.single_before(block, x[:, part], vectors, shared.rope.of(part))

    by_tokens(before, qkv, how.tokens)
    attended = _attended(qkv, shared)
    out = torch.empty_like(x)

    def after(part: slice) -> tuple[Tensor]:
        return (parts.single_after(block, x[:, part], attended[:, part], vectors),)

    by_tokens(after, [out], how.tokens)
    return out


def double_in_pieces(
    block: DoubleBlock,
    image: Tensor,
    text: Tensor,
    shared: BlockInputs,
    vectors: tuple[Tensor, Tensor],
    how: Pieces,
) -> tuple[Tensor, Tensor]:
    """DoubleBlock.forward, inference only."""
    n, parts = image.shape[1], how.parts
    of_image, of_text = vectors
    qkv = _room(image, n + text.shape[1], block.attn.heads, of_image)

    def before(part: slice) -> Three:
        return parts.image_before(block, image[:, part], of_image, shared.rope.of(part))

    def before_text(part: slice) -> Three:
        rope = shared.rope.of(slice(part.start + n, part.stop + n))
        return parts.text_before(block, text[:, part], of_text, rope)

    by_tokens(before, [whole[:, :n] for whole in qkv], how.tokens)
    by_tokens(before_text, qkv, how.tokens, first=n)
    attended = _attended(qkv, shared)
    # Side by side, as all else is: what one large tensor leaves then fits the next.
    whole = image.new_empty(image.shape[0], n + text.shape[1], image.shape[2])
    out, text_out = whole[:, :n], whole[:, n:]

    def after(part: slice) -> tuple[Tensor]:
        return (parts.image_after(block, image[:, part], attended[:, part], of_image),)

    def after_text(part: slice) -> tuple[Tensor]:
        return (parts.text_after(block, text[:, part], attended[:, n:][:, part], of_text),)

    by_tokens(after, [out], how.tokens)
    by_tokens(after_text, [text_out], how.tokens)
    return out, text_out


def side_by_side(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """The same (b, n, d) and (b, l, d) as parts of one tensor."""
    n, length = image.shape[1], text.shape[1]
    whole = torch.cat([image, text], dim=1)
    return whole[:, :n], whole[:, n : n + length]


def _room(x: Tensor, tokens: int, heads: int, vectors: Tensor) -> list[Tensor]:
    """For q, k and v of so many tokens, in the type that layers make of what is modulated."""
    shape = (x.shape[0], tokens, heads, x.shape[-1] // heads)
    return [x.new_empty(shape, dtype=vectors.dtype) for _ in range(3)]


def _attended(qkv: list[Tensor], shared: BlockInputs) -> Tensor:
    """(b, n, d); q, k and v are let go of."""
    q, k, v = qkv
    out = shared.attention(q, k, v, shared.mask).flatten(2)
    qkv.clear()
    return out
