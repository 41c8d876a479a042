"""A backbone as this machine shall run it: its attention kernel, form of weights, compilation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from recurvid.generation.runtime import Runtime
from recurvid.models.compiled import compile_blocks, fuse_products
from recurvid.models.loading import load_backbone
from recurvid.models.packed_dit.config import PackedDiTConfig
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.models.quantized import quantize
from recurvid.ops.attention.backend import AttentionBackend, AttentionSpec
from recurvid.ops.attention.local_windows import sparse
from recurvid.ops.attention.registry import attention_backend


def attention_for(
    runtime: Runtime, config: PackedDiTConfig, dtype: torch.dtype
) -> AttentionBackend:
    """The kernel that was asked for, in windows if so asked.

    Raises:
        ComponentError: it cannot serve this model here; says why.
    """
    spec = AttentionSpec(runtime.device.type, dtype, config.attention_head_dim)
    dense = attention_backend(runtime.attention, spec)
    return dense if runtime.sparse is None else sparse(dense, runtime.sparse)


def dense_for(
    runtime: Runtime, config: PackedDiTConfig, dtype: torch.dtype
) -> AttentionBackend | None:
    """What attends in the first steps in place of a sparse kernel; None for no other.

    Raises:
        ComponentError: as for ``attention_for``.
    """
    if runtime.sparse is None:
        return None
    return attention_for(replace(runtime, sparse=None), config, dtype)


def exact_for(
    runtime: Runtime, config: PackedDiTConfig, dtype: torch.dtype
) -> AttentionBackend | None:
    """What attends in the first and last steps in place of a kernel that rounds; None for no other.

    Raises:
        ComponentError: as for ``attention_for``.
    """
    if attention_for(runtime, config, dtype).exact or runtime.exact_steps == 0:
        return None
    spec = AttentionSpec(runtime.device.type, dtype, config.attention_head_dim)
    return attention_backend("auto", spec)


def load_tuned(
    path: Path, dtype: torch.dtype, runtime: Runtime, attention: AttentionBackend
) -> PackedDiT:
    """The backbone on its device. With few bits, one layer at a time arrives in full size."""
    few = runtime.weights != "auto"
    model = load_backbone(path, dtype=dtype, device="cpu" if few else runtime.device)
    if few:
        quantize(model, runtime.weights, runtime.device)
        model = model.to(runtime.device)
    model.attention = attention
    return finished(model, runtime)


def finished(model: PackedDiT, runtime: Runtime) -> PackedDiT:
    """Its blocks compiled if so asked; else, in 8 bits on a card, with GELU in the rounding."""
    if runtime.compiled:
        return compile_blocks(model)
    eight = runtime.weights in ("int8", "fp8") and runtime.device.type == "cuda"
    return fuse_products(model, on=eight)
