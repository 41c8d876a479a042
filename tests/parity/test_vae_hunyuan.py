"""The Hunyuan VAE behind our codec against diffusers' own calls."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.vae.tiny_vae import inverted_sections, tiny_hunyuan
from torch import Tensor

from recurvid.errors import CheckpointError, InputError
from recurvid.latents import LatentFrames
from recurvid.vae.hunyuan import HunyuanCodec, load_hunyuan, read_geometry

pytestmark = pytest.mark.parity


def whole(codec: HunyuanCodec, latents: Tensor) -> Tensor:
    """diffusers' own decode of all latents: (t, 3, h, w)."""
    with torch.no_grad():
        decoded = codec.module.decode(latents / codec.scaling_factor, return_dict=False)[0]
    return decoded[0].transpose(0, 1)


def streamed(codec: HunyuanCodec, latents: Tensor, order: Sequence[range]) -> Tensor:
    """All frames, put together by their timeline number; each must come exactly once."""
    total = codec.geometry.frames(latents.shape[2])
    stream = codec.stream(latents.shape[2])
    frames: dict[int, Tensor] = {}
    for positions in order:
        last = -1
        part = latents[:, :, positions.start : positions.stop]
        for run in stream.push(LatentFrames.of(part, positions)):
            assert run.start > last
            last = run.frames[-1]
            for number, frame in zip(run.frames, run.data, strict=True):
                assert number not in frames
                frames[number] = frame
    assert sorted(frames) == list(range(total))
    return torch.stack([frames[i] for i in range(total)])


def shuffled_sections(latent_frames: int, seed: int) -> list[range]:
    """A cut of the timeline into runs of 1 to 9 latents, shuffled."""
    rng = random.Random(seed)
    cuts, position = [], 0
    while position < latent_frames:
        stop = min(latent_frames, position + rng.randint(1, 9))
        cuts.append(range(position, stop))
        position = stop
    rng.shuffle(cuts)
    return cuts


@pytest.mark.parametrize("latent_frames", [1, 2, 3, 4, 5, 6, 7, 8, 10, 19, 28])
def test_any_length_and_order_equals_one_decode(latent_frames: int):
    codec = HunyuanCodec(tiny_hunyuan(attention=latent_frames < 9))
    latents = torch.randn(1, 4, latent_frames, 4, 6, generator=torch.Generator().manual_seed(1))
    expected = whole(codec, latents)
    assert expected.std() > 0.01
    for seed in range(3):
        got = streamed(codec, latents, shuffled_sections(latent_frames, seed))
        assert torch.equal(got, expected)
    assert torch.equal(codec.decode(latents)[0].transpose(0, 1), expected)


@pytest.mark.parametrize("order", ["inverted", "forward"])
def test_sections_equal_one_decode(order: str):
    codec = HunyuanCodec(tiny_hunyuan(seed=3))
    latents = torch.randn(1, 4, 37, 4, 4)
    sections = inverted_sections(4)
    if order == "forward":
        sections = [range(1), *reversed(sections)]
    else:
        sections = [*sections[:-1], range(1), sections[-1]]
    assert torch.equal(streamed(codec, latents, sections), whole(codec, latents))


def test_tiles_in_space_pass_through():
    vae = tiny_hunyuan(seed=5)
    vae.enable_tiling(32, 32, tile_sample_stride_height=24, tile_sample_stride_width=24)
    codec = HunyuanCodec(vae)
    latents = torch.randn(1, 4, 10, 6, 9)
    tiled = whole(codec, latents)
    assert torch.equal(streamed(codec, latents, [*inverted_sections(1), range(1)]), tiled)
    vae.disable_tiling()
    assert not torch.allclose(whole(codec, latents), tiled)


def test_other_tile_sizes_are_followed():
    vae = tiny_hunyuan(seed=6)
    vae.tile_sample_min_num_frames, vae.tile_sample_stride_num_frames = 24, 16
    codec = HunyuanCodec(vae)
    for latent_frames in (6, 12, 13, 14, 15):
        latents = torch.randn(1, 4, latent_frames, 2, 2)
        got = streamed(codec, latents, shuffled_sections(latent_frames, 7))
        assert torch.equal(got, whole(codec, latents))


def test_encode_is_the_scaled_mean():
    codec = HunyuanCodec(tiny_hunyuan(seed=2))
    for frames in (1, 5, 21):
        pixels = torch.rand(2, 3, frames, 16, 24) * 2 - 1
        with torch.no_grad():
            (posterior,) = codec.module.encode(pixels, return_dict=False)
        expected = posterior.mean * 0.476986
        got = codec.encode(pixels)
        assert got.shape == (2, 4, (frames - 1) // 4 + 1, 2, 3)
        assert torch.allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_geometry_comes_from_the_config():
    geometry = HunyuanCodec(tiny_hunyuan()).geometry
    assert (geometry.channels, geometry.temporal_stride, geometry.spatial_stride) == (4, 4, 8)


@pytest.mark.parametrize(
    ("shape", "names"),
    [((1, 3, 4, 16, 16), "4 frames"), ((1, 3, 1, 16, 20), "20x16"), ((3, 16, 16), "frames")],
)
def test_frames_that_do_not_fit_are_refused(shape: tuple[int, ...], names: str):
    with pytest.raises(InputError, match=names):
        HunyuanCodec(tiny_hunyuan()).encode(torch.zeros(shape))


def test_load_from_a_folder(tmp_path: Path):
    vae = tiny_hunyuan(seed=9)
    vae.save_pretrained(tmp_path)
    codec = load_hunyuan(tmp_path, spatial_tiling=True)
    assert codec.module.use_tiling
    assert not codec.module.training
    latents = torch.randn(1, 4, 3, 2, 2)
    assert torch.equal(codec.decode(latents)[0].transpose(0, 1), whole(HunyuanCodec(vae), latents))


def refused(folder: Path, says: str) -> None:
    with pytest.raises(CheckpointError, match=says) as raised:
        load_hunyuan(folder)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_broken_folder_gets_one_line(tmp_path: Path):
    refused(tmp_path, "no safetensors file")
    vae = tiny_hunyuan()
    vae.save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    whole = load_file(weights)
    save_file({k: v for k, v in whole.items() if k != "quant_conv.bias"}, weights)
    refused(tmp_path, r"missing: quant_conv\.bias")
    save_file(whole | {"other.weight": torch.zeros(1)}, weights)
    refused(tmp_path, r"not expected: other\.weight")
    save_file(whole | {"quant_conv.bias": torch.zeros(9)}, weights)
    refused(tmp_path, r"tensor quant_conv\.bias is \[9\], the model needs \[8\]")
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(tmp_path, "diffusion_pytorch_model")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not a configuration"),
        ("[1]", "not a configuration"),
        ('{"_class_name": "AutoencoderKLWan"}', "a AutoencoderKLWan, not"),
        ('{"unknown": 1}', "makes no VAE"),
        ('{"block_out_channels": [4, 4, 4, 3]}', "makes no VAE"),
    ],
)
def test_a_broken_configuration_gets_one_line(tmp_path: Path, text: str, says: str):
    tiny_hunyuan().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    refused(tmp_path, says)


def test_geometry_without_loading(tmp_path: Path):
    tiny_hunyuan(channels=6).save_pretrained(tmp_path)
    geometry = read_geometry(tmp_path)
    assert (geometry.channels, geometry.temporal_stride, geometry.spatial_stride) == (6, 4, 8)
