"""Weights on disk -> backbone, strictly: every tensor is used and every parameter filled."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import torch

from recurvid.checkpoints.checkpoint import Checkpoint, some, source_name
from recurvid.checkpoints.dialects import FRAMEPACK
from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.int8 import dequantized
from recurvid.checkpoints.keymap import KeyMap, Rename
from recurvid.errors import CheckpointError, RecurVidError
from recurvid.models.packed_dit.config import PRESETS, PackedDiTConfig
from recurvid.models.packed_dit.model import PackedDiT

_BLOCKS = {
    "transformer_blocks": "num_layers",
    "single_transformer_blocks": "num_single_layers",
    "context_embedder.token_refiner.refiner_blocks": "num_refiner_layers",
}

_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "model.", "module.")

#: What other files can be known by: a pattern of one of their tensor names, and what they are.
#: In order; the first that matches names the file.
_FOREIGN: tuple[tuple[str, str], ...] = (
    (r"\.lora_(A|B|down|up)\b|\.lora\.(down|up)\.|\.hada_w|\.lokr_", "a LoRA, not a whole model"),
    (r"^model\.diffusion_model\.input_blocks\.|^input_blocks\.", "a Stable Diffusion model"),
    (r"^(encoder|decoder)\.(mid_block|conv_in|mid\.)|quant_conv", "a VAE"),
    (r"^(decoder|encoder)\.\d+\.", "a TAEHV decoder"),
    (r"^vision_model\.", "an image encoder"),
    (r"^(model\.)?layers\.\d+\.self_attn|^(text_model\.)?encoder\.layers\.", "a text encoder"),
    (r"(^|\.)blocks\.\d+\.(self_attn|cross_attn|attn1)\.", "a Wan model"),
    (r"(^|\.)double_blocks\.\d+\.img_attn", "a model in Tencent's or FLUX's original naming"),
    (r"^joint_blocks\.|\.joint_blocks\.", "a Stable Diffusion 3 model"),
)  # fmt: skip


def load_backbone(
    source: Checkpoint | str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    config: PackedDiTConfig | None = None,
) -> PackedDiT:
    """Build a backbone and fill it.

    The model is built on the meta device and takes the checkpoint's tensors as they are: weights
    already of type ``dtype`` stay on the memory map when ``device`` is the CPU. fp8 files are
    cast up, int8 storage is undone.

    Args:
        source: a weights file, an index, their folder, or an open Checkpoint.
        dtype: floating point type of all parameters.
        config: the architecture; by default ``config.json`` (or ``NAME.json``) beside the
            weights, then the file's metadata, then the preset "13b".

    Returns:
        The backbone in eval mode, no gradients asked for.

    Raises:
        CheckpointError: one line naming file and tensor: damaged, of another architecture, or of
            another size.
    """
    checkpoint, config = native(source, config)
    model = skeleton(config, source_name(checkpoint))
    state = {n: checkpoint.tensor(n).to(device=device, dtype=dtype) for n in model.state_dict()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def native(
    source: Checkpoint | str | Path, config: PackedDiTConfig | None = None
) -> tuple[Checkpoint, PackedDiTConfig]:
    """A checkpoint under native names that fills exactly the model of its configuration.

    Only headers are read.

    Raises:
        CheckpointError: see :func:`load_backbone`.
    """
    checkpoint = open_checkpoint(source) if isinstance(source, str | Path) else source
    checkpoint = _unprefixed(dequantized(checkpoint))
    _refuse_foreign(checkpoint)
    config = config or find_config(checkpoint)
    _check_depth(checkpoint, config)
    model = skeleton(config, source_name(checkpoint))
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    checkpoint = FRAMEPACK.apply(checkpoint, expected)
    for name in expected:
        if not checkpoint.dtype(name).is_floating_point:
            kind = str(checkpoint.dtype(name)).removeprefix("torch.")
            where = checkpoint.file_of(name)
            raise CheckpointError(f"{where}: tensor {name} holds {kind}, not weights")
    return checkpoint, config


def skeleton(config: PackedDiTConfig, where: str) -> PackedDiT:
    """The model without memory behind its parameters.

    Raises:
        CheckpointError: the configuration makes no model; ``where`` it stood.
    """
    try:
        with torch.device("meta"):
            return PackedDiT(config)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0][:160]
        raise CheckpointError(f"{where}: its configuration makes no model ({reason})") from error


def _unprefixed(checkpoint: Checkpoint) -> Checkpoint:
    """Native names where a repackaged file has put one prefix before all of them."""
    names = checkpoint.keys()
    for prefix in _PREFIXES:
        if any(name.startswith(prefix + "clean_x_embedder.") for name in names):
            return KeyMap((Rename(prefix + "{name}", "{name}"),)).apply(checkpoint)
    return checkpoint


def _refuse_foreign(checkpoint: Checkpoint) -> None:
    """Name a file of another architecture for what it is."""
    names = checkpoint.keys()
    where = source_name(checkpoint)
    if not names:
        raise CheckpointError(f"{where}: holds no tensors")
    packed = any(name.startswith("clean_x_embedder.") for name in names)
    blocks = any(name.startswith("single_transformer_blocks.") for name in names)
    if packed and blocks:
        return
    for pattern, kind in _FOREIGN:
        match = next((name for name in names if re.search(pattern, name)), None)
        if match:
            raise CheckpointError(
                f"{where}: this is {kind}, not a FramePack transformer (tensor {match})"
            )
    if blocks:
        raise CheckpointError(
            f"{where}: a plain HunyuanVideo or FLUX transformer, not FramePack's: "
            "tensor clean_x_embedder.proj.weight is missing"
        )
    raise CheckpointError(f"{where}: not a FramePack transformer (it holds {some(names)})")


def _check_depth(checkpoint: Checkpoint, config: PackedDiTConfig) -> None:
    """Compare block counts before a model of a size that a config merely claims is built."""
    names = checkpoint.keys()
    for prefix, field in _BLOCKS.items():
        numbers = {
            int(match[1])
            for name in names
            if (match := re.match(rf"{re.escape(prefix)}\.(\d{{1,6}})\.", name))
        }
        claimed = getattr(config, field)
        found = max(numbers, default=-1) + 1
        if found != claimed:
            raise CheckpointError(
                f"{source_name(checkpoint)}: {found} {prefix}, the configuration says {claimed}"
            )


def find_config(checkpoint: Checkpoint) -> PackedDiTConfig:
    """The architecture that belongs to a checkpoint; see :func:`load_backbone` for where from.

    Raises:
        CheckpointError: a configuration that is not JSON, or of another class.
    """
    file = checkpoint.file_of(checkpoint.keys()[0])
    for path in (file.with_suffix(".json"), file.parent / "config.json"):
        if path.is_file():
            try:
                text = path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(f"{path}: cannot be read ({error})") from error
            return parse_config(text, str(path))
    if "config" in checkpoint.metadata:
        return parse_config(checkpoint.metadata["config"], f"{file}, metadata 'config'")
    return PRESETS["13b"]


def parse_config(text: str, where: str) -> PackedDiTConfig:
    """A released ``config.json`` (or our own) as a configuration; see PackedDiTConfig.from_dict.

    Raises:
        CheckpointError: not a JSON object, another class, or values that make no model.
    """
    try:
        raw: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not valid JSON ({str(error)[:80]})") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{where}: not a JSON object")
    try:
        return PackedDiTConfig.from_dict(cast("dict[str, Any]", raw))
    except (RecurVidError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from error
