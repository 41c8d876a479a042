"""TAEHV files -> codec: the bundled model's, and the ones that users have.

The published files (``taehv.safetensors``) are flat ``encoder.N`` / ``decoder.N`` tensors without
a configuration, so the shape is read off the tensors. Ours keep it beside them as ``NAME.json``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recurvid.checkpoints.checkpoint import Checkpoint, some, source_name
from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.int8 import dequantized
from recurvid.checkpoints.keymap import IDENTITY
from recurvid.errors import CheckpointError
from recurvid.vae.taehv import TAEHV, TAEHVConfig
from recurvid.vae.taehv_codec import TAEHVCodec

# Where the tensors that show a stage's size stand in the nn.Sequential of the published files.
_DECODER_IN, _DECODER_OUT = "decoder.1.weight", "decoder.22.weight"
_DECODER_GROW = ("decoder.7.conv.weight", "decoder.13.conv.weight", "decoder.19.conv.weight")
_DECODER_WIDEN = ("decoder.8.weight", "decoder.14.weight", "decoder.20.weight")
_ENCODER_IN = "encoder.0.weight"
_ENCODER_POOL = ("encoder.2.conv.weight", "encoder.7.conv.weight", "encoder.12.conv.weight")


def load_taehv(
    source: Checkpoint | str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TAEHVCodec:
    """Load a TAEHV file, ours or a published one; int8 storage is undone.

    Args:
        dtype: keep float32 on a CPU, where half precision convolutions are unusably slow.

    Raises:
        CheckpointError: one line naming the file: damaged, of another layout or size.
    """
    opened = open_checkpoint(source) if isinstance(source, str | Path) else source
    checkpoint = dequantized(opened)
    config = find_config(checkpoint)
    with torch.device("meta"):
        model = TAEHV(config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    checkpoint = IDENTITY.apply(checkpoint, expected)
    state: dict[str, Tensor] = {}
    for name in expected:
        # A copy: convolutions want their weights in memory, and the map is read-only.
        state[name] = checkpoint.tensor(name).to(device=device, dtype=dtype, copy=True)
    model.load_state_dict(state, strict=True, assign=True)
    # A tenth faster on a CPU. (torch declares this call only with a device before it.)
    model.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return TAEHVCodec(model.eval().requires_grad_(False))


def find_config(checkpoint: Checkpoint) -> TAEHVConfig:
    """``NAME.json`` beside the weights, or what the tensors' shapes say.

    Raises:
        CheckpointError: a configuration that makes no TAEHV, or tensors of another layout.
    """
    names = checkpoint.keys()
    if not any(re.match(r"decoder\.\d+\.", name) for name in names):
        raise CheckpointError(f"{source_name(checkpoint)}: not a TAEHV file ({some(names)})")
    file = checkpoint.file_of(names[0])
    beside = file.with_suffix(".json")
    return _parse(beside) if beside.is_file() else infer_config(checkpoint)


def infer_config(checkpoint: Checkpoint) -> TAEHVConfig:
    """The shape of a published file. CheckpointError when it has another layout."""
    present = set(checkpoint.keys())

    def shape(name: str) -> tuple[int, ...]:
        if name not in present:
            raise CheckpointError(
                f"{source_name(checkpoint)}: not TAEHV's layout for HunyuanVideo, {name} is missing"
            )
        return checkpoint.shape(name)

    if shape(_DECODER_OUT)[0] != 3 or shape(_ENCODER_IN)[1] != 3:
        raise CheckpointError(
            f"{source_name(checkpoint)}: a TAEHV for another model (its pixels come in patches); "
            "use the file for HunyuanVideo, taehv.safetensors"
        )
    first = shape(_DECODER_IN)
    grow = [shape(name) for name in _DECODER_GROW]
    pool = [shape(name) for name in _ENCODER_POOL]
    w1, w2, w3 = (shape(name)[0] for name in _DECODER_WIDEN)
    d1, d2, d3 = (g[0] // g[1] for g in grow)
    e1, e2, e3 = (p[1] // p[0] for p in pool)
    return TAEHVConfig(
        latent_channels=first[1],
        encoder_width=shape(_ENCODER_IN)[0],
        decoder_widths=(first[0], w1, w2, w3),
        encoder_time_strides=(e1, e2, e3),
        decoder_time_strides=(d1, d2, d3),
    )


def _parse(path: Path) -> TAEHVConfig:
    try:
        raw: Any = json.loads(path.read_text("utf-8"))
        config = TAEHVConfig.from_dict(raw)
        with torch.device("meta"):
            TAEHV(config)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        reason = str(error).splitlines()[0][:120]
        raise CheckpointError(f"{path}: not a TAEHV configuration ({reason})") from error
    return config
