"""Sparse attention equals a dense one with everything masked that is out of a window's sight."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from recurvid.errors import InputError
from recurvid.ops.attention.backend import AttentionBackend, TokenLayout
from recurvid.ops.attention.local_windows import WindowAttention, plan, sparse
from recurvid.ops.attention.reference import REFERENCE
from recurvid.ops.attention.sdpa import SDPA
from recurvid.ops.attention.windows import Windows, cut

CPU = torch.device("cpu")
# context, (frames, rows, columns), text; window rows, columns, margin
CASES = [
    (7, (2, 6, 8), 4, Windows(3, 4, 1)),
    (7, (2, 5, 7), 4, Windows(2, 3, 1)),  # divides nowhere
    (0, (1, 9, 4), 1, Windows(2, 4, 1)),  # no context; all columns
    (3, (3, 1, 13), 2, Windows(1, 5, 0)),  # one row; nothing beside the window
    (5, (1, 7, 7), 0, Windows(1, 1, 1)),  # one token each; no text
    (4, (2, 10, 3), 3, Windows(4, 9, 2)),  # a window wider than the grid
]


def tokens(layout: TokenLayout, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    n = layout.context + layout.fine + layout.text
    q, k, v = (torch.randn(batch, n, 3, 8, generator=g, dtype=torch.float64) for _ in "qkv")
    return q, k, v


def sight(length: int, size: int, margin: int) -> list[set[int]]:
    """What each token of an axis may look at, in words of one sentence: see ``windows``."""
    count = -(-length // size)
    own = -(-length // count)
    reach = min(length, own + 2 * margin)
    seen: list[set[int]] = [set()] * length
    for i in range(count):
        start = i * (length - own) // (count - 1) if count > 1 else 0
        first = min(max(start - margin, 0), length - reach)
        for p in range(start, start + own):  # later windows win
            seen[p] = set(range(first, first + reach))
    return seen


def masked(q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout, w: Windows) -> Tensor:
    """Explicit softmax attention with a mask of every pair."""
    frames, rows, columns = layout.grid
    see_row, see_column = sight(rows, w.rows, w.margin), sight(columns, w.columns, w.margin)
    n = q.shape[1]
    allowed = torch.ones(n, n, dtype=torch.bool)
    places = list(product(range(frames), range(rows), range(columns)))
    for i, (_, y, x) in enumerate(places):
        for j, (_, y2, x2) in enumerate(places):
            near = y2 in see_row[y] and x2 in see_column[x]
            allowed[layout.context + i, layout.context + j] = near
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~allowed, -math.inf).softmax(dim=-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v)


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("dense", [SDPA, REFERENCE], ids=lambda b: b.name)
def test_equals_a_masked_reference(case: int, dense: AttentionBackend):
    context, grid, text, windows = CASES[case]
    layout = TokenLayout(context, grid, text)
    assert not windows.cover(grid)
    q, k, v = tokens(layout)
    kernel = sparse(dense, windows).over(layout, CPU, 1.0)
    want = masked(q, k, v, layout, windows)
    torch.testing.assert_close(kernel(q, k, v), want, atol=1e-12, rtol=0)
    assert (want - dense(q, k, v)).abs().max() > 0.01  # there was something to leave out


@pytest.mark.parametrize("case", range(len(CASES)))
def test_is_dense_where_everything_is_in_sight(case: int):
    context, grid, text, w = CASES[case]
    windows, layout = Windows(w.rows, w.columns, 99), TokenLayout(context, grid, text)
    q, k, v = (x.float() for x in tokens(layout))
    # The gathering itself, which over() would leave out.
    got = WindowAttention(SDPA, plan(windows, layout, CPU))(q, k, v, None)
    torch.testing.assert_close(got, SDPA(q, k, v), atol=1e-6, rtol=0)
    kernel = sparse(SDPA, windows).over(layout, CPU, 1.0)
    assert kernel(q, k, v).equal(SDPA(q, k, v))


def test_windows_that_would_fill_the_memory_are_refused_before_they_do():
    layout = TokenLayout(30_000, (10, 128, 128), 500)
    with pytest.raises(InputError, match=r"16384 windows .* larger windows"):
        plan(Windows(1, 1, 40), layout, CPU)


def test_small_grids_are_dense_to_the_bit():
    layout = TokenLayout(3, (9, 4, 6), 2)
    assert sparse(SDPA, Windows(10, 13, 5)).over(layout, CPU, 1.0) is SDPA


def test_the_first_blocks_of_a_deep_network_are_dense():
    kernel, layout = sparse(SDPA, Windows(2, 2, 1)), TokenLayout(3, (2, 6, 6), 2)

    def dense(blocks: int) -> list[int]:
        return [i for i in range(blocks) if kernel.over(layout, CPU, (i + 1) / blocks) is SDPA]

    assert dense(60) == [0, 1]
    assert dense(7) == []


def test_is_dense_before_it_knows_a_layout():
    q, k, v = tokens(TokenLayout(3, (2, 6, 6), 2))
    kernel = sparse(SDPA, Windows(2, 2, 1))
    assert kernel(q, k, v).equal(SDPA(q, k, v))
    assert kernel.exact == SDPA.exact
    assert "2x2+1" in kernel.name


def test_keys_that_are_masked_stay_so():
    layout, windows = TokenLayout(4, (2, 5, 6), 6), Windows(2, 3, 1)
    q, k, v = tokens(layout, batch=3)
    n = q.shape[1]
    mask = torch.ones(3, n, dtype=torch.bool)
    for row, length in enumerate((6, 2, 4)):
        mask[row, n - 6 + length :] = False
    kernel = sparse(SDPA, windows).over(layout, CPU, 1.0)
    got = kernel(q, k, v, mask)
    for row, length in enumerate((6, 2, 4)):
        keep = n - 6 + length
        short = TokenLayout(4, (2, 5, 6), length)
        q1, k1, v1 = (x[row : row + 1, :keep] for x in (q, k, v))
        want = masked(q1, k1, v1, short, windows)
        torch.testing.assert_close(got[row : row + 1, :keep], want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_token_is_a_result_once(case: int):
    context, grid, text, windows = CASES[case]
    layout = TokenLayout(context, grid, text)
    made = plan(windows, layout, CPU)
    asked = torch.cat([made.others, *(q.flatten() for q in made.queries)])
    n = context + layout.fine + text
    assert asked[made.order].equal(torch.arange(n))
    for queries, keys in zip(made.queries, made.keys, strict=True):
        for own, near in zip(queries.tolist(), keys.tolist(), strict=True):
            assert set(own) <= set(near)
            assert len(near) == len(set(near))
            assert {*range(context), *range(n - text, n)} <= set(near)


def test_windows_divide_and_then_no_query_is_there_twice():
    made = plan(Windows(10, 13, 5), TokenLayout(806, (11, 30, 52), 789), CPU)
    assert sum(q.numel() for q in made.queries) == 17_160
    assert {tuple(k.shape) for k in made.keys} == {(2, 806 + 11 * 20 * 23 + 789)}


def test_prompts_of_one_length_more_or_less_take_the_same_calls():
    def calls(text: int) -> list[tuple[int, ...]]:
        made = plan(Windows(5, 5, 2), TokenLayout(90, (3, 40, 40), text), CPU)
        return [tuple(q.shape) for q in made.queries]

    # A prompt of the released models has at most 256 tokens, and 729 of the picture beside it.
    assert calls(729 + 40) == calls(729 + 256)
    assert calls(1) == calls(256)
    assert 1 < len(calls(1)) < 64


def test_gathered_keys_take_no_more_than_the_whole_sequence_does():
    made = plan(Windows(3, 3, 2), TokenLayout(100, (3, 30, 30), 40), CPU)
    assert 1 < len(made.keys) < 100
    for keys in made.keys:
        assert keys.numel() <= 100 + 2700 + 40


def test_gradients_are_those_of_the_masked_reference():
    context, grid, text, windows = CASES[1]
    layout = TokenLayout(context, grid, text)
    weight = torch.randn(2, 81, 3, 8, generator=torch.Generator().manual_seed(1)).double()
    grads: list[tuple[Tensor, ...]] = []
    for attend in (
        lambda *x: sparse(SDPA, windows).over(layout, CPU, 1.0)(*x),
        lambda q, k, v: masked(q, k, v, layout, windows),
    ):
        inputs = [x.requires_grad_() for x in tokens(layout)]
        grads.append(torch.autograd.grad((attend(*inputs) * weight).sum(), inputs))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, atol=1e-11, rtol=0)


def test_one_object_a_layout():
    kernel, windows = sparse(SDPA, Windows(2, 2, 1)), Windows(2, 2, 1)
    layout = TokenLayout(3, (2, 6, 6), 2)
    assert kernel.over(layout, CPU, 1.0) is kernel.over(TokenLayout(3, (2, 6, 6), 2), CPU, 1.0)
    assert kernel.over(layout, CPU, 1.0) is sparse(SDPA, windows).over(layout, CPU, 1.0)
    assert kernel.over(layout, CPU, 1.0) is not kernel.over(TokenLayout(3, (2, 6, 8), 2), CPU, 1.0)
    assert SDPA.over(layout, CPU, 1.0) is SDPA


@pytest.mark.parametrize(("size", "margin"), product((1, 2, 3, 7, 50), (0, 1, 4, 60)))
def test_axes_of_all_lengths(size: int, margin: int):
    for length in range(1, 40):
        axis = cut(length, size, margin)
        assert axis.size <= size
        assert axis.size <= length
        owned = [start + i for start in axis.starts for i in range(axis.size)]
        assert set(owned) == set(range(length))
        for p, owner in enumerate(axis.owners()):
            assert 0 <= p - axis.starts[owner] < axis.size
        for start, near in zip(axis.starts, axis.near, strict=True):
            assert 0 <= near <= start
            assert start + axis.size <= near + axis.reach <= length
            # Nothing within the margin is missing.
            assert near <= max(0, start - margin)
            assert near + axis.reach >= min(length, start + axis.size + margin)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("10x13+5@25", "10x13+5@25"),
        ("10x13", "10x13+7@25"),
        ("4x4+0", "4x4+0@25"),
        ("6x3@0", "6x3+3@0"),
        ("1x1@100", "1x1+1@100"),
    ],
)
def test_windows_are_read_and_printed(text: str, printed: str):
    windows = Windows.parse(text)
    assert str(windows) == printed
    assert Windows.parse(printed) == windows


def test_none_is_no_windows():
    assert Windows.parse("none") is None


@pytest.mark.parametrize(
    "text", ["", "10", "10x", "0x13", "10x0", "10x13+", "10x13@101", "-1x3", "10x13x2", "x" * 99,
             "٣x٣", "10X13", " 10x13", "10x13\n"]
)  # fmt: skip
def test_what_is_no_window_says_what_is(text: str):
    with pytest.raises(InputError, match="rows x columns of a window") as caught:
        Windows.parse(text)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


def test_dense_steps():
    windows = Windows(2, 2, 1, 25)
    assert [windows.dense_steps(n) for n in (1, 4, 8, 25)] == [1, 1, 2, 7]
    assert Windows(2, 2, 1, 0).dense_steps(25) == 0
    assert Windows(2, 2, 1, 100).dense_steps(25) == 25
