"""torch.compile of the repeated blocks: one compile for all of a kind.

Blocks of one kind run the same code on other weights, so that the first one's compiled form
serves the rest, and the next section, and blocks whose weights are streamed in. What lies between
blocks stays as it is: it is small, and iterating over blocks must stay possible.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from recurvid.models.packed_dit.blocks import Activated, JointAttention, SingleBlock
from recurvid.models.packed_dit.in_pieces import Parts
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.ops.linear.products import scales_rows


def compile_blocks(model: PackedDiT, *, fused: bool = True, **options: Any) -> PackedDiT:
    """Let every block compile at its first call; parameter names stay as they are.

    In a model whose blocks work on some tokens at a time it is what they do with those.

    Args:
        fused: see :func:`fuse_products`.
        options: of ``torch.compile``, such as ``backend`` or ``mode``.
    """
    fuse_products(model, on=fused)
    # here and not where it stands: saying so imports the compiler, which takes seconds
    torch.compiler.assume_constant_result(scales_rows)
    if model.pieces is not None:
        model.pieces = replace(model.pieces, parts=Parts.compiled(**options))
        return model
    for block in blocks_of(model):
        block.compile(fullgraph=True, **options)
    return model


def fuse_products(model: PackedDiT, *, on: bool = True) -> PackedDiT:
    """Let products bend and add up their own results, and one kernel norm and turn q and k.

    Changes numbers by rounding only.
    """
    for module in model.modules():
        if isinstance(module, Activated | JointAttention | SingleBlock):
            module.fused = on
    return model


def blocks_of(model: PackedDiT) -> tuple[nn.Module, ...]:
    """All blocks, in order."""
    return (*model.transformer_blocks, *model.single_transformer_blocks)
