from __future__ import annotations

import pytest
import torch

from recurvid.ops.modulation import gated, modulate


@pytest.mark.parity
def test_modulate_equals_diffusers_ada_layer_norm():
    from diffusers.models.normalization import AdaLayerNormZeroSingle

    torch.manual_seed(0)
    theirs = AdaLayerNormZeroSingle(12)
    x, temb = torch.randn(2, 5, 12), torch.randn(2, 12)
    expected, gate = theirs(x, emb=temb)
    shift, scale, ours = theirs.linear(torch.nn.functional.silu(temb)).chunk(3, dim=1)
    assert torch.allclose(modulate(x, shift, scale), expected, atol=1e-6)
    assert torch.equal(gate, ours)


def test_modulate_on_numbers_written_out():
    x = torch.tensor([[[1.0, 3.0]]], dtype=torch.float64)  # normalised: -1, 1
    out = modulate(x, torch.tensor([[10.0, 20.0]]), torch.tensor([[0.0, 1.0]]))
    assert torch.allclose(out, torch.tensor([[[9.0, 22.0]]], dtype=torch.float64), atol=1e-5)


def test_gated():
    x, update = torch.ones(2, 3, 4), torch.full((2, 3, 4), 2.0)
    gate = torch.tensor([[0.0] * 4, [0.5] * 4])
    assert torch.equal(gated(x, gate, update)[0], x[0])
    assert torch.equal(gated(x, gate, update)[1], x[1] + 1)
