"""What a kernel asks of a call and of the machine, and the words for what is missing."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch

from recurvid.errors import Line
from recurvid.ops.attention.backend import AttentionSpec

HALF = (torch.float16, torch.bfloat16)


@cache
def library(name: str) -> ModuleType | Line:
    """A kernel library, imported at first use, or in words why it cannot be had."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.split(".")[0]
        if error.name == package:
            return Line(
                f"the library {package} is not installed", "kernel.no_library", library=package
            )
        return Line(
            f"the library {package} lacks {error.name}",
            "kernel.library_lacks",
            library=package,
            part=error.name,
        )
    except Exception as error:  # noqa: BLE001 - a broken binary raises anything
        return Line(
            f"the library {name} cannot be imported ({str(error).splitlines()[:1]})",
            "kernel.broken_library",
            library=name,
        )


def loaded(name: str) -> ModuleType:
    """The library, where ``why_not`` has found it before."""
    module = library(name)
    assert isinstance(module, ModuleType), module
    return module


@dataclass(frozen=True)
class Requirements:
    """Limits of one kernel; called with a spec, it says what is not met.

    Attributes:
        dtypes: number types it takes.
        devices: device types it runs on.
        library: module that must import.
        package: what to install for it, where that is called otherwise.
        capability: least compute capability of a CUDA device.
        most_capability: first capability that is too new, or None.
        head_dim: largest number of channels of a head.
        multiple: what the number of channels must be a multiple of.
        masks: whether it can leave keys out.
        grad: whether it has a backward pass that is trusted.
    """

    dtypes: tuple[torch.dtype, ...] = HALF
    devices: tuple[str, ...] = ("cuda",)
    library: str | None = None
    package: str | None = None
    capability: tuple[int, int] = (0, 0)
    most_capability: tuple[int, int] | None = None
    head_dim: int = 256
    multiple: int = 8
    masks: bool = False
    grad: bool = True

    def __call__(self, spec: AttentionSpec) -> Line | None:
        """None, or the first thing that is not met."""
        if spec.dtype not in self.dtypes:
            known = ", ".join(str(t).removeprefix("torch.") for t in self.dtypes)
            return Line(
                f"it takes {known}, not {spec.dtype}",
                "kernel.dtype",
                takes=known,
                dtype=str(spec.dtype).removeprefix("torch."),
            )
        if spec.masked and not self.masks:
            return Line("it cannot mask single keys", "kernel.mask")
        if spec.grad and not self.grad:
            return Line("it has no backward pass that can be trusted", "kernel.backward")
        if spec.head_dim > self.head_dim or spec.head_dim % self.multiple:
            return Line(
                f"heads of {spec.head_dim} channels: it takes multiples of {self.multiple} "
                f"up to {self.head_dim}",
                "kernel.heads",
                channels=spec.head_dim,
                unit=self.multiple,
                most=self.head_dim,
            )
        if spec.device not in self.devices:
            return Line(
                f"it runs on {' or '.join(self.devices)}, not on {spec.device}",
                "kernel.device",
                devices=", ".join(self.devices),
                device=spec.device,
            )
        return self._why_not_this_card(spec) or self._why_not_library()

    def _why_not_this_card(self, spec: AttentionSpec) -> Line | None:
        if spec.device != "cuda":
            return None
        if not torch.cuda.is_available():
            return Line("there is no CUDA device here", "kernel.no_cuda")
        found = torch.cuda.get_device_capability()
        if found < self.capability:
            needed = ".".join(map(str, self.capability))
            return Line(
                f"it needs compute capability {needed}, this card has {found[0]}.{found[1]}",
                "kernel.old_card",
                needed=needed,
                found=f"{found[0]}.{found[1]}",
            )
        if self.most_capability is not None and found >= self.most_capability:
            return Line(
                f"it has no code for this card (compute capability {found[0]}.{found[1]})",
                "kernel.new_card",
                found=f"{found[0]}.{found[1]}",
            )
        return None

    def _why_not_library(self) -> Line | None:
        if self.library is None:
            return None
        found = library(self.library)
        if not isinstance(found, Line):
            return None
        if not self.package:
            return found
        return Line(f"{found} (pip install {self.package})", found.key, **found.values)
