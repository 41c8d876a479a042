"""PackedDiT against diffusers' HunyuanVideoFramepackTransformer3DModel."""

from __future__ import annotations

import pytest
import torch
from dit_cases import Case, relative

from recurvid.models.packed_dit.model import PackedDiT

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("seed", range(24))
def test_output_equals_diffusers(seed):
    case = Case(seed)
    theirs, x = case.diffusers_model(), case.inputs()
    ours = PackedDiT(case.config)
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert relative(case.run_ours(ours, x), case.run_diffusers(theirs, x)) < 1e-5
