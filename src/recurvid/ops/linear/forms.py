"""Every form a linear layer's weights can take, by name, and a model's layers put into one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from recurvid.errors import ComponentError
from recurvid.ops.linear.layers import CodebookLinear, Int8Storage, fp8, int8
from recurvid.ops.linear.products import why_not_fp8
from recurvid.ops.linear.rounding import GROUP, INT4, NF4


@dataclass(frozen=True)
class Form:
    """One way to keep and multiply the weight of a linear layer.

    Attributes:
        make: nn.Linear -> the module that takes its place.
        bits: of one weight, scales included, for wide layers.
        multiple: in_features must be a multiple of it.
        why_not: device -> None, or in words why it cannot run there.
        helps: what it is for, in a few words.
    """

    make: Callable[[nn.Linear], nn.Module]
    bits: float
    multiple: int
    why_not: Callable[[torch.device], str | None]
    helps: str


def _anywhere(device: torch.device) -> str | None:
    return None


def _int8_units(device: torch.device) -> str | None:
    if device.type in ("cuda", "cpu"):
        return None
    return f"torch has no int8 product on {device.type}"


#: The name of no form: weights as they are.
AUTO = "auto"

FORMS: dict[str, Form] = {
    "int8": Form(int8, 8.0, 1, _int8_units, "speed and memory; RTX 20 and newer"),
    "fp8": Form(fp8, 8.0, 1, why_not_fp8, "speed and memory; RTX 40, H100 and newer"),
    "int8-weights": Form(Int8Storage, 8.0, 1, _anywhere, "memory"),
    "nf4": Form(partial(CodebookLinear, book=NF4), 4.25, GROUP, _anywhere, "memory"),
    "int4": Form(partial(CodebookLinear, book=INT4), 4.25, GROUP, _anywhere, "memory"),
}


def form_named(name: str, device: torch.device) -> Form:
    """A form that can run on a device.

    Raises:
        ComponentError: unknown name, or the device cannot; says why.
    """
    if name not in FORMS:
        raise ComponentError(f"weights {name!r} are unknown; known: {', '.join(FORMS)}")
    reason = FORMS[name].why_not(device)
    if reason is not None:
        raise ComponentError(f"weights {name!r} cannot be used here: {reason}")
    return FORMS[name]


@dataclass(frozen=True)
class Converted:
    """What ``convert`` did.

    Attributes:
        names: layers that were replaced.
        kept: linear layers that were not.
        bytes_before, bytes_after: parameters and buffers of the whole model.
    """

    names: tuple[str, ...]
    kept: tuple[str, ...]
    bytes_before: int
    bytes_after: int


@torch.no_grad()
def convert(
    model: nn.Module,
    form: Form,
    chosen: Callable[[str], bool],
    device: torch.device | None = None,
) -> Converted:
    """Replace, in place and one at a time, the linear layers whose names are ``chosen``.

    A layer whose width the form cannot divide is kept. With a ``device``, each layer is moved
    there before it is converted, and stays there.
    """
    before = size_of(model)
    linears = [(name, m) for name, m in model.named_modules() if type(m) is nn.Linear]
    names: list[str] = []
    for name, linear in linears:
        if not chosen(name) or linear.in_features % form.multiple:
            continue
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, form.make(linear.to(device)))
        names.append(name)
    del linears
    done = set(names)
    kept = tuple(n for n, m in model.named_modules() if type(m) is nn.Linear and n not in done)
    return Converted(tuple(names), kept, before, size_of(model))


def size_of(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers."""
    return sum(t.numel() * t.itemsize for t in (*model.parameters(), *model.buffers()))
