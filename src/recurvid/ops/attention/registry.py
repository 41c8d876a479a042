"""Every attention kernel by name, and the choice among them."""

from __future__ import annotations

from recurvid.errors import ComponentError
from recurvid.ops.attention.backend import AttentionBackend, AttentionSpec
from recurvid.ops.attention.reference import REFERENCE
from recurvid.ops.attention.sdpa import SDPA

# Fastest first: "auto" takes the first one that can serve the call.
ATTENTION: dict[str, AttentionBackend] = {b.name: b for b in (SDPA, REFERENCE)}


def attention_backend(name: str, spec: AttentionSpec) -> AttentionBackend:
    """The kernel called ``name``, or the fastest that can serve ``spec`` for "auto".

    Raises:
        ComponentError: unknown name, or the kernel cannot serve such a call; says why.
    """
    if name == "auto":
        for backend in ATTENTION.values():
            if backend.why_not(spec) is None:
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
