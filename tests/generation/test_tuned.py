"""How a machine runs a backbone: attention kernel, form of weights, compilation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from recurvid.errors import ComponentError, InputError, SessionError
from recurvid.generation.fingerprint import refuse_changes
from recurvid.generation.runtime import Runtime
from recurvid.generation.tuned import attention_for, load_tuned
from recurvid.models.packed_dit.config import PackedDiTConfig
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.reference import REFERENCE
from recurvid.ops.attention.sdpa import SDPA
from recurvid.ops.linear.forms import form_named
from recurvid.ops.linear.layers import EightBitLinear

CONFIG = PackedDiTConfig(
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=1,
    num_single_layers=1,
    num_refiner_layers=1,
    text_embed_dim=12,
    pooled_projection_dim=8,
    has_image_proj=False,
    guidance_embeds=False,
    rope_axes_dim=(4, 6, 6),
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path / "dit.safetensors"
    save_file(PackedDiT(CONFIG).state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps(CONFIG.to_dict()))
    return path


def load(path: Path, runtime: Runtime) -> PackedDiT:
    attention = attention_for(runtime, CONFIG, torch.float32)
    return load_tuned(path, torch.float32, runtime, attention)


def test_as_the_file_has_it(weights):
    model = load(weights, Runtime.of("cpu"))
    assert model.attention is SDPA
    assert not any(isinstance(m, EightBitLinear) for m in model.modules())


def test_what_was_asked_is_what_runs(weights):
    model = load(weights, Runtime.of("cpu", attention="reference", weights="int8"))
    assert model.attention is REFERENCE
    assert isinstance(model.get_submodule("transformer_blocks.0.attn.to_q"), EightBitLinear)
    assert isinstance(model.get_submodule("single_transformer_blocks.0.proj_out"), EightBitLinear)
    assert type(model.proj_out) is nn.Linear
    assert type(model.norm_out.linear) is nn.Linear


def test_a_model_uses_its_own_kernel_and_a_call_may_name_another(weights):
    from recurvid.conditioning import Conditioning
    from recurvid.latents import LatentFrames
    from recurvid.packing.pack import PackedContext

    calls: list[str] = []

    def counting(name: str) -> AttentionBackend:
        def attend(q, k, v, mask):
            calls.append(name)
            return SDPA(q, k, v, mask)

        return AttentionBackend(name, attend, lambda _: None)

    model = load(weights, Runtime.of("cpu"))
    model.attention = counting("own")
    conditioning = Conditioning(
        text=torch.randn(1, 3, 12), text_mask=torch.ones(1, 3).bool(), pooled=torch.randn(1, 8)
    )
    target = LatentFrames.of(torch.randn(1, 4, 1, 4, 4), [0])
    inputs = (target, torch.ones(1), conditioning, PackedContext(()))
    model(*inputs)
    assert set(calls) == {"own"}
    calls.clear()
    model(*inputs, attention=counting("named"))
    assert set(calls) == {"named"}


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"attention": "cudnn"}, "'cudnn' cannot be used here: it takes float16, bfloat16"),
    ],
)
def test_kernels_that_cannot_are_refused_before_anything_is_loaded(asked, why):
    with pytest.raises(ComponentError, match=why):
        attention_for(Runtime.of("cpu", **asked), CONFIG, torch.float32)


def test_forms_that_cannot_are_refused_with_the_runtime():
    with pytest.raises(ComponentError, match="'fp8' cannot be used here: mps has no fp8 products"):
        form_named("fp8", torch.device("mps"))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"attention": "warp"}, "unknown attention kernel 'warp'; known: auto, cudnn"),
        ({"weights": "int3"}, "'int3' are unknown; known: int8"),
        ({"dtype": "int3"}, "dtype 'int3' is unknown"),
        ({"device": "abacus"}, "device 'abacus' is unknown"),
    ],
)
def test_unknown_names_are_wrong_input(asked, why):
    with pytest.raises(InputError, match=why):
        Runtime.of(**asked)


@pytest.mark.parametrize(
    "changed", [{"weights": "int8"}, {"attention": "reference"}, {"compiled": True}], ids=str
)
def test_a_session_does_not_go_on_in_other_numbers(changed):
    before, now = Runtime.of("cpu").numerics(), Runtime.of("cpu", **changed).numerics()
    with pytest.raises(SessionError, match="begun with something else"):
        refuse_changes(before, now, Path("folder"))
    refuse_changes(now, Runtime.of("cpu", **changed).numerics(), Path("folder"))
