"""What depends on prompt and timestep only, made once a job and never held again.

AdaLN of all blocks, ``norm_out``, the text refiner, the embeddings of time, guidance and pooled
prompt, and the projection of image tokens: 3.80 of the 12.87 billion parameters of the 13B model.
For the fixed timesteps of a job they give 2.2 MB of modulation a step and the prompt's tokens.
Each timestep is a call of its own, as in a plain forward pass, so the bits are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from recurvid.conditioning import Conditioning
from recurvid.memory.residency import visiting
from recurvid.models.packed_dit.blocks import DoubleBlock, SingleBlock
from recurvid.models.packed_dit.model import PackedDiT, PromptState, Vectors
from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.sdpa import SDPA

#: Submodules that are evaluated once a job. In blocks: their modulation, by its name.
ONCE = ("context_embedder", "image_projection", "time_text_embed", "norm_out")
_MODULATION = ("norm1.", "norm1_context.", "norm.")


def is_modulation(name: str) -> bool:
    """Whether a tensor of a block, by its name in it, is only needed to make vectors."""
    return name.startswith(_MODULATION)


@torch.no_grad()
def precompute(
    model: PackedDiT,
    conditioning: Conditioning,
    timesteps: Sequence[Tensor],
    device: torch.device,
    attention: AttentionBackend = SDPA,
) -> list[PromptState]:
    """The prompt's state with all vectors at each timestep, on the device.

    The weights may lie anywhere; each visits the device and leaves it again, block by block.

    Args:
        conditioning: on the device.
        timesteps: (b,) each, 1000 * sigma, on the device, as the model would be called with.
    """
    with visiting(device, model.time_text_embed, model.context_embedder, model.image_projection):
        states = [model.embed_prompt(conditioning, t, attention) for t in timesteps]
    double: list[list[tuple[Tensor, Tensor]]] = [[] for _ in states]
    single: list[list[Tensor]] = [[] for _ in states]
    # Children, not iteration: the lists may be of the kind that brings whole blocks along.
    for block in cast(Iterable[DoubleBlock], model.transformer_blocks.children()):
        with visiting(device, block.norm1, block.norm1_context):
            for made, state in zip(double, states, strict=True):
                made.append(block.vectors(state.temb))
    for block in cast(Iterable[SingleBlock], model.single_transformer_blocks.children()):
        with visiting(device, block.norm):
            for made, state in zip(single, states, strict=True):
                made.append(block.vectors(state.temb))
    with visiting(device, model.norm_out):
        return [
            replace(state, vectors=Vectors(tuple(d), tuple(s), model.norm_out(state.temb)))
            for state, d, s in zip(states, double, single, strict=True)
        ]
