"""Our 8-bit attention, in Triton's interpreter where there is no card (and where Triton is)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from recurvid.errors import ComponentError
from recurvid.ops.attention import triton_eight_bit
from recurvid.ops.attention.backend import AttentionSpec
from recurvid.ops.attention.eight_bit import simulated_by_token
from recurvid.ops.attention.gluon_hopper import HOPPER_TILES
from recurvid.ops.attention.reference import REFERENCE
from recurvid.ops.attention.registry import attention_backend
from recurvid.ops.attention.triton_eight_bit import CHOICE, TILES, chosen, eight_bit_attention
from recurvid.ops.attention.triton_rounding import AVAILABLE, GROUP, PAD, order_of, padded

needs_triton = pytest.mark.skipif(not AVAILABLE, reason="Triton is not installed")

# The interpreter cuts numbers off on their way to fp8, where a card rounds to the nearest.
BEGIN = """
import math
import numpy as np, torch
import triton.runtime.interpreter as interpreter
plain = interpreter._convert_float
def convert(x, source, target, mode):
    if str(target) == "fp8e4nv":
        x = torch.from_numpy(np.ascontiguousarray(x.astype(np.float32)))
        return x.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    return plain(x, source, target, mode)
interpreter._convert_float = convert
from recurvid.ops.attention.eight_bit import simulated_by_token
from recurvid.ops.attention.reference import REFERENCE
from recurvid.ops.attention.triton_eight_bit import Tile, eight_bit_attention, multiply
from recurvid.ops.attention.triton_rounding import order_of, padded, rounded
torch.manual_seed(0)
def draw(b, queries, keys, heads, channels):
    q, k, v = (torch.randn(b, n, heads, channels) for n in (queries, keys, keys))
    return q, k + 3 * torch.randn(b, 1, heads, channels), v + torch.randn(b, 1, heads, channels)
def off(x, exact):
    return ((x.double() - exact.double()).norm() / exact.double().norm()).item()
"""

ROUNDING = """
for b, n, keys, heads, channels in ((2, 33, 290, 2, 64), (1, 5, 1, 1, 128)):
    q, k, v = draw(b, n, keys, heads, channels)
    shared = k.double().mean(1, keepdim=True)
    want = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double() - shared)
    want *= channels**-0.5 * math.log2(math.e)
    for whole, narrow_v, limit in ((True, True, 0.016), (False, False, 0.05)):
        given = rounded(q, k, v, whole=whole, narrow_v=narrow_v)
        assert not given.q[:, :, n:].float().any() and not given.k[:, :, keys:].float().any()
        got = torch.einsum("bhqd,bhkd->bhqk", given.q[:, :, :n].double(), given.k.double())
        got = (got * given.q_scale[:, :, :n, None])[..., :keys]
        assert keys == 1 and (got - want).abs().max() < 1e-6 or off(got, want) < limit
        codes = given.v.double()
        if narrow_v:
            place = torch.argsort(order_of(torch.arange(padded(keys))))
            codes = codes[..., place].transpose(2, 3)
        assert not codes[:, :, keys:].any()
        back = codes[:, :, :keys] * given.v_step[:, :, None] + given.v_mean[:, :, None]
        assert off(back.transpose(1, 2), v) < (0.02 if narrow_v else 1e-3)
print("equal")
"""

ATTENTION = """
TRIED = (
    (Tile(32, 64, 2), False, True), (Tile(32, 64, 2, lazy=2), False, True),
    (Tile(32, 128, 2, apart=True), True, True), (Tile(64, 32, 2, lazy=3, apart=True), True, True),
    (Tile(32, 64, 2), False, False), (Tile(32, 64, 2), True, False),
)
for b, n, keys, heads, channels in ((1, 70, 300, 2, 64), (2, 33, 63, 1, 128)):
    q, k, v = draw(b, n, keys, heads, channels)
    q[:, 0] *= 6  # one that is sharp
    exact = REFERENCE(q, k, v)
    for tile, whole, engine in TRIED:
        given = rounded(q, k, v, whole=whole, narrow_v=engine or not whole)
        out = torch.empty_like(q)
        multiply(given, out, keys, tile, engine=engine)
        assert off(out, exact) < (0.022 if whole else 0.05), (tile, whole, off(out, exact))
        if given.v.dtype != torch.float16:
            assert off(out, simulated_by_token(q, k, v, whole=whole)) < 0.008, (tile, whole)
# One key is its own average.
q, k, v = draw(1, 3, 1, 1, 64)
assert torch.allclose(eight_bit_attention(q, k, v, True, "128x64-wide"), v.expand(1, 3, 1, 64))
# The same call, the same bits; and keys that lie behind each other in another order, nearly those.
q, k, v = draw(1, 40, 130, 1, 64)
first = eight_bit_attention(q, k, v, False, "64x128")
assert torch.equal(first, eight_bit_attention(q, k, v, False, "64x128"))
order = torch.randperm(130)
assert off(eight_bit_attention(q, k[:, order], v[:, order], False, "64x128"), first) < 0.01
print("equal")
"""


def interpreted(program: str) -> str:
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEGIN + program],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    return said.stdout + said.stderr[-1500:]


@needs_triton
def test_rounding_in_the_interpreter():
    assert interpreted(ROUNDING) == "equal\n"


@needs_triton
def test_attention_in_the_interpreter():
    assert interpreted(ATTENTION) == "equal\n"


def test_int8_scores_are_closer_than_fp8_where_attention_is_sharp():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, n, 2, 64) for n in (40, 500, 500))
    q, k, v = 3 * q, k + 3, v + 2 * torch.randn(1, 1, 2, 64)
    exact = REFERENCE(q, k, v)
    spread = exact - v.mean(1, keepdim=True)
    fp8, int8 = (
        (simulated_by_token(q, k, v, whole=whole) - exact).norm() / spread.norm()
        for whole in (False, True)
    )
    assert int8 < 0.055
    assert 1.3 * int8 < fp8 < 0.12


def test_every_token_has_one_place():
    place = torch.arange(4 * GROUP)
    token = order_of(place)
    assert token.sort().values.equal(place)
    assert (token // GROUP).equal(place // GROUP)
    # What a thread has of 8 scores in a row are two neighbours; an operand's are four.
    assert token[:8].tolist() == [0, 1, 8, 9, 2, 3, 10, 11]


def test_tokens_fill_whole_tiles():
    assert [padded(n) for n in (1, 256, 257)] == [256, 256, 512]
    assert all(PAD % tile.keys == 0 and PAD % tile.rows == 0 for tile in TILES.values())


def test_every_card_has_a_tile(monkeypatch):
    assert set(CHOICE.values()) <= {*TILES, *HOPPER_TILES}
    assert list(CHOICE) == sorted(CHOICE, reverse=True)
    assert [chosen(card) for card in ((8, 0), (8, 9), (12, 1))] == 3 * ["128x64-wide"]
    monkeypatch.setitem(CHOICE, (9, 0), "hopper")
    for gluon, name in ((True, "hopper"), (False, "128x64")):
        monkeypatch.setattr(triton_eight_bit, "GLUON", gluon)
        assert chosen((9, 0)) == name


def test_compiled_code_has_no_break():
    q = torch.zeros(1, 300, 2, 64, device="meta", dtype=torch.bfloat16)
    out = eight_bit_attention(q, q[:, :7], q[:, :7], False, "")
    assert out.shape == q.shape
    assert out.dtype == q.dtype


@pytest.mark.parametrize(
    ("name", "card", "why"),
    [("triton-fp8", (8, 6), "needs compute capability 8.9"), ("triton-int8", (7, 5), "needs")],
)
def test_cards_without_the_units_are_refused(name, card, why, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: card)
    with pytest.raises(ComponentError, match=why):
        attention_backend(name, AttentionSpec("cuda", torch.bfloat16, 128))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("tile", ["", *TILES, *HOPPER_TILES])
def test_attention_on_a_card(tile, whole):
    card = torch.cuda.get_device_capability()
    if tile in HOPPER_TILES and not (card[0] == 9 and triton_eight_bit.GLUON):
        pytest.skip("not Hopper, or no Gluon")
    if not whole and card < (8, 9):
        pytest.skip("no fp8")
    torch.manual_seed(0)
    for b, n, keys, heads, channels in ((2, 517, 1031, 3, 128), (1, 300, 64, 2, 64)):
        q, k, v = (
            torch.randn(b, m, heads, channels, device="cuda").bfloat16() for m in (n, keys, keys)
        )
        k += 2 * torch.randn(b, 1, heads, channels, device="cuda").bfloat16()
        out = eight_bit_attention(q, k, v, whole, tile)
        near = simulated_by_token(q.float(), k.float(), v.float(), whole=whole)
        spread = near - v.float().mean(1, keepdim=True)
        # Weights are rounded at another scale, which moves each by up to 6 percent.
        assert (out.float() - near).norm() / spread.norm() < 0.07
        assert torch.equal(eight_bit_attention(q, k, v, whole, tile), out)
