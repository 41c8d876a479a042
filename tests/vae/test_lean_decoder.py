"""Our order of work against diffusers' decoder; windows; and what an overflow leads to."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from tests.vae.tiny_vae import tiny_hunyuan
from torch import Tensor, nn

from recurvid.errors import NumericsError
from recurvid.vae.frame_kernels import AVAILABLE, norm_scale
from recurvid.vae.hunyuan import HunyuanCodec
from recurvid.vae.lean_decoder import lean_decode
from recurvid.vae.windows import Windows, decode_windows, fit_windows


def lively(attention: bool = True) -> Any:
    """A decoder whose norms and biases count."""
    vae = tiny_hunyuan(attention=attention)
    g = torch.Generator().manual_seed(1)
    for parameter in vae.parameters():
        noise = 0.3 * torch.randn(parameter.shape, generator=g)
        parameter.data = noise if parameter.ndim > 1 else parameter.data + noise
    return vae


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("chunk", [1, 10**9])
@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("attention", [False, True])
def test_equals_diffusers_decoder(joined: bool, chunk: int, frames: int, attention: bool):
    vae = lively(attention)
    z = torch.randn(1, 4, frames, 3, 5)
    expected = vae.decoder(z)
    got = lean_decode(vae.decoder, z, joined=joined, chunk=chunk)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_decoder_is_left_as_it_was():
    vae = lively()
    before = {name: (p.data_ptr(), p.clone()) for name, p in vae.named_parameters()}
    z = torch.randn(1, 4, 2, 2, 2)
    kept = z.clone()
    lean_decode(vae.decoder, z)
    assert torch.equal(z, kept)
    for name, parameter in vae.named_parameters():
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter, before[name][1])


def test_norm_of_half_numbers_is_summed_in_wide_ones():
    x = (torch.randn(3, 40, 50, 8) + 40).half()
    norm = nn.GroupNorm(2, 8).requires_grad_(False)
    scale, shift = norm_scale(x, norm)
    expected = norm(x.double().permute(3, 0, 1, 2)[None].float())[0].permute(1, 2, 3, 0)
    assert torch.allclose(x.float() * scale + shift, expected, atol=1e-3)


PROGRAM = """
import torch
from torch import nn
from recurvid.vae.frame_kernels import Border, Enlarge, _padded, channel_sums, norm_scale, padded
g = torch.Generator().manual_seed(0)
for channels in (4, 6):
    x = torch.randn(3, 4, 5, channels, generator=g)
    flat = x.double().view(-1, channels)
    want = torch.stack([flat.sum(0), flat.square().sum(0)])
    assert torch.allclose(channel_sums(x), want, atol=1e-4)
    norm = norm_scale(x, nn.GroupNorm(2, channels).requires_grad_(False))
    for frames, enlarge in ((range(1, 3), Enlarge()), (range(5), Enlarge(2, 2))):
        for scales in (None, norm):
            asked = (x, frames, Border(), scales, enlarge)
            assert torch.allclose(padded(*asked), _padded(*asked), atol=1e-6), asked[1:3]
"""


@pytest.mark.skipif(not AVAILABLE, reason="Triton is not installed")
def test_the_kernels_in_the_interpreter():
    settings = dict(os.environ) | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=settings, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


# windows


def nearest(z: Tensor) -> Tensor:
    return z.repeat_interleave(8, 3).repeat_interleave(8, 4)


@pytest.mark.parametrize("size", [(60, 104), (17, 30), (80, 80), (5, 7), (33, 16)])
def test_windows_cover_evenly_and_fade_to_one(size: tuple[int, int]):
    z = torch.randn(1, 3, 2, *size)
    for area in (1, 200, 300, 1100, 2500, 10**6):
        windows = fit_windows(*size, area)
        for cuts, length in ((windows.rows, size[0]), (windows.columns, size[1])):
            assert (cuts[0].start, cuts[-1].stop) == (0, length)
            assert len({len(cut) for cut in cuts}) == 1
            for a, b in zip(cuts, cuts[2:], strict=False):
                assert a.stop <= b.start
        assert torch.allclose(decode_windows(nearest, z, windows), nearest(z), atol=1e-5)


def test_windows_of_480p_written_out():
    assert fit_windows(60, 104, 6240) == Windows((range(60),), (range(104),))
    two = fit_windows(60, 104, 3400)
    assert (len(two.rows), two.columns) == (1, (range(56), range(48, 104)))
    small = fit_windows(60, 104, 1100)
    assert small.area <= 1100
    assert small.work < 1.4 * 6240  # diffusers' tiles of 32x32 take 1.66


def test_a_border_that_differs_is_faded_over():
    windows = Windows((range(4),), (range(16), range(8, 24)))
    seen: list[int] = []

    def decode(z: Tensor) -> Tensor:
        seen.append(len(seen))
        return torch.full((1, 3, 1, 4, 16), float(len(seen) - 1))

    row = decode_windows(decode, torch.zeros(1, 1, 1, 4, 24), windows)[0, 0, 0, 0]
    assert row[:8].tolist() == [0.0] * 8
    assert row[-8:].tolist() == [1.0] * 8
    assert (row.diff() >= 0).all()
    assert row.diff().max() < 0.13


def test_a_codec_keeps_to_its_room():
    codec = HunyuanCodec(lively(attention=False), room=17 * 64 * 7000 * 400)
    z = torch.randn(1, 4, 5, 20, 36)
    shapes: list[tuple[int, int]] = []
    run = codec._run
    codec._run = lambda z: shapes.append((z.shape[3], z.shape[4])) or run(z)  # type: ignore
    assert codec.decode_tile(z).shape == (1, 3, 17, 160, 288)
    assert len(shapes) > 1
    assert all(high * wide <= 400 for high, wide in shapes)


# overflow


def overflowing(codec: HunyuanCodec, largest: float) -> list[torch.dtype]:
    """Let the decoder's numbers be so large; returns the types that it is run in."""
    module: Any = codec.module
    seen: list[torch.dtype] = []
    for parameter in (module.decoder.conv_out.conv.weight, module.decoder.conv_out.conv.bias):
        parameter.data.mul_(largest)

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].dtype)

    module.decoder.register_forward_pre_hook(note)
    return seen


def test_a_tile_that_overflows_is_decoded_again_in_float32(caplog: pytest.LogCaptureFixture):
    module = lively(attention=False).half()
    module.decoder.conv_norm_out.bias.data.fill_(30.0)
    codec = HunyuanCodec(module)
    seen = overflowing(codec, 1000.0)
    before = [p.data_ptr() for p in module.parameters()]
    with caplog.at_level(logging.WARNING):
        decoded = codec.decode_tile(torch.randn(1, 4, 1, 2, 2))
    assert seen == [torch.float16, torch.float32]
    assert decoded.dtype == torch.float32
    assert torch.isfinite(decoded).all()
    assert decoded.abs().max() > 65504  # what float16 cannot hold
    assert "decoded again in float32" in caplog.text
    assert [p.data_ptr() for p in module.parameters()] == before
    assert module.dtype == torch.float16


def test_a_tile_that_does_not_is_decoded_once(caplog: pytest.LogCaptureFixture):
    codec = HunyuanCodec(lively(attention=False).half())
    seen = overflowing(codec, 1.0)
    codec.decode_tile(torch.randn(1, 4, 1, 2, 2))
    assert seen == [torch.float16]
    assert not caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_damaged_weights_end_in_one_line(dtype: torch.dtype):
    module = lively(attention=False).to(dtype)
    module.decoder.conv_in.conv.bias.data[0] = float("nan")
    with pytest.raises(NumericsError, match="weights are damaged") as raised:
        HunyuanCodec(module).decode_tile(torch.randn(1, 4, 1, 2, 2))
    assert "\n" not in str(raised.value)
    assert module.dtype == dtype
