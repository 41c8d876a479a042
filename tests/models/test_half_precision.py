"""float16, for cards without bfloat16: what would overflow is kept in float32."""

from __future__ import annotations

import pytest
import torch
from tests.models.dit_cases import Case
from torch import Tensor

from recurvid.caching.protocol import Blocks, CachedStep, Probe, Step
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.ops.modulation import gated, modulate, stream_type


def small_model(dtype: torch.dtype) -> tuple[PackedDiT, Case]:
    case = Case(4)
    torch.manual_seed(0)
    model = PackedDiT(case.config)
    model.load_state_dict(case.diffusers_model(sharp=False).state_dict())
    return model.to(dtype).eval().requires_grad_(False), case


def with_loud_residuals(model: PackedDiT) -> None:
    """Each block adds a few ten thousands to some channels, so that their sum leaves float16."""
    for block in model.transformer_blocks:
        for linear in (block.attn.to_out[0], block.ff.net[2]):  # type: ignore[union-attr]
            linear.bias[::3] += 40_000.0  # type: ignore[index]
        gates = block.norm1.linear.bias.view(6, -1)  # type: ignore[union-attr]
        gates[2] += 1.0
        gates[5] += 1.0


def test_residuals_may_leave_the_range_of_float16() -> None:
    exact, case = small_model(torch.float32)
    half, _ = small_model(torch.float16)
    with_loud_residuals(exact)
    with_loud_residuals(half)
    seen = Seen()
    want = case.run_ours(exact, case.inputs(), cache=CachedStep(seen, Step(0, 1, 1.0)))
    got = case.run_ours(half, case.inputs(torch.float16))
    assert seen.largest > 65_504
    assert torch.isfinite(got).all()
    assert (got - want).norm() < 0.02 * want.norm()


class Seen:
    """Stands where a step cache would, runs the blocks, and notes the largest number."""

    def __init__(self) -> None:
        self.computed: list[bool] = []
        self.largest = 0.0

    def run(self, step: Step, tokens: Tensor, probe: Probe, blocks: Blocks) -> Tensor:
        for tokens in blocks():
            self.largest = max(self.largest, float(tokens.abs().max()))
        return tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_other_types_stay_as_they_are(dtype: torch.dtype) -> None:
    assert stream_type(dtype) == dtype
    x, vector = torch.randn(1, 3, 8, dtype=dtype), torch.randn(1, 8, dtype=dtype)
    assert modulate(x, vector, vector).dtype == dtype
    assert torch.equal(gated(x, vector, x), x + vector[:, None] * x)


def test_layers_see_half_and_sums_are_wide() -> None:
    vector = torch.full((1, 8), 100.0).half()
    x = torch.full((1, 3, 8), 60_000.0)
    assert modulate(x, vector, vector).dtype == torch.float16
    update = torch.full((1, 3, 8), 1000.0).half()
    assert torch.equal(gated(x, vector, update), torch.full((1, 3, 8), 160_000.0))
