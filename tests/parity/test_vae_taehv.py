"""TAEHV files in the published layout, against the layout written out frame by frame.

The published code is no package, so the reference here is put together from its description: flat
tensors by number, one frame after the other, one remembered frame a block.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from recurvid.checkpoints.int8 import save_quantized
from recurvid.errors import CheckpointError
from recurvid.vae.taehv import TAEHVConfig
from recurvid.vae.taehv_file import load_taehv

pytestmark = pytest.mark.parity

WIDTHS, LATENT, ENCODER = (12, 10, 8, 6), 5, 7


def block_tensors(prefix: str, width: int) -> dict[str, Tensor]:
    found = {}
    for number, inputs in ((0, 2 * width), (2, width), (4, width)):
        found[f"{prefix}.conv.{number}.weight"] = torch.randn(width, inputs, 3, 3) / inputs**0.5 / 3
        found[f"{prefix}.conv.{number}.bias"] = 0.1 * torch.randn(width)
    return found


def published(seed: int = 0) -> dict[str, Tensor]:
    """Random tensors with the names and shapes of a published file, at small widths."""
    torch.manual_seed(seed)
    file: dict[str, Tensor] = {}

    def conv(name: str, outputs: int, inputs: int, size: int = 3, bias: bool = True) -> None:
        file[f"{name}.weight"] = torch.randn(outputs, inputs, size, size) / inputs**0.5 / size
        if bias:
            file[f"{name}.bias"] = 0.1 * torch.randn(outputs)

    conv("decoder.1", WIDTHS[0], LATENT)
    for stage, (first, stride) in enumerate(((3, 1), (9, 2), (15, 2))):
        for number in range(first, first + 3):
            file |= block_tensors(f"decoder.{number}", WIDTHS[stage])
        conv(f"decoder.{first + 4}.conv", WIDTHS[stage] * stride, WIDTHS[stage], 1, bias=False)
        conv(f"decoder.{first + 5}", WIDTHS[stage + 1], WIDTHS[stage], bias=False)
    conv("decoder.22", 3, WIDTHS[3])
    conv("encoder.0", ENCODER, 3)
    for first, stride in ((2, 2), (7, 2), (12, 1)):
        conv(f"encoder.{first}.conv", ENCODER, ENCODER * stride, 1, bias=False)
        conv(f"encoder.{first + 1}", ENCODER, ENCODER, bias=False)
        for number in range(first + 2, first + 5):
            file |= block_tensors(f"encoder.{number}", ENCODER)
    conv("encoder.17", LATENT, ENCODER)
    return file


def blocks(file: dict[str, Tensor], side: str, numbers: range, frames: list[Tensor]):
    """MemBlocks over a list of (c, h, w) frames, one frame at a time."""
    for number in numbers:
        past, after = torch.zeros_like(frames[0]), []
        for frame in frames:
            y = torch.cat([frame, past])
            for k in (0, 2, 4):
                name = f"{side}.{number}.conv.{k}"
                y = F.conv2d(y, file[f"{name}.weight"], file[f"{name}.bias"], padding=1)
                y = y.relu() if k < 4 else y
            after.append((y + frame).relu())
            past = frame
        frames = after
    return frames


def published_decode(file: dict[str, Tensor], latents: Tensor) -> Tensor:
    """(t, c, h, w) latents -> (4t - 3, 3, 8h, 8w) in 0..1 (not clamped)."""
    frames = [3 * torch.tanh(z / 3) for z in latents]
    frames = [
        F.conv2d(z, file["decoder.1.weight"], file["decoder.1.bias"], padding=1).relu()
        for z in frames
    ]
    for first, stride in ((3, 1), (9, 2), (15, 2)):
        frames = blocks(file, "decoder", range(first, first + 3), frames)
        grown: list[Tensor] = []
        for frame in frames:
            large = frame.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
            grown += F.conv2d(large, file[f"decoder.{first + 4}.conv.weight"]).chunk(stride)
        frames = [F.conv2d(x, file[f"decoder.{first + 5}.weight"], padding=1) for x in grown]
    last = [
        F.conv2d(x.relu(), file["decoder.22.weight"], file["decoder.22.bias"], padding=1)
        for x in frames
    ]
    return torch.stack(last)[3:]


def published_encode(file: dict[str, Tensor], pictures: Tensor) -> Tensor:
    """(4t, 3, h, w) in 0..1 -> (t, c, h/8, w/8)."""
    frames = [
        F.conv2d(x, file["encoder.0.weight"], file["encoder.0.bias"], padding=1).relu()
        for x in pictures
    ]
    for first, stride in ((2, 2), (7, 2), (12, 1)):
        pooled = [torch.cat(frames[i : i + stride]) for i in range(0, len(frames), stride)]
        frames = [F.conv2d(x, file[f"encoder.{first}.conv.weight"]) for x in pooled]
        weight = file[f"encoder.{first + 1}.weight"]
        frames = [F.conv2d(x, weight, stride=2, padding=1) for x in frames]
        frames = blocks(file, "encoder", range(first + 2, first + 5), frames)
    weight, bias = file["encoder.17.weight"], file["encoder.17.bias"]
    return torch.stack([F.conv2d(x, weight, bias, padding=1) for x in frames])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_published_file_decodes_as_described(tmp_path: Path, seed: int):
    file = published(seed)
    save_file(file, tmp_path / "taehv.safetensors")
    codec = load_taehv(tmp_path / "taehv.safetensors")
    latents = 2 * torch.randn(11, LATENT, 3, 2)
    expected = published_decode(file, latents) * 2 - 1
    got = codec.decode(latents.transpose(0, 1)[None])[0].transpose(0, 1)
    assert got.shape == expected.shape == (41, 3, 24, 16)
    assert expected.std() > 0.05
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_picture_is_encoded_as_described(tmp_path: Path):
    """One picture fills its latent by being repeated, as the published code pads it."""
    file = published()
    save_file(file, tmp_path / "taehv.safetensors")
    codec = load_taehv(tmp_path)
    picture = torch.rand(1, 3, 1, 16, 24)
    expected = published_encode(file, picture[0, :, 0].expand(4, -1, -1, -1))
    got = codec.encode(picture * 2 - 1)[0].transpose(0, 1)
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_the_default_is_the_published_files_shape():
    config = TAEHVConfig()
    assert config.decoder_widths == (256, 128, 64, 64)
    assert (config.latent_channels, config.temporal_stride) == (16, 4)


def test_ours_with_its_configuration_and_int8(tmp_path: Path):
    file = published()
    shape = TAEHVConfig(
        latent_channels=LATENT,
        encoder_width=ENCODER,
        decoder_widths=WIDTHS,
        latent_mean=(0.5, 0.0, 0.0, 0.0, 0.0),
        latent_std=(2.0, 1.0, 1.0, 1.0, 1.0),
    )
    save_file(file, tmp_path / "plain.safetensors")
    save_quantized(file, tmp_path / "vae.safetensors")
    (tmp_path / "vae.json").write_text(json.dumps(shape.to_dict()))
    codec = load_taehv(tmp_path / "vae.safetensors")
    assert codec.module.config == shape
    latents = torch.randn(1, LATENT, 3, 2, 2)
    plain = load_taehv(tmp_path / "plain.safetensors")
    scaled = latents.clone()
    scaled[:, 0] = scaled[:, 0] * 2 + 0.5
    assert torch.allclose(codec.decode(latents), plain.decode(scaled), atol=0.05)
    assert all(p.dtype == torch.float32 for p in codec.module.parameters())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"decoder.5.conv.2.bias": None}, "missing: decoder.5.conv.2.bias"),
        ({"decoder.30.weight": torch.zeros(1)}, "not expected: decoder.30.weight"),
        ({"decoder.4.conv.0.bias": torch.zeros(3)}, "decoder.4.conv.0.bias is"),
        ({"decoder.22.weight": torch.zeros(12, 6, 3, 3)}, "another model"),
        ({"decoder.1.weight": None}, "decoder.1.weight is missing"),
    ],
)
def test_a_file_of_another_shape_gets_one_line(tmp_path: Path, change: dict, says: str):
    file = {k: v for k, v in (published() | change).items() if v is not None}
    path = tmp_path / "taehv.safetensors"
    save_file(file, path)
    with pytest.raises(CheckpointError, match=says) as raised:
        load_taehv(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_of_something_else(tmp_path: Path):
    save_file({"layers.0.weight": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not a TAEHV file"):
        load_taehv(tmp_path / "x.safetensors")


@pytest.mark.parametrize("text", ["{", "[]", '{"unknown": 1}', '{"decoder_widths": [0, -1]}'])
def test_a_broken_configuration(tmp_path: Path, text: str):
    save_file(published(), tmp_path / "vae.safetensors")
    (tmp_path / "vae.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"vae\.json: not a TAEHV configuration"):
        load_taehv(tmp_path / "vae.safetensors")
