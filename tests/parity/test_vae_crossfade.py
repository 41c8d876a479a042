"""The cross-faded decode against the frames of diffusers' FramePack pipeline.

The pipeline itself runs, with a stand-in for the transformer whose velocity turns the sampler's
noise into latents that depend on everything it is given; what is compared is only the decoding.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.vae.tiny_vae import inverted_sections, tiny_hunyuan
from torch import Tensor, nn

from recurvid.errors import InputError
from recurvid.latents import LatentFrames
from recurvid.vae.crossfade import CrossFadeStream, fade_steps
from recurvid.vae.hunyuan import HunyuanCodec

pytestmark = pytest.mark.parity


class StandIn(nn.Module):
    """A transformer that sees only its target: what the pipeline decodes is scaled noise."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(in_channels=4, patch_size=2)
        self.dtype = torch.float32

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor]:
        return (0.5 * hidden_states,)


def pipeline_of(vae: Any) -> Any:
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import (
        HunyuanVideoFramepackPipeline,
    )
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    class OnlyDecoding(HunyuanVideoFramepackPipeline):
        """The pipeline without encoders; everything after them is diffusers' own."""

        def __init__(self, vae: Any):
            from diffusers.video_processor import VideoProcessor

            object.__setattr__(self, "_internal_dict", {})
            self.vae, self.transformer = vae, StandIn()
            self.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
            self.vae_scale_factor_temporal, self.vae_scale_factor_spatial = 4, 8
            self.video_processor = VideoProcessor(vae_scale_factor=8)
            self.set_progress_bar_config(disable=True)

        _execution_device = property(lambda self: torch.device("cpu"))  # type: ignore

        def encode_image(self, image: Tensor, device: Any = None, dtype: Any = None) -> Tensor:
            return torch.zeros(1, 1, 1)

        def maybe_free_model_hooks(self) -> None:
            pass

    return OnlyDecoding(vae)


def pipeline_run(vae: Any, sections: int, kind: str, output: str) -> Any:
    picture = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(5))
    return pipeline_of(vae)(
        image=picture,
        prompt_embeds=torch.zeros(1, 1, 1),
        pooled_prompt_embeds=torch.zeros(1, 1),
        prompt_attention_mask=torch.ones(1, 1),
        height=16,
        width=32,
        num_frames=33 * sections,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(7),
        sampling_type=kind,
        output_type=output,
    ).frames


def cross_faded(codec: HunyuanCodec, latents: Tensor, order: list[range], step: int) -> Tensor:
    """All frames through the stream, latent 0 pushed first or last."""
    stream = CrossFadeStream(codec, order)
    frames: dict[int, Tensor] = {}
    pushes = [range(1), *order] if step else [*order, range(1)]
    for positions in pushes:
        part = latents[:, :, positions.start : positions.stop]
        for run in stream.push(LatentFrames.of(part, positions)):
            assert not set(frames) & set(run.frames)
            frames |= dict(zip(run.frames, run.data, strict=True))
    assert sorted(frames) == list(range(codec.geometry.frames(latents.shape[2])))
    return torch.stack([frames[i] for i in sorted(frames)])


@pytest.mark.parametrize("kind", ["inverted_anti_drifting", "vanilla"])
@pytest.mark.parametrize("sections", [1, 2, 3, 5])
def test_frames_equal_the_pipelines(kind: str, sections: int):
    vae = tiny_hunyuan(seed=sections)
    latents = pipeline_run(vae, sections, kind, "latent")[-1]
    expected = pipeline_run(vae, sections, kind, "pt")[0]
    assert latents.shape[2] == 9 * sections + 1
    order = inverted_sections(sections)
    order = order if kind.startswith("inverted") else order[::-1]
    codec = HunyuanCodec(vae)
    got = cross_faded(codec, latents, order, step=sections % 2)
    got = (got / 2 + 0.5).clamp(0, 1)  # the pipeline's postprocessing
    assert got.shape == expected.shape == (36 * sections + 1, 3, 16, 32)
    assert expected.std() > 0.01
    assert torch.allclose(got, expected, atol=1e-5)
    if sections > 1:  # and it is not what one decode gives
        whole = codec.decode(latents)[0].transpose(0, 1)
        assert not torch.allclose((whole / 2 + 0.5).clamp(0, 1), expected, atol=1e-3)


def test_steps_of_three_sections_written_out():
    geometry = HunyuanCodec(tiny_hunyuan()).geometry
    inverted = fade_steps(inverted_sections(3), geometry)
    assert [(s.window, s.frames, s.final) for s in inverted] == [
        (range(19, 28), range(76, 109), range(109, 109)),
        (range(10, 28), range(40, 109), range(73, 109)),
        (range(19), range(73), range(73)),
    ]
    forward = fade_steps(inverted_sections(3)[::-1], geometry)
    assert [(s.window, s.frames, s.final) for s in forward] == [
        (range(10), range(37), range(4)),
        (range(1, 19), range(4, 73), range(4, 40)),
        (range(10, 28), range(40, 109), range(40, 109)),
    ]


@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_resume_gives_the_same_bits(inverted: bool, done: int):
    codec = HunyuanCodec(tiny_hunyuan(seed=8))
    latents = torch.randn(1, 4, 37, 2, 2)
    order = [range(1), *(inverted_sections(4) if inverted else inverted_sections(4)[::-1])]

    def run(stream: CrossFadeStream, cut: int | None = None) -> dict[int, Tensor]:
        frames: dict[int, Tensor] = {}
        for positions in order[:cut]:
            part = latents[:, :, positions.start : positions.stop]
            for piece in stream.push(LatentFrames.of(part, positions)):
                frames |= dict(zip(piece.frames, piece.data, strict=True))
        return frames

    uninterrupted = run(CrossFadeStream(codec, order[1:]))
    before = run(CrossFadeStream(codec, order[1:]), cut=done + 1)
    decodes: list[int] = []
    decode = codec.decode
    codec.decode = lambda z: decodes.append(z.shape[2]) or decode(z)  # type: ignore
    after = run(CrossFadeStream(codec, order[1:], [range(i, i + 1) for i in before]))
    assert len(decodes) == 4 - done + 1
    assert not set(before) & set(after)
    for number, frame in uninterrupted.items():
        assert torch.equal(frame, (before | after)[number])


def test_all_at_once_comes_in_timeline_order():
    codec = HunyuanCodec(tiny_hunyuan(seed=8))
    latents = torch.randn(1, 4, 28, 2, 2)
    stream = CrossFadeStream(codec, inverted_sections(3))
    found = list(stream.push(LatentFrames.of(latents, range(28))))
    assert [run.frames for run in found] == [range(73), range(73, 109)]
    assert len(stream._latents) == 0


def test_what_is_held_does_not_grow():
    codec = HunyuanCodec(tiny_hunyuan())
    stream = CrossFadeStream(codec, inverted_sections(6))
    for positions in [range(1), *inverted_sections(6)]:
        part = torch.zeros(1, 4, len(positions), 1, 1)
        list(stream.push(LatentFrames.of(part, positions)))
        assert len(stream._latents) <= 10


@pytest.mark.parametrize(
    "sections", [[], [range(1, 10), range(19, 28), range(10, 19)], [range(10)], [range(1, 1)]]
)
def test_other_orders_are_refused(sections: list[range]):
    with pytest.raises(InputError, match="cross-faded"):
        CrossFadeStream(HunyuanCodec(tiny_hunyuan()), sections)
