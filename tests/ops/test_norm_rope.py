"""Norm and phases in one kernel, in Triton's interpreter where there is no card."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from recurvid.ops.norm_rope import AVAILABLE, Stream, can_turn, norm_and_turn, norm_rope
from recurvid.ops.rope import RopeTable, apply_rope

needs_triton = pytest.mark.skipif(not AVAILABLE, reason="Triton is not installed")

PROGRAM = """
import torch, torch.nn.functional as F
from recurvid.models.packed_dit import blocks
from recurvid.ops.attention.sdpa import SDPA
from recurvid.ops.norm_rope import Stream, norm_rope
from recurvid.ops.rope import RopeTable, apply_rope
torch.manual_seed(0)
for b, n, l, heads, d, rows in ((1, 37, 5, 3, 16, 1), (2, 16, 0, 9, 32, 1), (2, 20, 7, 8, 8, 2)):
    x, y = torch.randn(b, n, heads, d) * 3, torch.randn(b, l, heads, d)
    w, u = torch.rand(d) + 0.5, torch.rand(d) + 0.5
    table = RopeTable(torch.randn(rows, n + l, d // 2), torch.randn(rows, n + l, d // 2))
    want = F.rms_norm(x, (d,), w, 1e-6)
    if l:
        want = torch.cat([want, F.rms_norm(y, (d,), u, 1e-6)], dim=1)
    got = norm_rope(Stream(x, w), Stream(y, u) if l else None, table)
    assert torch.allclose(got, apply_rope(want, table), atol=1e-5), (b, n, l)
torch.set_grad_enabled(False)
single, double = blocks.SingleBlock(2, 32, 256), blocks.DoubleBlock(2, 32, 256)
x, text, temb = torch.randn(1, 20, 64), torch.randn(1, 18, 64), torch.randn(1, 64)
def run():
    shared = [blocks.BlockInputs(RopeTable(torch.rand(1, n, 16), torch.rand(1, n, 16)), None,
                                 SDPA, temb) for n in (20, 38)]
    return (single(x, shared[0]), *double(x, text, shared[1]))
torch.manual_seed(1); plain = run()
calls = []
blocks.can_turn = lambda q: calls.append(1) or True
single.fused = double.attn.fused = True
torch.manual_seed(1)
for got, want in zip(run(), plain):
    assert torch.allclose(got, want, atol=1e-5), (got - want).abs().max()
assert len(calls) == 2
print("equal")
"""


@needs_triton
def test_kernel_in_the_interpreter():
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip() == "equal", said.stderr[-2000:]


def test_shapes_are_known_without_running():
    with torch.device("meta"):
        x, y = torch.empty(2, 9, 3, 32), torch.empty(2, 4, 3, 32)
        w, table = torch.empty(32), torch.empty(1, 13, 16)
        assert norm_and_turn(x, w, y, w, table, table).shape == (2, 13, 3, 32)
        assert norm_and_turn(x, w, None, None, table, table).shape == (2, 9, 3, 32)


def test_off_a_card_the_plain_path_runs():
    assert not can_turn(torch.empty(1, 4, 2, 128, dtype=torch.bfloat16))


@needs_triton
@pytest.mark.gpu
def test_kernel_on_a_card():
    g = torch.Generator("cuda").manual_seed(0)
    x, y = (torch.randn(1, n, 24, 128, device="cuda", generator=g) for n in (1003, 77))
    w = torch.rand(128, device="cuda") + 0.5
    table = RopeTable(*(torch.randn(1, 1080, 64, device="cuda", generator=g) for _ in range(2)))
    want = apply_rope(F.rms_norm(torch.cat([x, y], dim=1), (128,), w, 1e-6), table)
    with torch.no_grad():
        got = norm_rope(Stream(x.bfloat16(), w), Stream(y.bfloat16(), w), table).float()
    assert ((got - want).norm() / want.norm()).item() < 5e-3
