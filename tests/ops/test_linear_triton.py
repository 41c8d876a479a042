"""Our int8 kernel, in Triton's interpreter where there is no card (and only where Triton is)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recurvid.ops.linear.epilogues import can_fuse, linear_gelu, linear_of_two, sum_of_products
from recurvid.ops.linear.layers import EightBitLinear, int8
from recurvid.ops.linear.products import int8_product
from recurvid.ops.linear.tma_int8 import int8_tma_linear, int8_tma_product
from recurvid.ops.linear.triton_int8 import AVAILABLE, int8_fused_product, int8_linear

needs_triton = pytest.mark.skipif(not AVAILABLE, reason="Triton is not installed")

PROGRAM = """
import torch
import torch.nn.functional as F
from recurvid.ops.linear.tma_int8 import int8_tma_linear
from recurvid.ops.linear.triton_int8 import int8_linear
g = torch.Generator().manual_seed(0)
for m, n, k in ((37, 70, 96), (5, 33, 80), (64, 64, 64), (1, 8, 16)):
    x = torch.randint(-127, 128, (m, k), generator=g, dtype=torch.int8)
    w = torch.randint(-127, 128, (n, k), generator=g, dtype=torch.int8)
    xs, ws = torch.rand(m, 1, generator=g) / 500, torch.rand(n, 1, generator=g) / 500
    b = torch.randn(n, generator=g)
    plain = (x.double() @ w.double().t()) * xs.double() * ws.double().t()
    for bias in (None, b):
        want = plain if bias is None else plain + bias.double()
        got = int8_linear(x, xs, w, ws, bias, torch.float32, False)
        assert torch.allclose(got.double(), want, rtol=1e-5, atol=1e-5), (m, n, k)
        if k % 16 == 0:
            got = int8_tma_linear(x, xs, w, ws, bias, torch.float32)
            assert torch.allclose(got.double(), want, rtol=1e-5, atol=1e-5), (m, n, k)
        got = int8_linear(x, xs, w, ws, bias, torch.float32, True)
        bent = F.gelu(want, approximate="tanh")
        assert torch.allclose(got.double(), bent, rtol=1e-4, atol=1e-5), (m, n, k)
print("equal")
"""


ROUNDING = """
import torch
import torch.nn.functional as F
from recurvid.models.packed_dit import blocks
from recurvid.ops.attention.sdpa import SDPA
from recurvid.ops.linear.layers import int8
from recurvid.ops.linear.triton_int8 import round_rows
from recurvid.ops.rope import RopeTable
torch.manual_seed(0)
for m, ka, kb in ((5, 12, 40), (3, 0, 64), (7, 96, 160)):
    a, b = torch.randn(m, ka) if ka else None, 3 * torch.randn(m, kb)
    for gelu in (True, False):
        codes, scale = round_rows(a, b, gelu)
        want = F.gelu(b, approximate="tanh") if gelu else b
        want = want if a is None else torch.cat([a, want], dim=1)
        assert ((codes * scale - want).abs() <= 0.501 * scale).all(), (m, ka, kb, gelu)
        assert (codes.abs().amax(1) == 127).all()
codes, scale = round_rows(None, torch.zeros(2, 16), True)
assert not codes.any() and scale.isfinite().all()
# The same in whole blocks: one kernel instead of GELU, joining and rounding.
torch.set_grad_enabled(False)
single, double = blocks.SingleBlock(2, 32, 256), blocks.DoubleBlock(2, 32, 256)
for part, names in ((single.attn, ("to_q", "to_k", "to_v")), (single, ("proj_mlp", "proj_out")),
                    (double.ff.net[0], ("proj",)), (double.ff.net, ("2",))):
    for name in names:
        setattr(part, name, int8(getattr(part, name)))
x, text, temb = torch.randn(1, 20, 64), torch.randn(1, 18, 64), torch.randn(1, 64)
def run():
    shared = [blocks.BlockInputs(RopeTable(torch.ones(1, n, 16), torch.zeros(1, n, 16)), None,
                                 SDPA, temb) for n in (20, 38)]
    return (single(x, shared[0]), *double(x, text, shared[1]))
plain = run()
calls = []
real, blocks.rounds_in_one = blocks.rounds_in_one, lambda layer, x: hasattr(layer, "rounded")
made, blocks.after_gelu = blocks.after_gelu, lambda *a: calls.append(1) or made(*a)
for part in (single, double.ff.net[0]):
    part.fused = True
for got, want in zip(run(), plain):
    assert ((got - want).norm() / want.norm()) < 2e-3
assert len(calls) == 2
print("equal")
"""


@needs_triton
@pytest.mark.parametrize("program", [PROGRAM, ROUNDING], ids=["product", "rounding"])
def test_kernels_in_the_interpreter(program):
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip() == "equal", said.stderr[-2000:]


@needs_triton
@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1037, 512, 3072), (789, 3072, 512), (17, 64, 15360)], ids=str)
def test_kernel_on_a_card(shape):
    m, n, k = shape
    x = torch.randint(-127, 128, (m, k), dtype=torch.int8, device="cuda")
    w = torch.randint(-127, 128, (n, k), dtype=torch.int8, device="cuda")
    xs, ws = (torch.rand(rows, 1, device="cuda") / 500 for rows in (m, n))
    want = (x.double() @ w.double().t()) * xs.double() * ws.double().t()
    for got in (
        int8_linear(x, xs, w, ws, None, torch.float32, False),
        int8_tma_linear(x, xs, w, ws, None, torch.float32),
    ):
        assert ((got - want).norm() / want.norm()).item() < 1e-6


def test_shapes_are_known_without_running():
    with torch.device("meta"):
        x, w = torch.empty(9, 32, dtype=torch.int8), torch.empty(6, 32, dtype=torch.int8)
        out = int8_linear(x, torch.empty(9, 1), w, torch.empty(6, 1), None, torch.float16, False)
    assert (out.shape, out.dtype) == ((9, 6), torch.float16)


def test_without_a_card_torch_multiplies():
    layer = int8(nn.Linear(64, 32).requires_grad_(False))
    assert isinstance(layer, EightBitLinear)
    x = torch.randn(20, 64)
    before = layer(x)
    assert layer.product is None
    for product in (int8_product, int8_fused_product, int8_tma_product):
        layer.product = product
        assert torch.equal(layer(x), before)


def test_sum_of_two_products_is_the_product_of_both():
    layer = nn.Linear(96, 40).requires_grad_(False)
    a, b = torch.randn(2, 9, 32), torch.randn(2, 9, 64)
    whole = layer(torch.cat([a, b], dim=-1))
    assert torch.allclose(sum_of_products(layer, a, b), whole, atol=1e-5)
    assert torch.equal(linear_of_two(layer, a, b), whole)


def test_gelu_is_left_alone_where_the_library_bends_otherwise():
    # On a CPU torch's own product bends with erf, not with tanh.
    layer, x = nn.Linear(16, 8).requires_grad_(False), torch.randn(3, 5, 16)
    assert not can_fuse(layer, x)
    assert torch.equal(linear_gelu(layer, x), F.gelu(layer(x), approximate="tanh"))


@pytest.mark.gpu
def test_gelu_in_the_product_is_the_tanh_one():
    layer = nn.Linear(256, 128, device="cuda", dtype=torch.bfloat16).requires_grad_(False)
    x = 3 * torch.randn(2, 300, 256, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        assert can_fuse(layer, x)
        got = linear_gelu(layer, x).double()
    straight = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    want = F.gelu(straight, approximate="tanh")
    assert ((got - want).norm() / want.norm()).item() < 5e-3
