"""Which layers of a backbone bear few bits.

Rounded are the wide layers of the blocks, where nearly all arithmetic is. Embedders, the text
refiner, modulation and the two ends of the network stay as they are: they are small or run once a
prompt, and an error in them reaches every token.
"""

from __future__ import annotations

import re

import torch

from recurvid.models.packed_dit.model import PackedDiT
from recurvid.ops.linear.forms import Converted, convert, form_named

_WIDE = re.compile(
    r"(single_)?transformer_blocks\.\d+\."
    r"(attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
    r"|ff(_context)?\.net\.(0\.proj|2)|proj_mlp|proj_out)"
)


def bears_few_bits(name: str) -> bool:
    """Whether the layer of this name is rounded."""
    return _WIDE.fullmatch(name) is not None


def quantize(model: PackedDiT, form: str, device: torch.device | str | None = None) -> Converted:
    """Put the wide layers of a backbone into a form, in place.

    Args:
        form: a name in ``ops.linear.forms.FORMS``.
        device: where the model will run; converted layers are moved there, one by one. None:
            where it lies.

    Raises:
        ComponentError: unknown form, or one that the device cannot run.
    """
    where = model.proj_out.weight.device if device is None else torch.device(device)
    return convert(model, form_named(form, where), bears_few_bits, where)
