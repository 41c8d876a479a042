"""Which layers of a backbone bear few bits.

Rounded are the wide layers of the blocks, where nearly all arithmetic is. Embedders, the text
refiner, modulation and the two ends of the network stay as they are: they are small or run once a
prompt, and an error in them reaches every token.

A large model's first blocks stay whole too in forms whose products are in 8 bits: what they get
wrong passes through all that follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from recurvid.models.packed_dit.config import PackedDiTConfig
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.ops.linear.forms import Converted, convert, form_named

#: Forms that round activations too.
ROUNDED_PRODUCTS = frozenset({"int8", "fp8"})
#: So many blocks of each kind, from the first on, stay whole in these. On an H100 int8 puts a step
#: of the 13B model 3.13 % from bf16 if all blocks are rounded, 2.82 % without the first three of
#: each kind, 2.59 % without the first five; 3 % is what a step may err, and three cost 1.0 GB.
KEPT = 3
#: In a model of at least so many blocks; of a smaller one they would be a good part.
LEAST_BLOCKS = 20

_WIDE = re.compile(
    r"(single_)?transformer_blocks\.(\d+)\."
    r"(attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
    r"|ff(_context)?\.net\.(0\.proj|2)|proj_mlp|proj_out)"
)


def bears_few_bits(name: str) -> bool:
    """Whether the layer of this name is one of those that are rounded, in some block."""
    return _WIDE.fullmatch(name) is not None


def rounded_in(form: str, config: PackedDiTConfig, kept: int = KEPT) -> Callable[[str], bool]:
    """Tells of a layer, by its name, whether a form rounds it in a model of this configuration.

    Args:
        kept: blocks of each kind that stay whole, where any do.
    """
    large = config.num_layers + config.num_single_layers >= LEAST_BLOCKS
    first = kept if large and form in ROUNDED_PRODUCTS else 0

    def is_rounded(name: str) -> bool:
        found = _WIDE.fullmatch(name)
        return found is not None and int(found[2]) >= first

    return is_rounded


def quantize(
    model: PackedDiT, form: str, device: torch.device | str | None = None, *, kept: int = KEPT
) -> Converted:
    """Put the wide layers of a backbone into a form, in place.

    Args:
        form: a name in ``ops.linear.forms.FORMS``.
        device: where the model will run; converted layers are moved there, one by one. None:
            where it lies.
        kept: see ``rounded_in``.

    Raises:
        ComponentError: unknown form, or one that the device cannot run.
    """
    where = model.proj_out.weight.device if device is None else torch.device(device)
    return convert(model, form_named(form, where), rounded_in(form, model.config, kept), where)
