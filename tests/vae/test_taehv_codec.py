"""The causal stream against whole-clip decoding, in every order, and what it decodes how often."""

from __future__ import annotations

import collections
import random
from collections.abc import Sequence

import pytest
import torch
from tests.vae.tiny_vae import inverted_sections, tiny_taehv
from torch import Tensor, nn

from recurvid.errors import InputError
from recurvid.latents import LatentFrames
from recurvid.vae import taehv_codec
from recurvid.vae.codec import Codec, DecodeStream
from recurvid.vae.taehv import TAEHV, TAEHVConfig
from recurvid.vae.taehv_codec import TAEHVCodec, reach


def push_all(
    stream: DecodeStream, latents: Tensor, order: Sequence[range], frames: dict[int, Tensor]
) -> None:
    for positions in order:
        last = -1
        part = latents[:, :, positions.start : positions.stop]
        for run in stream.push(LatentFrames.of(part, positions)):
            assert run.start > last
            last = run.frames[-1]
            for number, frame in zip(run.frames, run.data, strict=True):
                assert number not in frames
                frames[number] = frame


def streamed(codec: TAEHVCodec, latents: Tensor, order: Sequence[range]) -> Tensor:
    frames: dict[int, Tensor] = {}
    push_all(codec.stream(latents.shape[2]), latents, order, frames)
    assert sorted(frames) == list(range(4 * latents.shape[2] - 3))
    return torch.stack([frames[i] for i in sorted(frames)], dim=1)[None]


def orders(latent_frames: int) -> dict[str, list[range]]:
    cuts = [range(i, min(i + 3, latent_frames)) for i in range(0, latent_frames, 3)]
    sections = inverted_sections((latent_frames - 1) // 9)
    return {
        "forward": [range(1), *reversed(sections)],
        "inverted": [*sections, range(1)],
        "picture first": [range(1), *sections],
        "single": [range(i, i + 1) for i in range(latent_frames)],
        "shuffled": random.Random(0).sample(cuts, len(cuts)),
    }


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return 2 * torch.randn(1, 4, 28, 2, 3, generator=torch.Generator().manual_seed(0))


def test_reach_of_the_published_layout_is_eight():
    decoder = TAEHV(TAEHVConfig()).decoder
    assert reach(decoder)[0] == 8
    assert reach(decoder)[-1] == 0


def test_no_frame_depends_on_more_than_eight_latents_and_some_on_all(latents: Tensor):
    """By the gradient of one latent's frames, through the network's own whole-clip decode."""
    touched = torch.zeros(14, dtype=torch.bool)
    for seed in range(8):  # a ReLU that is off hides a path
        z = latents[:, :, :14].clone().requires_grad_(True)
        own = tiny_taehv(seed).decode(z)[:, :, 4 * 12 - 3 : 4 * 12 + 1].square().sum()
        (gradient,) = torch.autograd.grad(own, z)
        touched |= gradient.abs().amax(dim=(0, 1, 3, 4)) > 0
    assert touched.tolist() == [False] * 4 + [True] * 9 + [False]


@pytest.mark.parametrize("name", orders(28))
def test_streamed_equals_one_whole_decode(name: str, latents: Tensor):
    codec = TAEHVCodec(tiny_taehv())
    got = streamed(codec, latents, orders(28)[name])
    with torch.no_grad():
        expected = codec.module.decode(latents)
    assert expected.std() > 0.05
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(got, codec.decode(latents))


@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 1, 2), (2, 2, 2), (1, 2, 2)])
def test_other_time_strides(strides: tuple[int, int, int], latents: Tensor):
    model = tiny_taehv(decoder_time_strides=strides)
    got = TAEHVCodec(model).decode(latents)
    with torch.no_grad():
        expected = model.decode(latents)
    assert got.shape == expected.shape
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_folded_pixels(latents: Tensor):
    model = tiny_taehv(
        patch_size=2, encoder_space_strides=(2, 2, 1), decoder_space_scales=(1, 2, 2)
    )
    codec = TAEHVCodec(model)
    assert codec.geometry.spatial_stride == 8
    got = codec.decode(latents[:, :, :11])
    with torch.no_grad():
        expected = model.decode(latents[:, :, :11])
    assert got.shape == expected.shape == (1, 3, 41, 16, 24)
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_one_latent_is_one_frame(latents: Tensor):
    codec = TAEHVCodec(tiny_taehv())
    assert codec.decode(latents[:, :, :1]).shape == (1, 3, 1, 16, 24)


@pytest.mark.parametrize("name", orders(28))
def test_no_latent_is_decoded_more_than_twice(
    name: str, latents: Tensor, monkeypatch: pytest.MonkeyPatch
):
    codec = TAEHVCodec(tiny_taehv())
    counts: collections.Counter[int] = collections.Counter()
    step = taehv_codec.DecoderRun.step

    def counted(run: taehv_codec.DecoderRun, latent: Tensor) -> Tensor | None:
        counts[run.position] += 1
        return step(run, latent)

    monkeypatch.setattr(taehv_codec.DecoderRun, "step", counted)
    streamed(codec, latents, orders(28)[name])
    assert set(counts) == set(range(28))
    if name in {"forward", "single"}:
        assert set(counts.values()) == {1}
    elif name != "shuffled":
        assert max(counts.values()) == 2


def test_warm_up_runs_few_layers(latents: Tensor):
    """Of the eight latents before, the costly late stages see two (by calls of each layer)."""
    model = tiny_taehv()
    calls: collections.Counter[int] = collections.Counter()
    for number, layer in enumerate(model.decoder):
        layer.register_forward_hook(lambda *_, number=number: calls.update([number]))
    stream = TAEHVCodec(model).stream(100)
    list(stream.push(LatentFrames.of(latents[:, :, :9], range(50, 59))))
    blocks = [n for n, layer in enumerate(model.decoder) if type(layer).__name__ == "MemBlock"]
    assert calls[0] == 9
    assert [calls[n] for n in blocks] == [8, 7, 6, 5, 4, 3, 2, 2, 1]
    assert calls[len(model.decoder) - 1] == 1


def test_frames_wait_for_their_past(latents: Tensor):
    stream = TAEHVCodec(tiny_taehv()).stream(28)
    end = list(stream.push(LatentFrames.of(latents[:, :, 19:28], range(19, 28))))
    assert [run.frames for run in end] == [range(105, 109)]
    before = list(stream.push(LatentFrames.of(latents[:, :, 10:19], range(10, 19))))
    assert (before[0].start, before[-1].frames.stop) == (69, 105)
    start = list(stream.push(LatentFrames.of(latents[:, :, 0:10], range(10))))
    assert (start[0].start, start[-1].frames.stop) == (0, 69)


@pytest.mark.parametrize("name", ["forward", "inverted"])
def test_what_is_held_does_not_grow(name: str):
    stream = TAEHVCodec(tiny_taehv()).stream(181)
    held = []
    for positions in orders(181)[name]:
        part = torch.zeros(1, 4, len(positions), 1, 1)
        for _ in stream.push(LatentFrames.of(part, positions)):
            pass
        held.append(len(stream._latents))
    assert max(held) <= 8
    assert held[-1] == 0


@pytest.mark.parametrize("name", ["forward", "inverted", "picture first"])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_resume_gives_the_same_bits(name: str, done: int, latents: Tensor):
    codec = TAEHVCodec(tiny_taehv())
    order = orders(28)[name]
    uninterrupted: dict[int, Tensor] = {}
    push_all(codec.stream(28), latents, order, uninterrupted)
    before: dict[int, Tensor] = {}
    push_all(codec.stream(28), latents, order[:done], before)
    if len(before) > 20:  # killed while a segment was written: its last frames are not finished
        before = {number: before[number] for number in list(before)[:-6]}
    finished = [range(i, i + 1) for i in before]
    after: dict[int, Tensor] = {}
    push_all(codec.stream(28, finished), latents, order, after)
    assert not set(before) & set(after)
    assert set(before) | set(after) == set(uninterrupted)
    for number, frame in uninterrupted.items():
        assert torch.equal(frame, (before | after)[number])


def test_finished_frames_are_not_decoded(latents: Tensor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(taehv_codec.DecoderRun, "step", None)
    stream = TAEHVCodec(tiny_taehv()).stream(28, [range(109)])
    assert list(stream.push(LatentFrames.of(latents, range(28)))) == []
    assert len(stream._latents) == 0


def test_batches_and_round_trip_shapes():
    codec = TAEHVCodec(tiny_taehv())
    pixels = torch.rand(2, 3, 9, 16, 24) * 2 - 1
    z = codec.encode(pixels)
    assert z.shape == (2, 4, 3, 2, 3)
    assert torch.equal(z, codec.module.encode(pixels))
    assert codec.decode(z).shape == pixels.shape
    with pytest.raises(InputError, match="8 frames"):
        codec.encode(pixels[:, :, :8])


def test_normalised_latents(latents: Tensor):
    model = tiny_taehv(latent_mean=(1.0, -1.0, 0.5, 0.0), latent_std=(2.0, 1.0, 0.5, 3.0))
    got = TAEHVCodec(model).decode(latents[:, :, :3])
    with torch.no_grad():
        expected = model.decode(latents[:, :, :3])
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_codecs_keep_the_protocol():
    codec = TAEHVCodec(tiny_taehv())
    assert isinstance(codec, Codec)
    assert isinstance(codec.module, nn.Module)
    assert isinstance(codec.stream(3), DecodeStream)
    assert codec.geometry.frames(3) == 9
