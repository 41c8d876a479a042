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
from recurvid.ops.linear.triton_int8 import AVAILABLE, int8_fused_product, int8_linear

needs_triton = pytest.mark.skipif(not AVAILABLE, reason="Triton is not installed")

PROGRAM = """
import torch
import torch.nn.functional as F
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
        got = int8_linear(x, xs, w, ws, bias, torch.float32, True)
        bent = F.gelu(want, approximate="tanh")
        assert torch.allclose(got.double(), bent, rtol=1e-4, atol=1e-5), (m, n, k)
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


@needs_triton
@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1037, 512, 3072), (789, 3072, 512), (17, 64, 15360)], ids=str)
def test_kernel_on_a_card(shape):
    m, n, k = shape
    x = torch.randint(-127, 128, (m, k), dtype=torch.int8, device="cuda")
    w = torch.randint(-127, 128, (n, k), dtype=torch.int8, device="cuda")
    xs, ws = (torch.rand(rows, 1, device="cuda") / 500 for rows in (m, n))
    got = int8_linear(x, xs, w, ws, None, torch.float32, False)
    want = (x.double() @ w.double().t()) * xs.double() * ws.double().t()
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
    assert layer.product is int8_product
    layer.product = int8_fused_product
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
