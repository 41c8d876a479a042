"""load_backbone: released layouts in, the same network out; anything else gets one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.layouts import (
    TRANSFORMER_CONFIG,
    transformer_state,
    write_large_transformer,
    write_single_file,
    write_transformer,
)
from torch import Tensor

from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.int8 import save_quantized
from recurvid.errors import CheckpointError
from recurvid.models.loading import find_config, load_backbone
from recurvid.models.packed_dit.config import PRESETS, PackedDiTConfig

STATE = transformer_state(5)
CONFIG = PackedDiTConfig.from_dict(TRANSFORMER_CONFIG)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_transformer(tmp_path, seed=5)
    return tmp_path


def write(path: Path, state: dict[str, Tensor], config: dict[str, Any] | None = None) -> Path:
    save_file({name: value.clone() for name, value in state.items()}, path)
    text = json.dumps(TRANSFORMER_CONFIG if config is None else config)
    (path.parent / "config.json").write_text(text)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_released_folder(folder: Path, dtype: torch.dtype) -> None:
    model = load_backbone(folder, dtype=dtype)
    state = model.state_dict()
    assert state.keys() == STATE.keys()
    for name, value in STATE.items():
        assert state[name].dtype == dtype
        assert torch.equal(state[name], value.to(dtype))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_config_comes_from_the_folder_the_metadata_or_the_argument(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save_file(STATE, path)
    assert find_config(open_checkpoint(path)) == PRESETS["13b"]
    with pytest.raises(CheckpointError, match="2 transformer_blocks, the configuration says 20"):
        load_backbone(path)
    assert load_backbone(path, config=CONFIG).config == CONFIG
    save_file(STATE, path, metadata={"config": json.dumps(TRANSFORMER_CONFIG)})
    assert load_backbone(path).config == CONFIG
    save_file(STATE, path)
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(CheckpointError, match=r"config\.json: not valid JSON"):
        load_backbone(path)
    (tmp_path / "one.json").write_text(json.dumps(TRANSFORMER_CONFIG))
    assert load_backbone(path).config == CONFIG


def test_bf16_stays_on_the_map(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    model = load_backbone(checkpoint, dtype=torch.bfloat16)
    for name, value in model.state_dict().items():
        assert value.data_ptr() == checkpoint.tensor(name).data_ptr()


def test_fp8_is_cast_up(tmp_path: Path) -> None:
    path = tmp_path / "FramePackI2V_HY_fp8_e4m3fn.safetensors"
    write_single_file(path, seed=5, dtype=torch.float8_e4m3fn)
    kinds = {value.dtype for value in load_file(path).values()}
    assert kinds == {torch.float8_e4m3fn, torch.bfloat16}
    state = load_backbone(path, dtype=torch.bfloat16, config=CONFIG).state_dict()
    for name, value in STATE.items():
        expected = value if "norm" in name else value.to(torch.float8_e4m3fn).bfloat16()
        assert torch.equal(state[name], expected)


def test_int8_storage(tmp_path: Path) -> None:
    config = {**TRANSFORMER_CONFIG, "_class_name": "PackedDiT"}
    save_quantized(STATE, tmp_path / "dit.safetensors")
    (tmp_path / "dit.json").write_text(json.dumps(config))
    state = load_backbone(tmp_path / "dit.safetensors").state_dict()
    assert all(value.dtype == torch.float32 for value in state.values())
    for name, value in STATE.items():
        scale = value.float().abs().max() / 127
        assert (state[name] - value.float()).abs().max() <= scale / 2 * 1.001


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "transformer.", "model."])
def test_repackaged_with_a_prefix(prefix: str, tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", {prefix + name: v for name, v in STATE.items()})
    state = load_backbone(path, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(state[name], value) for name, value in STATE.items())
    write(path, {**{prefix + name: v for name, v in STATE.items()}, "other": torch.ones(1)})
    with pytest.raises(CheckpointError, match="not expected: other"):
        load_backbone(path)


def _other(kind: str) -> dict[str, Tensor]:
    one = torch.ones(1)
    return {
        "plain HunyuanVideo": {n: v for n, v in STATE.items() if not n.startswith("clean_x")},
        "HunyuanVideo or FLUX": {"single_transformer_blocks.0.attn.to_q.weight": one},
        "Wan": {"blocks.0.self_attn.q.weight": one, "blocks.0.cross_attn.q.weight": one},
        "Wan model": {"blocks.0.attn1.to_q.weight": one, "blocks.0.attn2.to_q.weight": one},
        "Stable Diffusion": {"model.diffusion_model.input_blocks.0.0.weight": one},
        "a VAE": {"encoder.conv_in.weight": one, "decoder.conv_in.weight": one},
        "TAEHV": {"decoder.1.weight": one, "decoder.3.conv.0.weight": one},
        "a text encoder": {"layers.0.self_attn.q_proj.weight": one, "norm.weight": one},
        "text encoder": {"text_model.encoder.layers.0.mlp.fc1.weight": one},
        "an image encoder": {"vision_model.encoder.layers.0.mlp.fc1.weight": one},
        "original naming": {"double_blocks.0.img_attn_qkv.weight": one},
        "FLUX's original naming": {"diffusion_model.double_blocks.0.img_attn.qkv.weight": one},
        "a LoRA": {"lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight": one},
        "LoRA, not a whole model": {
            "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": one
        },
        "not a FramePack transformer": {"hello": one},
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["plain HunyuanVideo", "HunyuanVideo or FLUX", "Wan", "Wan model", "Stable Diffusion", "a VAE",
     "TAEHV", "a text encoder", "text encoder", "an image encoder", "original naming",
     "FLUX's original naming", "a LoRA", "LoRA, not a whole model", "not a FramePack transformer"],
)  # fmt: skip
def test_wrong_architecture_is_named(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", _other(kind))
    with pytest.raises(CheckpointError, match=kind) as caught:
        load_backbone(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_empty_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tensors"):
        load_backbone(write(tmp_path / "w.safetensors", {}))


def test_every_single_defect_names_tensor_and_file(tmp_path: Path) -> None:
    for name in list(STATE)[::11]:
        missing = {key: value for key, value in STATE.items() if key != name}
        path = write(tmp_path / "w.safetensors", missing)
        with pytest.raises(CheckpointError, match=rf"w\.safetensors.*missing: {name}"):
            load_backbone(path)
        odd = {**STATE, name: torch.ones(7, 3, dtype=torch.bfloat16)}
        path = write(tmp_path / "w.safetensors", odd)
        with pytest.raises(CheckpointError, match=rf"w\.safetensors: tensor {name} is \[7, 3\]"):
            load_backbone(path)


def test_unexpected_tensor(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", {**STATE, "extra.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"not expected: extra\.weight"):
        load_backbone(path)


def test_integers_where_weights_belong(tmp_path: Path) -> None:
    name = "proj_out.bias"
    codes = torch.ones(STATE[name].shape, dtype=torch.int64)
    path = write(tmp_path / "w.safetensors", {**STATE, name: codes})
    with pytest.raises(CheckpointError, match=rf"tensor {name} holds int64"):
        load_backbone(path)


def test_truncated_shard(folder: Path) -> None:
    shard = folder / "diffusion_pytorch_model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"00002-of-00003\.safetensors: truncated at tensor"):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("num_layers", 10**9, "2 transformer_blocks, the configuration says 1000000000"),
        ("num_single_layers", 4, "3 single_transformer_blocks, the configuration says 4"),
        ("num_refiner_layers", 10**9, "1 context_embedder.token_refiner.refiner_blocks"),
        ("num_attention_heads", 10**12, r"config|makes no model|is \["),
        ("num_attention_heads", "many", "config"),
        ("rope_axes_dim", [1, 2], "config"),
        ("text_embed_dim", 48, r"linear_1\.weight is \[32, 32\], the model needs \[32, 48\]"),
        ("_class_name", "WanTransformer3DModel", "WanTransformer3DModel"),
        ("patch_size", 4, "patch_size must be 2"),
    ],
)
def test_config_that_lies(field: str, value: Any, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", STATE, {**TRANSFORMER_CONFIG, field: value})
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_backbone(path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


_LOAD_LARGE = """
import sys, time
import psutil, torch
from recurvid.models.loading import load_backbone
process = psutil.Process()
before, start = process.memory_info().rss, time.perf_counter()
model = load_backbone(sys.argv[1], dtype=torch.bfloat16)
print(time.perf_counter() - start, process.memory_info().rss - before,
      sum(p.numel() for p in model.parameters()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files there are not sparse by default")
def test_13b_backbone_loads_without_reading_it(tmp_path: Path) -> None:
    """diffusers' names and shapes at full size fill our model, on the map."""
    write_large_transformer(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", _LOAD_LARGE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, grown, count = map(float, run.stdout.split())
    assert count == 12_874_314_816
    assert grown < 100e6
    assert seconds < 5
    for shard in tmp_path.glob("*.safetensors"):
        shard.unlink()
