"""Trains a small packed DiT with its text encoder: draw, pack, noise, predict, step.

Packing, planning and the flow-matching objective are the functions that generation uses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from recurvid.conditioning import Conditioning
from recurvid.encoders.small import SmallTextEncoder
from recurvid.latents import LatentFrames
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.packing import PackingSchedule, pack_batch
from recurvid.sampling.objective import flow_loss, noised, sample_sigmas
from recurvid.sections import Section
from recurvid.training.budget import Budget, warm_cosine
from recurvid.training.clip_pool import ClipPool
from recurvid.training.ema import Average
from recurvid.training.section_sampling import OrderShare, draw_sections

log = logging.getLogger(__name__)

INVERTED = OrderShare("inverted", "f1k1_x_g9_f1k1f2k2f16k4_td", 0.7)
FORWARD = OrderShare("forward", "f1k1_f16k4f2k2f1k1_g9", 0.3)


@dataclass(frozen=True)
class BackboneRun:
    """Everything that one run needs beside model and clips.

    Attributes:
        history_noise: largest sigma of noise added to history (not anchors), so that the model
            forgives the flaws of what it made itself.
    """

    seconds: float = 480.0
    steps: int = 0  # instead of seconds where it is not 0
    batch: int = 48
    lr: float = 1e-3
    muon_lr: float = 1.5e-3
    shift: float = 2.0
    text_dropout: float = 0.1
    history_noise: float = 0.15
    ema: float = 0.999
    compile: bool = True
    seed: int = 0
    orders: tuple[OrderShare, ...] = field(default=(INVERTED, FORWARD))


class Trained(nn.Module):
    """Backbone and text encoder as one module, for optimiser and averaging."""

    def __init__(self, backbone: PackedDiT, text: SmallTextEncoder):
        super().__init__()
        self.backbone = backbone
        self.text = text


@dataclass(frozen=True)
class Sample:
    """One batch: what to see, what to hit."""

    sections: list[Section]
    schedule: PackingSchedule
    timeline: LatentFrames
    target: Tensor  # (b, c, 9, h, w)
    texts: list[str]


def draw(pools: list[ClipPool], run: BackboneRun, rng: np.random.Generator) -> Sample:
    """One batch from a random pool and a random order."""
    counts = np.array([len(pool.moves) for pool in pools], dtype=float)
    pool = pools[int(rng.choice(len(pools), p=counts / counts.sum()))]
    latents, texts = pool.draw(run.batch, rng)
    shares = np.array([o.share for o in run.orders])
    order = run.orders[int(rng.choice(len(shares), p=shares / shares.sum()))]
    sections = draw_sections(latents.shape[2], run.batch, order, rng)
    texts = ["" if rng.random() < run.text_dropout else text for text in texts]
    rows = torch.arange(latents.shape[0], device=latents.device)[:, None]
    wanted = torch.tensor([list(s.target) for s in sections], device=latents.device)
    target = latents[rows, :, wanted].transpose(1, 2)  # (b, c, 9, h, w)
    timeline = LatentFrames.of(latents, range(latents.shape[2]))
    return Sample(sections, PackingSchedule.parse(order.schedule), timeline, target, texts)


def loss_of(model: Trained, sample: Sample, run: BackboneRun, generator: torch.Generator) -> Tensor:
    """(b,) flow-matching loss of one batch."""
    target, device = sample.target, sample.target.device
    timeline = _worn(sample.timeline, run, generator)
    packed = pack_batch(sample.schedule, sample.sections, timeline)
    sigma = sample_sigmas(len(sample.texts), shift=run.shift).to(device)
    noise = torch.randn(target.shape, device=device, generator=generator)
    embeds = model.text(sample.texts)
    velocity = model.backbone(
        LatentFrames(noised(target, noise, sigma), packed.target_index),
        sigma * 1000,
        Conditioning(embeds.text, embeds.mask, embeds.pooled),
        packed.context,
    )
    return flow_loss(velocity, target, noise)


def _worn(timeline: LatentFrames, run: BackboneRun, generator: torch.Generator) -> LatentFrames:
    """History with noise of a random strength a sample; position 0, the picture, stays clean."""
    data = timeline.data
    strength = torch.rand(data.shape[0], 1, 1, 1, 1, device=data.device, generator=generator)
    strength = (strength * 2 - 1).clamp(min=0) * run.history_noise  # half of the samples clean
    noise = torch.randn(data.shape, device=data.device, generator=generator)
    strength = strength * (timeline.index > 0)[:, None, :, None, None]
    return LatentFrames((1 - strength) * data + strength * noise, timeline.index)


def optimizers(model: Trained, run: BackboneRun) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' attention and feed-forward matrices, AdamW for everything else."""
    blocks = [*model.backbone.transformer_blocks, *model.backbone.single_transformer_blocks]
    # modulation sees few, much alike inputs: orthogonal updates would amplify their noise
    matrices = [
        p
        for block in blocks
        for name, p in block.named_parameters()
        if p.ndim == 2 and "norm" not in name
    ]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=run.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=run.lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def train(
    model: Trained, pools: list[ClipPool], run: BackboneRun,
    at_step: Callable[[int, float, Average], None] | None = None, began: float | None = None,
) -> Average:  # fmt: skip
    """Train until ``run.seconds`` after ``began`` (default: now), or for ``run.steps``.

    Args:
        at_step: called after every 100th step: (step, mean loss since, averages).

    Returns:
        the averaged weights.
    """
    torch.manual_seed(run.seed)
    rng = np.random.default_rng(run.seed)
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(run.seed)
    if device.type == "cuda":
        # cuDNN's backward kernel reads out of bounds at these shapes (torch 2.11, H100)
        torch.backends.cuda.enable_cudnn_sdp(False)
    if run.compile:
        for block in [
            *model.backbone.transformer_blocks,
            *model.backbone.single_transformer_blocks,
        ]:
            block.compile(dynamic=False)
    steppers = optimizers(model, run)
    rates = [group["lr"] for o in steppers for group in o.param_groups]
    average = Average(model, run.ema)
    now, step, losses = time.monotonic(), 0, list[Tensor]()
    budget = Budget((began or now) + run.seconds - now, run.steps, now)
    while (progress := budget.progress(step)) < 1:
        factor = warm_cosine(step, progress, warm=100, flat=0.4)
        for rate, group in zip(rates, (g for o in steppers for g in o.param_groups), strict=True):
            group["lr"] = rate * factor
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(model, draw(pools, run, rng), run, generator).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in steppers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update(model, step)
        step += 1
        losses.append(loss.detach())
        if step % 100 == 0:
            value = float(torch.stack(losses).mean())
            losses.clear()
            log.info("backbone step %d loss %.4f", step, value)
            if at_step:
                at_step(step, value, average)
    return average
