"""Small committed numbers: a change that should not alter numerics leaves them as they are.

To renew them after a change that should: `python tests/golden/test_golden.py`, and say in the
commit what they were and why they moved.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recurvid.encoders.small import SmallTextConfig, SmallTextEncoder
from recurvid.models.packed_dit.config import PackedDiTConfig
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.packing import PackingSchedule
from recurvid.training import backbone as bb
from recurvid.training.clip_pool import ClipPool
from recurvid.training.sample import SampleRun, sample_video

NUMBERS = Path(__file__).with_name("numbers.json")
CONFIG = PackedDiTConfig(
    in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1,
    num_single_layers=1, num_refiner_layers=1, text_embed_dim=16, pooled_projection_dim=16,
    guidance_embeds=False, has_image_proj=False, rope_axes_dim=(4, 6, 6),
)  # fmt: skip


def fresh() -> bb.Trained:
    torch.manual_seed(0)
    backbone = PackedDiT(CONFIG)
    backbone.init_weights()
    return bb.Trained(backbone, SmallTextEncoder(SmallTextConfig(64, 16, 24)))


def losses() -> list[float]:
    """Mean losses of 100 steps of the training loop, on drifting random clips."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(5, 4, 1, 4, 4, generator=generator).expand(-1, -1, 19, -1, -1).clone()
    frames += torch.linspace(0, 1, 19).view(1, 1, -1, 1, 1)
    pool = ClipPool(frames, ["pan left", "pan right", "zoom in", "zoom out", "still"], [0.5] * 5)
    seen: list[float] = []
    run = bb.BackboneRun(steps=100, batch=2, compile=False, lr=2e-3)
    bb.train(fresh(), [pool], run, lambda step, loss, average: seen.append(loss))
    return seen


def latents(order: str) -> list[float]:
    """A few values of a three-section video from random weights."""
    model = fresh().eval()
    for p in model.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.05)
    start = torch.randn(1, 4, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    video = sample_video(model, start, "pan left", SampleRun(order, sections=3, steps=3))
    return [round(float(v), 5) for v in video[0, 0, ::5, 1, 2]]


def tokens() -> dict[str, int]:
    return {
        text: PackingSchedule.parse(text).tokens(480, 832).total
        for text in ("f1k1_x_g9_f1k1f2k2f16k4_td", "f1k1_f16k4f2k2f1k1_g9",
                     "f1k1_x_g9_f1k1f8k2f64k8f512k16_td", "td_f8k8f4k4f2k2f1k1_g9")
    }  # fmt: skip


def test_losses() -> None:
    assert losses() == pytest.approx(json.loads(NUMBERS.read_text())["losses"], rel=2e-3)


@pytest.mark.parametrize("order", ["inverted", "forward"])
def test_latents(order: str) -> None:
    assert latents(order) == pytest.approx(json.loads(NUMBERS.read_text())[order], abs=2e-4)


def test_tokens() -> None:
    """17,966 is the paper's; the others are its padded table's history + 9 and 1 full frames."""
    assert tokens() == json.loads(NUMBERS.read_text())["tokens"]
    assert tokens()["f1k1_x_g9_f1k1f2k2f16k4_td"] == 17966
    assert tokens()["f1k1_x_g9_f1k1f8k2f64k8f512k16_td"] == 3600 + 10 * 1560
    assert tokens()["td_f8k8f4k4f2k2f1k1_g9"] == 2082 + 9 * 1560


if __name__ == "__main__":
    made = {"losses": losses(), "tokens": tokens()}
    made |= {order: latents(order) for order in ("inverted", "forward")}
    NUMBERS.write_text(json.dumps(made, indent=1) + "\n")
