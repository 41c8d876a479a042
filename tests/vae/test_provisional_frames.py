"""Frames that are shown before the latents exist that decide them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.vae.tiny_vae import inverted_sections, tiny_hunyuan, tiny_taehv
from torch import Tensor

import recurvid
from recurvid.latents import LatentFrames
from recurvid.vae.codec import DecodeStream, PixelFrames
from recurvid.vae.crossfade import CrossFadeStream
from recurvid.vae.hunyuan import HunyuanCodec
from recurvid.vae.taehv_codec import DecoderRun, TAEHVCodec
from recurvid.vae.taehv_file import load_taehv

INVERTED = inverted_sections(3)
FORWARD = INVERTED[::-1]


def causal(sections: list[range]) -> DecodeStream:
    return TAEHVCodec(tiny_taehv()).stream(28)


def tiled(sections: list[range]) -> DecodeStream:
    return HunyuanCodec(tiny_hunyuan()).stream(28)


def faded(sections: list[range]) -> DecodeStream:
    return CrossFadeStream(TAEHVCodec(tiny_taehv()), sections)


Make = Callable[[list[range]], DecodeStream]
STREAMS: dict[str, Make] = {"causal": causal, "tiled": tiled, "faded": faded}


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return 2 * torch.randn(1, 4, 28, 2, 3, generator=torch.Generator().manual_seed(0))


def push(stream: DecodeStream, latents: Tensor, positions: range) -> list[PixelFrames]:
    """With the start picture, where the section touches it."""
    if positions.start == 1:
        positions = range(positions.stop)
    part = latents[:, :, positions.start : positions.stop]
    return list(stream.push(LatentFrames.of(part, positions)))


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("sections", [INVERTED, FORWARD], ids=["inverted", "forward"])
def test_asking_for_them_changes_no_final_frame(
    make: Make, sections: list[range], latents: Tensor
) -> None:
    asked, alone = make(sections), make(sections)
    for section in sections:
        with_them, without = push(asked, latents, section), push(alone, latents, section)
        assert [run.frames for run in with_them] == [run.frames for run in without]
        for one, other in zip(with_them, without, strict=True):
            assert torch.equal(one.data, other.data)
        first, second = list(asked.provisional(())), list(asked.provisional(()))
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one.data, other.data)


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
def test_final_and_provisional_frames_never_overlap_and_end_as_the_whole(
    make: Make, latents: Tensor
) -> None:
    stream, final = make(INVERTED), set[int]()
    for section in INVERTED:
        final |= {n for run in push(stream, latents, section) for n in run.frames}
        others = [n for run in stream.provisional(()) for n in run.frames]
        assert others == sorted(set(others))
        assert not final & set(others)
    assert final == set(range(109))
    assert list(stream.provisional(())) == []


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
def test_in_forward_order_there_are_none(make: Make, latents: Tensor) -> None:
    stream = make(FORWARD)
    for section in FORWARD:
        push(stream, latents, section)
        assert list(stream.provisional(())) == []


SHOWN = {"causal": range(73, 105), "tiled": range(85, 89), "faded": range(76, 109)}


@pytest.mark.parametrize("name", STREAMS)
def test_which_frames_the_first_section_shows(name: str, latents: Tensor) -> None:
    stream = STREAMS[name](INVERTED)
    final = push(stream, latents, INVERTED[0])
    shown = list(stream.provisional(()))
    assert [n for run in shown for n in run.frames] == list(SHOWN[name])
    # Whatever the codec, two thirds of the section at least are there to look at.
    there = sum(len(run.frames) for run in [*final, *shown])
    assert there >= 24
    assert not list(stream.provisional([SHOWN[name]]))
    some = [n for run in stream.provisional([SHOWN[name][:2]]) for n in run.frames]
    assert some == list(SHOWN[name][2:])


@pytest.mark.parametrize("name", ["tiled", "faded"])
def test_what_is_decoded_already_is_not_decoded_for_show(
    name: str, latents: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = STREAMS[name](INVERTED)
    push(stream, latents, INVERTED[0])
    monkeypatch.setattr(DecoderRun, "step", None)
    monkeypatch.setattr(HunyuanCodec, "_run", None)
    assert list(stream.provisional(()))


def test_a_second_look_decodes_only_what_is_asked(
    latents: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = causal(INVERTED)
    push(stream, latents, INVERTED[0])
    steps: list[int] = []
    step = DecoderRun.step

    def counted(self: DecoderRun, latent: Tensor) -> Tensor | None:
        steps.append(self.position)
        return step(self, latent)

    monkeypatch.setattr(DecoderRun, "step", counted)
    list(stream.provisional(()))
    assert steps == [17, 18, *range(19, 27)]  # two repeats of the first, then each once
    steps.clear()
    assert list(stream.provisional([range(73, 105)])) == []
    assert steps == []


def test_sections_shorter_than_the_memory_show_all_that_is_there(latents: Tensor) -> None:
    stream, final = causal(INVERTED), set[int]()
    for section in (range(25, 28), range(22, 25), range(19, 22), range(16, 19)):
        final |= {n for run in push(stream, latents, section) for n in run.frames}
        others = {n for run in stream.provisional(()) for n in run.frames}
        assert final | others == set(range(4 * section.start - 3, 109))
        assert len(others) == 4 * min(8, 28 - section.start)


def test_with_the_bundled_autoencoder_they_look_like_the_final_ones() -> None:
    """A pan over a photograph: no frame is grey or far from what it will be."""
    folder = Path(recurvid.__file__).parent / "bundled"
    codec = load_taehv(folder / "vae.safetensors")
    photo = np.asarray(Image.open(folder / "example.jpg").convert("RGB"))
    clip = np.stack([photo[100:164, 2 * i : 2 * i + 96] for i in range(73)])
    pixels = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    z = codec.encode(pixels)
    final = codec.decode(z)[0].transpose(0, 1)
    stream = codec.stream(19)
    list(stream.push(LatentFrames.of(z[:, :, 10:], range(10, 19))))
    seen = 0
    for run in stream.provisional(()):
        error = (run.data - final[run.start : run.frames.stop]).clamp(-2, 2) / 2
        decibels = -10 * error.square().mean((1, 2, 3)).log10()
        assert decibels.min() > 30, run.frames
        seen += len(run.frames)
    assert seen == 32
