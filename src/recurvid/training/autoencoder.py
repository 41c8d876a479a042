"""Trains the bundled autoencoder (TAEHV's layout) on pictures under a moving camera.

Lessons kept from earlier tries: plain L1 learns green-magenta last (its variance is smallest), so
the loss weighs decorrelated colours; short crops let the colours of long clips slide, so crops have
25 frames (about as far as the decoder's memory reaches back); random weights stay under a linear
code for many minutes, so the start is that code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recurvid.training.budget import Budget, warm_cosine
from recurvid.training.camera import MoveRange, draw_paths, render
from recurvid.training.ema import Average
from recurvid.training.linear_start import fit, install
from recurvid.vae.taehv import TAEHV, MemBlock, TAEHVConfig

log = logging.getLogger(__name__)

BUNDLED = TAEHVConfig(
    latent_channels=48,
    encoder_width=96,
    decoder_widths=(128, 128, 96, 96),
    patch_size=8,
    encoder_space_strides=(1, 1, 1),
    decoder_space_scales=(1, 1, 1),
)
# rows: luma, blue-yellow, green-magenta; weights make up for their small variance
_COLOUR_ROWS = ((1 / 3, 1 / 3, 1 / 3), (0.5, 0.0, -0.5), (-0.25, 0.5, -0.25))
_COLOUR_WEIGHTS = (1.0, 2.0, 3.0)


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one crop shape (one compile)."""

    share: float  # of the whole time
    batch: int
    frames: int
    size: int


@dataclass(frozen=True)
class AutoencoderRun:
    """Everything that one run needs beside the pictures.

    Attributes:
        latent_noise: of the noise added to latents, in the units in which ``encode`` gives them.
        decoder_only: leave the encoder, and with it the meaning of latents, as it is. Noise is
            then of random strength up to ``latent_noise``, and the first latent has none: a
            backbone's latents are never quite right, the start picture's are.
    """

    seconds: float = 120.0
    steps: int = 0  # instead of seconds where it is not 0
    lr: float = 5e-4
    phases: tuple[Phase, ...] = (Phase(1.0, 12, 25, 128),)
    latent_noise: float = 0.006
    decoder_only: bool = False
    ema: float = 0.998
    compile: bool = True
    seed: int = 0
    config: TAEHVConfig = BUNDLED


def fresh(config: TAEHVConfig) -> TAEHV:
    """He initialisation; each residual branch starts small."""
    model = TAEHV(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, MemBlock):
            last = module.conv[4]
            assert isinstance(last, torch.nn.Conv2d)
            last.weight.data.mul_(0.1)
    return model


def linear_start(config: TAEHVConfig, pictures: Tensor, device: torch.device) -> TAEHV:
    """A fresh model that already is the best linear code of the pictures."""
    model, rng = fresh(config), np.random.default_rng(1)
    clips = [draw_clips(pictures, rng, Phase(0.0, 16, 9, 64), device).cpu() for _ in range(16)]
    install(model, fit(torch.cat(clips), config.encoder_width // 2, config.latent_channels))
    return model


def reconstruction_loss(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Loss between clips x, y (b, 3, t, h, w) in -1..1, with latents z; a scalar.

    The first frame counts three times: it is what a viewer compares with the picture.
    """
    rows = torch.tensor(_COLOUR_ROWS, device=x.device) * torch.tensor(
        _COLOUR_WEIGHTS, device=x.device
    ).unsqueeze(1)
    d = torch.einsum("oc,bcthw->bothw", rows, y - x)
    weight = torch.ones(x.shape[2], device=x.device)
    weight[0] = 3.0
    weight = (weight / weight.mean()).view(1, 1, -1, 1, 1)
    pixel = ((d.abs() + 2 * d.pow(2)) * weight).mean() + 2 * ((y - x).pow(2) * weight).mean()
    coarse = F.avg_pool3d(d, (1, 4, 4)).abs().mean()
    edges = sum(
        ((x - y).diff(dim=k).abs().mean() for k in (2, 3, 4)), torch.zeros((), device=x.device)
    )
    return pixel + coarse + 0.25 * edges + 1e-4 * z.float().pow(2).mean()


def draw_clips(
    pictures: Tensor, rng: np.random.Generator, phase: Phase, device: torch.device
) -> Tensor:
    """Clips for the autoencoder: faster moves, more stills, mixed-up colours."""
    speeds = MoveRange(pan=(0.2, 3.0), zoom=(0.002, 0.015), still_share=0.2)
    size = (phase.size, phase.size)
    path, _, _ = draw_paths(
        phase.batch, rng, pictures=len(pictures), frames=phase.frames, size=size, speeds=speeds
    )
    # small crops of a large picture: as sharp as a photograph scaled down to 192 pixels
    scale = torch.from_numpy(rng.uniform(0.7, 2.2, phase.batch).astype(np.float32))
    reach = (phase.size / 2 + 8) * scale
    spot = torch.from_numpy(rng.random((phase.batch, 2)).astype(np.float32))
    extent = torch.tensor([720.0, 360.0]) - 2 * reach[:, None]
    path = replace(path, scale=scale, centre=reach[:, None] + spot * extent.clamp(min=0))
    x = render(pictures, path.to(device), phase.frames, size)
    mixed = torch.from_numpy(rng.random(phase.batch) < 0.2).to(device)
    order = torch.from_numpy(rng.permutation(3)).to(device)
    return torch.where(mixed.view(-1, 1, 1, 1, 1), x[:, order], x)


def train(
    pictures: Tensor, run: AutoencoderRun, device: torch.device,
    report: Callable[[int, float], None] | None = None, start: TAEHV | None = None,
) -> TAEHV:  # fmt: skip
    """Train for ``run.seconds`` or ``run.steps``; returns averaged weights with latent statistics.

    Args:
        pictures: (n, 3, h, w) uint8 on ``device``.
        report: called with (step, loss) every 200 steps.
        start: weights to go on from.
    """
    torch.manual_seed(run.seed)
    rng = np.random.default_rng(run.seed)
    model = start or linear_start(run.config, pictures, device)
    model = model.to(device, memory_format=torch.channels_last)  # pyright: ignore
    average = Average(model, run.ema)
    if run.decoder_only:
        model.encoder.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=run.lr, betas=(0.9, 0.99), weight_decay=1e-4)

    def objective(x: Tensor, noise: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            z = model.encode(x)
            y = model.decode(z + noise)
        return reconstruction_loss(x, y.float(), z)

    step, over, budget = 0, 0.0, Budget(run.seconds, run.steps)
    for phase in run.phases:
        over += phase.share
        compiled = torch.compile(objective, dynamic=False) if run.compile else objective
        while (progress := budget.progress(step)) < min(over, 1.0):
            for group in optimizer.param_groups:
                group["lr"] = run.lr * warm_cosine(step, progress, warm=200, flat=0.35)
            x = draw_clips(pictures, rng, phase, device)
            b, _, t, h, w = x.shape
            latent = (b, run.config.latent_channels, (t - 1) // 4 + 1, h // 8, w // 8)
            loss = compiled(x, _latent_noise(latent, run, device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            average.update(model, step)
            step += 1
            if step % 200 == 0:
                value = loss.item()
                log.info("autoencoder step %d loss %.4f", step, value)
                if report:
                    report(step, value)
    average.copy_to(model)
    return model.eval() if run.decoder_only else with_statistics(model, pictures, rng, device)


def _latent_noise(
    shape: tuple[int, ...], run: AutoencoderRun, device: torch.device
) -> Tensor:  # fmt: skip
    """What is added to latents (b, c, t, h, w) before they are decoded."""
    noise = run.latent_noise * torch.randn(shape, device=device)
    if run.decoder_only:
        noise *= torch.rand(shape[0], 1, 1, 1, 1, device=device)
        noise[:, :, 0] = 0
    return noise


@torch.no_grad()
def with_statistics(
    model: TAEHV, pictures: Tensor, rng: np.random.Generator, device: torch.device
) -> TAEHV:
    """The same weights with per-channel latent mean and deviation in the config."""
    plain = TAEHV(replace(model.config, latent_mean=(), latent_std=())).to(device)
    plain.load_state_dict(model.state_dict())
    phase = Phase(0.0, 4, 17, 96)
    z = torch.cat([plain.encode(draw_clips(pictures, rng, phase, device)) for _ in range(8)])
    spread = float(z.std((0, 2, 3, 4)).square().mean().sqrt())
    config = replace(
        plain.config,
        latent_mean=tuple(round(v, 5) for v in z.mean((0, 2, 3, 4)).tolist()),
        # one scale for all: channels keep their order of importance, coarse before fine
        latent_std=(round(spread, 5),) * z.shape[1],
    )
    result = TAEHV(config).to(device)
    result.load_state_dict(plain.state_dict())
    return result.eval()
