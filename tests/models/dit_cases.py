"""Random tiny transformers in two guises, ours and diffusers', with inputs for both."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from recurvid.conditioning import Conditioning
from recurvid.latents import LatentFrames
from recurvid.models.packed_dit.config import PackedDiTConfig, parse_kernel
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.packing.pack import ContextGroup, PackedContext


def diffusers_model(values: dict[str, Any]) -> Any:
    """diffusers' class with random weights."""
    from diffusers.models.transformers import transformer_hunyuan_video_framepack as theirs

    return theirs.HunyuanVideoFramepackTransformer3DModel.from_config(values)


def group(kernel: str, data: Tensor, index: Tensor) -> ContextGroup:
    return ContextGroup(parse_kernel(kernel), LatentFrames(data, index))


@dataclass
class Case:
    """One random shape of model and inputs, all drawn from ``seed``."""

    seed: int
    config: PackedDiTConfig = field(init=False)
    size: tuple[int, int] = field(init=False)
    lengths: list[int] = field(init=False)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        dims = rng.choice([(4, 6, 6), (8, 4, 4), (2, 8, 6), (4, 14, 14), (6, 12, 14)])
        self.config = PackedDiTConfig(
            in_channels=(channels := rng.choice([4, 16])),
            out_channels=channels,
            num_attention_heads=rng.choice([1, 2, 3, 4]),
            attention_head_dim=sum(dims),
            num_layers=rng.choice([1, 2, 3]),
            num_single_layers=rng.choice([1, 2, 3]),
            num_refiner_layers=rng.choice([1, 2]),
            mlp_ratio=rng.choice([2.0, 4.0]),
            text_embed_dim=rng.choice([12, 20]),
            pooled_projection_dim=rng.choice([8, 12]),
            guidance_embeds=rng.random() < 0.7,
            image_proj_dim=10,
            rope_axes_dim=dims,
            rope_theta=rng.choice([256.0, 10_000.0]),
        )
        self.size = rng.choice([4, 6, 8, 10, 14]), rng.choice([4, 6, 8, 12, 18])
        batch = self.seed % 3 + 1
        self.lengths = [rng.randint(1, 9) for _ in range(batch)]
        if rng.random() < 0.3:
            self.lengths = self.lengths[:1] * batch
        self.image_tokens = rng.choice([0, 5, 7])
        self.frames = {"g": rng.randint(1, 4), "k1": rng.randint(1, 3)}
        self.frames |= {"k2": rng.randint(1, 3), "k4": rng.randint(1, 9)}
        self.index = {k: [rng.randint(0, 60) for _ in range(n)] for k, n in self.frames.items()}

    def diffusers_model(self, *, sharp: bool = True) -> Any:
        torch.manual_seed(self.seed)
        values = {k: v for k, v in self.config.to_dict().items() if k != "context_kernels"}
        model = diffusers_model(values)
        randomise(model, sharp=sharp)
        return model.eval()

    def inputs(self, dtype: torch.dtype = torch.float32) -> SimpleNamespace:
        g = torch.Generator().manual_seed(self.seed)
        b, c = len(self.lengths), self.config

        def rand(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g).to(dtype)

        latents = {k: rand(b, c.in_channels, n, *self.size) for k, n in self.frames.items()}
        mask = torch.arange(11)[None] < torch.tensor(self.lengths)[:, None]
        conditioning = Conditioning(
            text=rand(b, 11, c.text_embed_dim),
            text_mask=mask,
            pooled=rand(b, c.pooled_projection_dim),
            image=rand(b, self.image_tokens, c.image_proj_dim),
            guidance=torch.rand(b, generator=g) * 12 if c.guidance_embeds else None,
        )
        timestep = torch.rand(b, generator=g) * 1000
        return SimpleNamespace(latents=latents, conditioning=conditioning, timestep=timestep)

    def run_diffusers(self, model, x: SimpleNamespace) -> Tensor:
        """diffusers' forward on these inputs (one index for the whole batch)."""
        cond, index = x.conditioning, {k: torch.tensor(v) for k, v in self.index.items()}
        return model(
            hidden_states=x.latents["g"],
            timestep=x.timestep,
            encoder_hidden_states=cond.text,
            encoder_attention_mask=cond.text_mask,
            pooled_projections=cond.pooled,
            image_embeds=cond.image,
            indices_latents=index["g"],
            guidance=None if cond.guidance is None else cond.guidance * 1000,
            latents_clean=x.latents["k1"],
            indices_latents_clean=index["k1"],
            latents_history_2x=x.latents["k2"],
            indices_latents_history_2x=index["k2"],
            latents_history_4x=x.latents["k4"],
            indices_latents_history_4x=index["k4"],
            return_dict=False,
        )[0]

    def run_ours(self, model: PackedDiT, x: SimpleNamespace, **kwargs) -> Tensor:
        frames = {k: LatentFrames.of(x.latents[k], self.index[k]) for k in self.index}
        context = PackedContext(
            tuple(group(k, frames[k].data, frames[k].index) for k in ("k4", "k2", "k1"))
        )
        return model(frames["g"], x.timestep, x.conditioning, context, **kwargs)


@torch.no_grad()
def randomise(model: torch.nn.Module, *, sharp: bool = True) -> None:
    """Weights of a size at which every input moves the output.

    ``sharp``: q and k norms around sqrt(8), so that positions count as in a trained model.
    """
    low, high = (2.0, 3.5) if sharp else (0.7, 1.3)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            p.normal_(0, (1.0 / p[0].numel()) ** 0.5)
        elif "norm_q" in name or "norm_k" in name or "norm_added" in name:
            p.uniform_(low, high)
        elif "norm" in name and name.endswith("weight"):
            p.uniform_(0.5, 1.5)
        else:
            p.normal_(0, 0.2)


def relative(a: Tensor, b: Tensor) -> float:
    """Relative L2 error of a against b."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()
