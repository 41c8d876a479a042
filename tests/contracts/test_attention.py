"""Every attention kernel of the registry against the reference.

A new kernel is tested by being in the registry. What it refuses is skipped, with its reason.
"""

from __future__ import annotations

import pytest
import torch

from recurvid.ops.attention.backend import AttentionSpec
from recurvid.ops.attention.reference import REFERENCE
from recurvid.ops.attention.registry import ATTENTION

# Relative L2 error allowed against fp32 attention on the same rounded inputs.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
EIGHT_BIT_TOLERANCE = 0.1
SHAPES = [  # b, queries, keys, heads, head_dim
    (1, 1, 1, 1, 16),
    (1, 7, 7, 3, 64),
    (2, 33, 65, 2, 128),
    (3, 130, 130, 5, 64),
    (1, 12, 40, 2, 20),
]


def left_out(name: str, device: str) -> str | None:
    """Why a kernel can serve no call at all on a device; None if it serves some."""
    reasons = [ATTENTION[name].why_not(AttentionSpec(device, dtype, 64)) for dtype in TOLERANCE]
    return None if None in reasons else reasons[-1]


ON_CPU = [(name, "cpu") for name in ATTENTION if left_out(name, "cpu") is None]
ON_CUDA = [pytest.param(name, "cuda", marks=pytest.mark.gpu) for name in ATTENTION]
EACH = pytest.mark.parametrize(("name", "device"), [*ON_CPU, *ON_CUDA])


def draw(shape, dtype, device, seed=0):
    b, n, m, h, d = shape
    g = torch.Generator().manual_seed(seed)
    sizes = ((b, n, h, d), (b, m, h, d), (b, m, h, d))
    return [torch.randn(*s, generator=g).to(device, dtype) for s in sizes]


def masks(shape, device):
    b, _, m, _, _ = shape
    keep = torch.tensor([max(1, m - 3 * (i + 1)) for i in range(b)], device=device)
    yield None
    yield torch.arange(m, device=device)[None] < keep[:, None]
    holes = torch.rand(b, m, generator=torch.Generator().manual_seed(1)).to(device) < 0.5
    holes[:, m // 2] = True
    yield holes


def usable(name, q, mask):
    if (reason := ATTENTION[name].why_not(AttentionSpec.of(q, mask))) is not None:
        pytest.skip(f"{name}: {reason}")
    return ATTENTION[name]


@EACH
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mask", range(3), ids=["whole", "padded", "holes"])
def test_equals_reference(name, device, dtype, shape, mask):
    q, k, v = draw(shape, dtype, device)
    mask = list(masks(shape, device))[mask]
    out = usable(name, q, mask)(q, k, v, mask)
    expected = REFERENCE(q.float(), k.float(), v.float(), mask)
    assert out.dtype == dtype
    assert out.shape == q.shape
    error = (out.float() - expected).norm() / expected.norm()
    assert error < (TOLERANCE[dtype] if ATTENTION[name].exact else EIGHT_BIT_TOLERANCE)


@EACH
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal_reference(name, device, masked):
    shape = (2, 9, 14, 2, 32)
    mask = list(masks(shape, device))[2] if masked else None
    found = []
    for backend in (None, REFERENCE):
        tensors = [x.requires_grad_() for x in draw(shape, torch.float32, device)]
        backend = backend or usable(name, tensors[0], mask)
        q, k, v = tensors
        backend(q, k, v, mask).square().sum().backward()
        found.append([x.grad for x in tensors])
    for got, expected in zip(*found, strict=True):
        assert (got - expected).norm() / expected.norm() < 1e-5


@EACH
def test_masked_keys_are_not_read(name, device):
    shape = (2, 9, 14, 2, 32)
    q, k, v = draw(shape, torch.float32, device)
    mask = list(masks(shape, device))[1]
    backend = usable(name, q, mask)
    assert mask is not None
    before = backend(q, k, v, mask)
    k[~mask], v[~mask] = 1e3, -1e3
    assert torch.equal(backend(q, k, v, mask), before)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ATTENTION)
def test_refuses_whole_numbers_with_a_reason(name, device):
    spec = AttentionSpec(device, torch.int64, 64)
    assert "int64" in (ATTENTION[name].why_not(spec) or "")


@pytest.mark.parametrize("name", ATTENTION)
def test_runs_here(name):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if (reason := left_out(name, device)) is not None:
        pytest.skip(f"{name}: {reason}")


def test_kernels_that_need_nothing_run_on_the_cpu():
    assert {name for name, _ in ON_CPU} == {"sdpa", "torch-flash", "reference"}
