"""RoPE tables and their use against diffusers' functions and torch's 3-D pooling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from recurvid.ops.rope import RopeTable, apply_rope, rope_table

DIMS, THETA = (4, 6, 8), 256.0


def full_grid(index: list[int], height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """diffusers' phases (t h w, head_dim) of the (1, 2, 2) grid."""
    from diffusers.models.transformers import transformer_hunyuan_video_framepack as theirs

    rope = theirs.HunyuanVideoFramepackRotaryPosEmbed(2, 1, list(DIMS), THETA)
    return rope(torch.tensor(index), 2 * height, 2 * width, torch.device("cpu"))


def pooled(phases: torch.Tensor, shape: tuple[int, int, int], window) -> torch.Tensor:
    """3-D average pooling of (t h w, d) after replicate padding.

    In fp64, because torch's fp32 pooling over 4096 values is itself off by 1e-4.
    """
    x = phases.double().T.unflatten(1, shape)[None]
    t, h, w = (-n % k for n, k in zip(shape, window, strict=True))
    x = F.avg_pool3d(F.pad(x, (0, w, 0, h, 0, t), mode="replicate"), window)
    return x.flatten(2)[0].T.float()


@pytest.mark.parametrize(
    "window", [(1, 1, 1), (2, 2, 2), (4, 4, 4), (1, 2, 1), (3, 1, 5), (16,) * 3]
)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 8)])
@pytest.mark.parametrize("index", [[0], [7, 3, 90], [0, 10, 11, 12, 13], [-3, -2]])
@pytest.mark.parity
def test_table_is_the_pooled_full_grid(window, size, index):
    table = rope_table(torch.tensor([index]), size, DIMS, THETA, window)
    for ours, theirs in zip((table.cos, table.sin), full_grid(index, *size), strict=True):
        expected = pooled(theirs, (len(index), *size), window)
        assert ours.dtype == torch.float32
        # diffusers repeats every phase for both channels of a pair.
        assert torch.allclose(ours[0].repeat_interleave(2, dim=-1), expected, atol=2e-6)


def test_rows_of_a_batch_are_independent():
    both = rope_table(torch.tensor([[0, 5], [9, 2]]), (2, 3), DIMS, THETA)
    for i, index in enumerate(([0, 5], [9, 2])):
        alone = rope_table(torch.tensor([index]), (2, 3), DIMS, THETA)
        assert torch.equal(both.cos[i], alone.cos[0])
        assert torch.equal(both.sin[i], alone.sin[0])


def test_pooled_phases_are_shorter_than_one():
    table = rope_table(torch.tensor([[0, 1, 2, 3]]), (4, 4), DIMS, THETA, (4, 4, 4))
    assert ((table.cos**2 + table.sin**2) < 0.999).any()


@pytest.mark.parity
def test_apply_equals_diffusers():
    from diffusers.models.embeddings import apply_rotary_emb

    cos, sin = full_grid([3, 40], 2, 3)
    table = rope_table(torch.tensor([[3, 40]]), (2, 3), DIMS, THETA)
    x = torch.randn(2, 12, 5, sum(DIMS), generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16):
        phases: Any = (cos, sin)
        expected: Any = apply_rotary_emb(x.to(dtype), phases, sequence_dim=1)
        assert torch.allclose(apply_rope(x.to(dtype), table), expected, atol=1e-6, rtol=1e-2)
        assert apply_rope(x.to(dtype), table).dtype == dtype


def test_still_tokens_are_not_turned():
    table = rope_table(torch.tensor([[3]]), (1, 2), DIMS, THETA).with_still_tokens(4)
    x = torch.randn(1, 6, 2, sum(DIMS), generator=torch.Generator().manual_seed(0)).bfloat16()
    turned = apply_rope(x, table)
    assert torch.equal(turned[:, 2:], x[:, 2:])
    assert not torch.equal(turned[:, :2], x[:, :2])


def test_joining_spreads_a_single_row_over_the_batch():
    one = rope_table(torch.tensor([[1]]), (1, 2), DIMS, THETA)
    two = rope_table(torch.tensor([[4], [6]]), (1, 1), DIMS, THETA)
    joined = RopeTable.joined([one, two])
    assert joined.tokens == 3
    assert torch.equal(joined.cos[1], torch.cat([one.cos[0], two.cos[1]]))
