"""Folders of tiny models in the layouts of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tests.generation.tiny_components import DIT, TAE, tiny_codec

from recurvid.checkpoints.int8 import save_quantized
from recurvid.encoders.small import SmallTextConfig, SmallTextEncoder, to_json
from recurvid.models.packed_dit.model import PackedDiT

TEXT = SmallTextConfig(buckets=64, width=8, tokens=6)


def write_small_model(folder: Path) -> Path:
    """The bundled model's layout: dit, vae and text."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_quantized(PackedDiT(DIT).state_dict(), folder / "dit.safetensors")
    (folder / "dit.json").write_text(json.dumps(DIT.to_dict()))
    save_quantized(tiny_codec().module.state_dict(), folder / "vae.safetensors")
    (folder / "vae.json").write_text(json.dumps(TAE.to_dict()))
    save_quantized(SmallTextEncoder(TEXT).state_dict(), folder / "text.safetensors")
    (folder / "text.json").write_text(to_json(TEXT))
    return folder
