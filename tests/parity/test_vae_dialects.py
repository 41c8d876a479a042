"""The Hunyuan VAE in the files that people have, each against the folder that diffusers wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.vae.tiny_vae import tiny_hunyuan
from torch import Tensor

from recurvid.checkpoints.dialects import HUNYUAN_VAE_LDM, hunyuan_vae
from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.known import KNOWN
from recurvid.checkpoints.locate import find
from recurvid.errors import CheckpointError
from recurvid.vae import hunyuan
from recurvid.vae.hunyuan import load_hunyuan, read_geometry

pytestmark = pytest.mark.parity

#: What ComfyUI does to diffusers' names when it saves a VAE, one step after the other.
COMFY = [
    (r"(encoder)\.down_blocks\.(\d)\.resnets\.(\d)\.", r"\1.down.\2.block.\3."),
    (r"(encoder)\.down_blocks\.(\d)\.downsamplers\.0\.", r"\1.down.\2.downsample."),
    (r"mid_block\.resnets\.0\.", "mid.block_1."),
    (r"mid_block\.resnets\.1\.", "mid.block_2."),
    (r"mid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
    (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
    (r"mid_block\.attentions\.0\.to_out\.0\.", "mid.attn_1.proj_out."),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
]


def as_comfy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for old, new in COMFY:
            name = re.sub(old, new, name)
        if match := re.match(r"decoder\.up_blocks\.(\d)\.(resnets\.(\d)|upsamplers\.0)\.", name):
            level = 3 - int(match[1])
            part = "upsample" if match[3] is None else f"block.{match[3]}"
            name = f"decoder.up.{level}.{part}.{name[match.end() :]}"
        attention = re.search(r"mid\.attn_1\.(q|k|v|proj_out)\.weight", name)
        renamed[name] = value[..., None, None, None].contiguous() if attention else value
    return renamed


def as_trained(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"vae.{name}": value for name, value in state.items()} | {"loss.logvar": torch.ones(1)}


DIALECTS = {"kijai": dict, "comfy": as_comfy, "trained": as_trained}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    vae = tiny_hunyuan(seed=9, attention=True)
    vae.save_pretrained(tmp_path / "vae")
    config = {key: vae.config[key] for key in vae.config if not key.startswith("_")}
    monkeypatch.setattr(hunyuan, "_RELEASED", config)
    return tmp_path / "vae"


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_a_single_file_decodes_as_the_folder(folder: Path, dialect):
    file = folder.parent / "hunyuan_video_vae_fp32.safetensors"
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert any("attentions" in name for name in state)
    save_file(dialect(state), file)
    expected, got = load_hunyuan(folder), load_hunyuan(file)
    latents, pixels = torch.randn(1, 4, 3, 2, 2), torch.rand(1, 3, 5, 16, 16)
    assert torch.equal(got.decode(latents), expected.decode(latents))
    assert torch.equal(got.encode(pixels), expected.encode(pixels))
    assert read_geometry(file) == read_geometry(folder)


def released() -> dict[str, Tensor]:
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import (
        AutoencoderKLHunyuanVideo,
    )

    with torch.device("meta"):
        return AutoencoderKLHunyuanVideo().state_dict()


def test_every_name_of_the_released_vae_goes_both_ways(tmp_path: Path):
    state = {name: torch.zeros([1] * value.ndim) for name, value in released().items()}
    assert len(state) == 248
    comfy = as_comfy(state)
    assert not any("_block" in name for name in comfy if ".block_" not in name)
    save_file(comfy, tmp_path / "comfy.safetensors")
    save_file(state, tmp_path / "plain.safetensors")
    native = hunyuan_vae(open_checkpoint(tmp_path / "comfy.safetensors"))
    assert {n: native.shape(n) for n in native.keys()} == {n: v.shape for n, v in state.items()}  # noqa: SIM118
    back = HUNYUAN_VAE_LDM.reversed().apply(open_checkpoint(tmp_path / "plain.safetensors"))
    assert {n: back.tensor(n).shape for n in back.keys()} == {n: v.shape for n, v in comfy.items()}  # noqa: SIM118


def test_without_a_configuration_it_is_the_released_one(tmp_path: Path):
    file = tmp_path / "vae.safetensors"
    file.touch()
    assert read_geometry(file).channels == 16
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import (
        AutoencoderKLHunyuanVideo,
    )

    with torch.device("meta"):
        ours = AutoencoderKLHunyuanVideo(**hunyuan.read_config(file))
    assert {n: v.shape for n, v in ours.state_dict().items()} == {
        n: v.shape for n, v in released().items()
    }
    assert ours.config["scaling_factor"] == 0.476986


def test_attention_that_is_no_convolution_of_one(folder: Path):
    file = folder.parent / "vae.safetensors"
    comfy = as_comfy(load_file(folder / "diffusion_pytorch_model.safetensors"))
    comfy["encoder.mid.attn_1.q.weight"] = torch.zeros(4, 4, 3, 1, 1)
    save_file(comfy, file)
    with pytest.raises(CheckpointError, match=r"attn_1\.q\.weight \[4, 4, 3, 1, 1\] does not end"):
        load_hunyuan(file)


def test_a_file_of_another_model_is_refused(folder: Path):
    file = folder.parent / "vae.safetensors"
    save_file({"decoder.conv1.weight": torch.zeros(4)}, file)
    with pytest.raises(CheckpointError, match="do not match the model"):
        load_hunyuan(file)


@pytest.mark.parametrize("name", ["hunyuan_video_vae_bf16", "hunyuan_video_vae_fp32"])
@pytest.mark.parametrize("where", ["", "vae"])
def test_it_is_found_by_its_name(tmp_path: Path, name: str, where: str):
    file = tmp_path / where / f"{name}.safetensors"
    file.parent.mkdir(exist_ok=True)
    file.touch()
    (tmp_path / "vae").mkdir(exist_ok=True)
    assert find(KNOWN["framepack"].component("vae"), (tmp_path,)).path == file
