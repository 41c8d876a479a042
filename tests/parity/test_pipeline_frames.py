"""The original's cross-faded decode against the frames of HunyuanVideoFramepackPipeline."""

from __future__ import annotations

import pytest
import torch
from tests.parity.pipeline_runs import Run, Sides, ours, planned, theirs
from torch import Tensor

from recurvid.latents import LatentFrames
from recurvid.vae.codec import DecodeStream
from recurvid.vae.crossfade import CrossFadeStream
from recurvid.vae.hunyuan import HunyuanCodec

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4  # of the range 0..1


def streamed(stream: DecodeStream, latents: Tensor, targets: list[range]) -> Tensor:
    """Push sections as they are made, the start picture with the one beside it: (t, 3, h, w)."""
    frames: dict[int, Tensor] = {}
    for target in targets:
        positions = range(0 if target.start == 1 else target.start, target.stop)
        part = LatentFrames.of(latents[:, :, positions.start : positions.stop], positions)
        for run in stream.push(part):
            assert not frames.keys() & set(run.frames)
            frames |= dict(zip(run.frames, run.data, strict=True))
    assert sorted(frames) == list(range(4 * latents.shape[2] - 3))
    return torch.stack([frames[i] for i in range(len(frames))])


@pytest.mark.parametrize("sections", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("order", "end_picture"), [("inverted", False), ("inverted", True), ("forward", False)]
)
def test_cross_faded_frames_equal_the_pipelines(sides: Sides, order, sections, end_picture):
    run = Run(order, sections, end_picture=end_picture, size=(32, 32), seed=sections)
    expected = theirs(sides, run, output="pt")[0]  # (t, 3, h, w) in 0..1

    codec = HunyuanCodec(sides.pipeline.vae)
    targets = [section.target for section in planned(run).sections]
    latents = ours(sides, run)
    frames = streamed(CrossFadeStream(codec, targets), latents, targets)
    actual = (frames / 2 + 0.5).clamp(0, 1)
    assert actual.shape == expected.shape
    assert expected.std() > 0.01
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)
    if sections > 1:  # the default decode is another: this is not a comparison of constants
        whole = (streamed(codec.stream(latents.shape[2]), latents, targets) / 2 + 0.5).clamp(0, 1)
        assert (whole - expected).abs().max() > 20 * TOLERANCE
