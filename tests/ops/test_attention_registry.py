from __future__ import annotations

import math

import pytest
import torch

from recurvid.errors import ComponentError
from recurvid.ops.attention.backend import AttentionSpec
from recurvid.ops.attention.reference import REFERENCE
from recurvid.ops.attention.registry import ATTENTION, AUTO, attention_backend

SPEC = AttentionSpec("cpu", torch.float32, 64)


def test_reference_on_numbers_written_out():
    # One head of two channels: scores are 0 and ln 3 after scaling by 1 / sqrt(2).
    q = torch.tensor([[[[math.sqrt(2.0), 0.0]]]], dtype=torch.float64)
    k = torch.tensor([[[[0.0, 5.0]], [[math.log(3.0), -2.0]]]], dtype=torch.float64)
    v = torch.tensor([[[[4.0, 0.0]], [[8.0, 1.0]]]], dtype=torch.float64)
    expected = torch.tensor([0.25 * 4 + 0.75 * 8, 0.75], dtype=torch.float64)
    assert torch.allclose(REFERENCE(q, k, v)[0, 0, 0], expected)
    only_first = torch.tensor([[True, False]])
    assert torch.equal(REFERENCE(q, k, v, only_first)[0, 0, 0], v[0, 0, 0])


def test_names_are_keys():
    assert all(name == backend.name for name, backend in ATTENTION.items())


def test_auto_takes_the_first_that_can():
    # No CUDA in this spec: cuDNN is passed over.
    assert attention_backend("auto", SPEC).name == "sdpa"


def test_auto_never_takes_fewer_bits():
    assert all(backend.exact for backend in AUTO)
    assert not ATTENTION["sage"].exact
    assert not ATTENTION["cudnn-fp8"].exact


def test_a_name_is_taken_as_asked():
    assert attention_backend("reference", SPEC) is REFERENCE


def test_unknown_name():
    with pytest.raises(ComponentError, match=r"'warp'; known: auto, .*sdpa"):
        attention_backend("warp", SPEC)


def test_forced_kernel_says_why_not():
    spec = AttentionSpec("cpu", torch.int32, 64)
    with pytest.raises(ComponentError, match=r"'sdpa' cannot be used here: .*int32"):
        attention_backend("sdpa", spec)
    with pytest.raises(ComponentError, match="no attention kernel"):
        attention_backend("auto", spec)


def test_spec_of_a_call():
    q = torch.zeros(2, 3, 4, 16, dtype=torch.bfloat16, requires_grad=True)
    mask = torch.ones(2, 3, dtype=torch.bool)
    expected = AttentionSpec("cpu", torch.bfloat16, 16, masked=True, grad=True)
    assert AttentionSpec.of(q, mask) == expected
    with torch.no_grad():
        assert not AttentionSpec.of(q, None).grad
