from dataclasses import replace

import numpy as np
import pytest
import torch

from recurvid.encoders.small import SmallTextConfig, SmallTextEncoder
from recurvid.latents import LatentFrames
from recurvid.models.packed_dit.config import PRESETS
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.packing import PackingSchedule, pack_batch
from recurvid.sections import ABSENT
from recurvid.training import backbone as bb
from recurvid.training.clip_pool import ClipPool
from recurvid.training.sample import SampleRun, sample_video
from recurvid.training.section_sampling import draw_sections

TINY = replace(
    PRESETS["bundled"], in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16,
    num_layers=1, num_single_layers=1, text_embed_dim=16, pooled_projection_dim=16,
    rope_axes_dim=(4, 6, 6),
)  # fmt: skip


def model() -> bb.Trained:
    torch.manual_seed(0)
    backbone = PackedDiT(TINY)
    backbone.init_weights()
    return bb.Trained(backbone, SmallTextEncoder(SmallTextConfig(64, 16, 24)))


def pools() -> list[ClipPool]:
    generator = torch.Generator().manual_seed(1)
    still = torch.randn(6, 4, 1, 4, 4, generator=generator)
    return [ClipPool(still.expand(-1, -1, 19, -1, -1).clone(), ["pan left"] * 6, [0.5] * 6)]


RUN = bb.BackboneRun(seconds=10.0, batch=4, compile=False, lr=3e-3)


def test_sections_of_training_see_no_more_than_sections_of_generation() -> None:
    rng = np.random.default_rng(0)
    for order in (bb.INVERTED, bb.FORWARD):
        for section in draw_sections(37, 200, order, rng):
            history = [p for p in section.history if p != ABSENT]
            if order is bb.INVERTED:
                assert all(p >= section.target.stop for p in history)
            else:
                assert all(p < section.target.start for p in history)
            assert section.target.stop <= 37
            assert not set(section.target) & set(history)


def test_the_loss_falls_on_clips_that_stand_still() -> None:
    trained, seen = model(), list[float]()
    run = replace(RUN, steps=200)
    bb.train(trained, pools(), run, lambda step, loss, average: seen.append(loss))
    assert len(seen) >= 2
    assert seen[-1] < 0.9 * seen[0]


def test_every_part_gets_a_gradient() -> None:
    trained = model()
    for p in trained.parameters():  # zero modulation would hide what lies behind it
        if p.abs().max() == 0:
            torch.nn.init.normal_(p, std=0.02)
    generator = torch.Generator().manual_seed(0)
    sample = bb.draw(pools(), replace(RUN, text_dropout=0.0), np.random.default_rng(0))
    bb.loss_of(trained, sample, RUN, generator).mean().backward()
    missing = [n for n, p in trained.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_two_runs_with_one_seed_draw_the_same_batch() -> None:
    a, b = (bb.draw(pools(), RUN, np.random.default_rng(4)) for _ in range(2))
    assert a.sections == b.sections
    assert a.texts == b.texts
    assert torch.equal(a.target, b.target)


def test_the_target_is_where_the_section_says() -> None:
    latents = torch.arange(19.0).view(1, 1, 19, 1, 1).expand(4, 4, -1, 4, 4).clone()
    pool = ClipPool(latents, ["zoom in"] * 4, [0.1] * 4)
    sample = bb.draw([pool], RUN, np.random.default_rng(2))
    for row, section in enumerate(sample.sections):
        assert sample.target[row, 0, :, 0, 0].tolist() == [float(p) for p in section.target]
    packed = pack_batch(sample.schedule, sample.sections, sample.timeline)
    near = packed.context.groups[-1].frames.data[:, 0, :, 0, 0]
    assert 0.0 in near[0].tolist()  # the start picture


@pytest.mark.parametrize("order", ["inverted", "forward"])
def test_sampling_keeps_the_picture_and_the_length(order: str) -> None:
    start = torch.randn(1, 4, 1, 4, 4)
    video = sample_video(model().eval(), start, "pan left", SampleRun(order, sections=3, steps=2))
    assert video.shape == (1, 4, 28, 4, 4)
    assert torch.equal(video[:, :, :1], start)
    assert bool(torch.isfinite(video).all())


def test_the_schedules_are_the_released_ones() -> None:
    assert str(PackingSchedule.parse(bb.INVERTED.schedule)) == "f1k1_x_g9_f1k1f2k2f16k4_td"
    assert str(PackingSchedule.parse(bb.FORWARD.schedule)) == "f1k1_f16k4f2k2f1k1_g9"
    assert LatentFrames.of(torch.zeros(1, 1, 1, 1, 1), [0]).frames == 1
