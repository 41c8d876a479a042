"""Runtime: how this machine runs a request. It must not change what the request means."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recurvid.errors import ComponentError, InputError
from recurvid.generation.local import EXACT_STEPS
from recurvid.ops.attention.registry import ATTENTION
from recurvid.ops.attention.windows import NONE, Windows
from recurvid.ops.linear.forms import FORMS, form_named

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Device and number type of a run.

    Attributes:
        dtype: None leaves the choice to the model (see :func:`dtype_for`).
        offline: never touch the network.
        vram: GiB of device memory to keep to; None takes what is free.
        attention: name of a kernel, or "auto".
        weights: form of the backbone's wide layers; "auto" is as the file has them.
        compiled: whether the backbone's blocks are compiled.
        exact_steps: first and last steps of a section in which an 8-bit attention kernel gives way
            to an exact one; without meaning where the kernel is exact itself.
        sparse: windows in which the noisy tokens attend; None for attention to everything.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    offline: bool = False
    vram: float | None = None
    attention: str = "auto"
    weights: str = "auto"
    compiled: bool = False
    exact_steps: int = EXACT_STEPS
    sparse: Windows | None = None

    @staticmethod
    def of(  # noqa: PLR0913 - what a user can choose
        device: str = "auto",
        dtype: str = "auto",
        *,
        offline: bool = False,
        vram: float | None = None,
        attention: str = "auto",
        weights: str = "auto",
        compiled: bool = False,
        exact_steps: int = EXACT_STEPS,
        sparse: str = NONE,
    ) -> Runtime:
        """From the names that a user gives.

        Raises:
            InputError: an unknown name of a device, number type, kernel or form of weights; less
                than no exact steps; windows that cannot be read.
            ComponentError: no such device on this machine, or a form of weights that it cannot run.
        """
        if dtype != "auto" and dtype not in DTYPES:
            raise InputError(f"dtype {dtype!r} is unknown; auto or {', '.join(DTYPES)}")
        if attention not in ("auto", *ATTENTION):
            raise InputError(
                f"unknown attention kernel {attention!r}; known: auto, {', '.join(ATTENTION)}"
            )
        if weights not in ("auto", *FORMS):
            raise InputError(f"weights {weights!r} are unknown; known: {', '.join(FORMS)}")
        if exact_steps < 0:
            raise InputError(f"exact steps: {exact_steps}; give 0 or more")
        windows = Windows.parse(sparse)
        found = pick_device(device)
        if weights != "auto":
            form_named(weights, found)
        kind = DTYPES.get(dtype)
        return Runtime(
            found, kind, offline, vram, attention, weights, compiled, exact_steps, windows
        )

    def numerics(self) -> dict[str, str]:
        """What of it changes a video's numbers beside device and dtype, for the fingerprint."""
        told = {
            "attention": self.attention,
            "form of weights": self.weights,
            "compiled": "yes" if self.compiled else "no",
        }
        # "auto" takes exact kernels only.
        if self.attention != "auto" and not ATTENTION[self.attention].exact:
            told["exact steps"] = str(self.exact_steps)
        if self.sparse is not None:
            told["sparse attention"] = str(self.sparse)
        return told


def pick_device(name: str = "auto") -> torch.device:
    """The device of a name; ``auto`` takes CUDA (or ROCm), MPS, XPU or the CPU, in this order.

    Raises:
        InputError: no device has such a name.
        ComponentError: naming what is there instead.
    """
    present = available_devices()
    if name == "auto":
        return torch.device(present[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r} is unknown; here are {', '.join(present)}") from None
    if device.type not in present:
        raise ComponentError(f"no {device.type} device here; there are {', '.join(present)}")
    count = getattr(torch, device.type).device_count() if device.type in ("cuda", "xpu") else 1
    # torch keeps an index in 8 bits: of cpu:255 it makes cpu, of cuda:256 cuda:0
    if str(device) != name or not 0 <= (device.index or 0) < count:
        raise ComponentError(f"device {name!r}: there are {count} of {device.type}, from 0")
    return device


def available_devices() -> tuple[str, ...]:
    """Kinds of device that torch can use here, best first; the CPU is always the last."""
    present: list[str] = []
    if torch.cuda.is_available():
        present.append("cuda")
    if torch.backends.mps.is_available():
        present.append("mps")
    if torch.xpu.is_available():
        present.append("xpu")
    return (*present, "cpu")


def dtype_for(runtime: Runtime, *, small: bool) -> torch.dtype:
    """Number type of the backbone: what was asked, else float32 for a small model, else half."""
    if runtime.dtype is not None:
        return runtime.dtype
    if small:
        return torch.float32
    if runtime.device.type == "cuda" and not torch.cuda.is_bf16_supported(
        including_emulation=False
    ):
        return torch.float16
    return torch.bfloat16


def side_dtype(runtime: Runtime) -> torch.dtype:
    """Number type of a large model's encoders and autoencoder.

    float32 on request and on the CPU, which has no fast float16; the original's float16 elsewhere.
    """
    full = runtime.dtype == torch.float32 or runtime.device.type == "cpu"
    return torch.float32 if full else torch.float16
