from __future__ import annotations

import json
from dataclasses import fields

import pytest

from recurvid.errors import CheckpointError, InputError
from recurvid.models.packed_dit.config import PRESETS, PackedDiTConfig, parse_kernel

RELEASED = json.loads("""{
  "_class_name": "HunyuanVideoTransformer3DModelPacked",
  "_diffusers_version": "0.33.0.dev0",
  "_name_or_path": "hunyuanvideo-community/HunyuanVideo",
  "attention_head_dim": 128, "guidance_embeds": true, "has_clean_x_embedder": true,
  "has_image_proj": true, "image_proj_dim": 1152, "in_channels": 16, "mlp_ratio": 4.0,
  "num_attention_heads": 24, "num_layers": 20, "num_refiner_layers": 2, "num_single_layers": 40,
  "out_channels": 16, "patch_size": 2, "patch_size_t": 1, "pooled_projection_dim": 768,
  "qk_norm": "rms_norm", "rope_axes_dim": [16, 56, 56], "rope_theta": 256.0,
  "text_embed_dim": 4096
}""")


def test_released_config_is_the_13b_preset():
    assert PackedDiTConfig.from_dict(RELEASED) == PRESETS["13b"]


def test_diffusers_config_is_read():
    values = {**RELEASED, "_class_name": "HunyuanVideoFramepackTransformer3DModel"}
    assert PackedDiTConfig.from_dict({**values, "image_condition_type": None}) == PRESETS["13b"]


def test_field_names_are_the_released_ones():
    ours = {f.name for f in fields(PackedDiTConfig)} - {"context_kernels"}
    theirs = {k for k in RELEASED if not k.startswith("_")}
    assert theirs - ours == {"patch_size", "patch_size_t", "qk_norm"}
    assert ours <= theirs


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    config = PRESETS[name]
    assert PackedDiTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_is_written_holds_the_released_fields():
    written = json.loads(json.dumps(PRESETS["13b"].to_dict()))
    assert {k: written[k] for k in RELEASED if not k.startswith("_")} == {
        k: v for k, v in RELEASED.items() if not k.startswith("_")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "WanTransformer3DModel"}, "WanTransformer3DModel"),
        ({"patch_size": 1}, "patch_size must be 2, not 1"),
        ({"qk_norm": "layer_norm"}, "qk_norm"),
        ({"image_condition_type": "token_replace"}, "image_condition_type.*token_replace"),
        ({"cross_attention_dim": 3}, "unknown field cross_attention_dim"),
        ({"num_layers": "20"}, "num_layers"),
        ({"num_layers": -1}, "num_layers"),
        ({"in_channels": 0}, "in_channels"),
        ({"num_attention_heads": True}, "num_attention_heads"),
        ({"rope_axes_dim": 16}, "rope_axes_dim"),
        ({"rope_axes_dim": [16, 56, 58]}, "add up to"),
        ({"rope_axes_dim": [15, 57, 56]}, "even"),
        ({"rope_axes_dim": [16, 112]}, "three"),
        ({"context_kernels": ["k4h3w3"]}, "context kernel 'k4h3w3'"),
        ({"mlp_ratio": "4"}, "mlp_ratio"),
        ({"guidance_embeds": 7}, "guidance_embeds"),
    ],
)
def test_what_is_not_this_architecture_is_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        PackedDiTConfig.from_dict({**RELEASED, **change})


def test_a_config_made_in_code_is_checked_too():
    with pytest.raises(InputError, match="add up to"):
        PackedDiTConfig(attention_head_dim=64)


@pytest.mark.parametrize(
    ("text", "size"),
    [("k1", (1, 2, 2)), ("k4", (4, 8, 8)), ("k16", (16, 32, 32)), ("k2h4w8", (2, 4, 8))],
)
def test_kernels(text, size):
    kernel = parse_kernel(text)
    assert (kernel.t, kernel.h, kernel.w) == size


@pytest.mark.parametrize("text", ["4", "k0", "k4h8", "k2h3w4", "k1x", "", "k-1", "k²"])
def test_malformed_kernels(text):
    with pytest.raises(InputError, match="context kernel"):
        parse_kernel(text)
