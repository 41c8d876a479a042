"""Every attention kernel by name, and the choice among them."""

from __future__ import annotations

import torch

from recurvid.errors import ComponentError
from recurvid.ops.attention.backend import AttentionBackend, AttentionSpec
from recurvid.ops.attention.cudnn_fp8 import CUDNN_FP8
from recurvid.ops.attention.flash_attention import FLASH_2, FLASH_3, FLASH_4
from recurvid.ops.attention.gluon_sixteen import GLUON
from recurvid.ops.attention.reference import REFERENCE
from recurvid.ops.attention.sage import SAGE
from recurvid.ops.attention.sdpa import SDPA
from recurvid.ops.attention.torch_kernels import CUDNN, TORCH_EFFICIENT, TORCH_FLASH
from recurvid.ops.attention.triton_eight_bit import TRITON_FP8, TRITON_INT8
from recurvid.ops.attention.xformers_kernel import XFORMERS

ATTENTION: dict[str, AttentionBackend] = {
    b.name: b
    for b in (
        CUDNN,
        SDPA,
        TORCH_FLASH,
        TORCH_EFFICIENT,
        FLASH_2,
        FLASH_3,
        FLASH_4,
        XFORMERS,
        GLUON,
        SAGE,
        CUDNN_FP8,
        TRITON_FP8,
        TRITON_INT8,
        REFERENCE,
    )
}

#: What "auto" chooses from, fastest first: kernels that have been measured and are exact.
#: SDPA is torch's own choice among the kernels that it has for a card.
AUTO = (FLASH_4, GLUON, CUDNN, SDPA, REFERENCE)
HOPPER = 9  # major compute capability: the only one where FlashAttention 4 has been measured


def attention_backend(name: str, spec: AttentionSpec) -> AttentionBackend:
    """The kernel called ``name``, or the fastest exact one that can serve ``spec`` for "auto".

    Raises:
        ComponentError: unknown name, or the kernel cannot serve such a call; says why.
    """
    if name == "auto":
        for backend in AUTO:
            if backend.why_not(spec) is None and _is_measured(backend):
                return backend
        raise ComponentError(f"no attention kernel can serve {spec}")
    if name not in ATTENTION:
        raise ComponentError(
            f"unknown attention kernel {name!r}; known: auto, {', '.join(ATTENTION)}"
        )
    reason = ATTENTION[name].why_not(spec)
    if reason is not None:
        raise ComponentError(f"attention kernel {name!r} cannot be used here: {reason}")
    return ATTENTION[name]


def _is_measured(backend: AttentionBackend) -> bool:
    return backend is not FLASH_4 or torch.cuda.get_device_capability()[0] == HOPPER
