"""The one shape every attention kernel has."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# (q, k, v, mask) -> out. q, k, v, out: (b, n, heads, head_dim); mask: (b, n_keys) bool, True
# where a key may be attended to, or None.
AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class AttentionSpec:
    """What a caller is about to ask of a kernel.

    Attributes:
        device: device type, "cpu", "cuda", ...
        dtype: of q, k and v.
        head_dim: channels of one head.
        masked: whether some keys are masked out.
        grad: whether a backward pass follows.
    """

    device: str
    dtype: torch.dtype
    head_dim: int
    masked: bool = False
    grad: bool = False

    @staticmethod
    def of(query: Tensor, mask: Tensor | None) -> AttentionSpec:
        """The spec of a call with this query and mask."""
        return AttentionSpec(
            device=query.device.type,
            dtype=query.dtype,
            head_dim=query.shape[-1],
            masked=mask is not None,
            grad=query.requires_grad and torch.is_grad_enabled(),
        )


@dataclass(frozen=True)
class TokenLayout:
    """What stands where in the sequence that a backbone's blocks attend over.

    Attributes:
        context: coarse tokens of the packed context, which come first.
        grid: frames, rows and columns of what follows at full resolution: of the context as far
            as there is any, then the noisy tokens.
        text: tokens of picture and prompt, at the end.
    """

    context: int
    grid: tuple[int, int, int]
    text: int

    @property
    def fine(self) -> int:
        """Number of tokens at full resolution."""
        return math.prod(self.grid)


@dataclass(frozen=True)
class AttentionBackend:
    """One attention kernel: softmax(q k^T / sqrt(head_dim)) v over all keys that the mask allows.

    Attributes:
        name: what the command line calls it.
        function: the kernel; see ``AttentionFunction`` for shapes.
        why_not: None if it can serve such a call here, else the reason in one phrase.
        exact: whether it computes in the inputs' own precision; 8-bit kernels do not, and "auto"
            never takes them.
        untested: no version of its library has run with this code; the call was only checked
            against the library's documented signature.
        for_layout: what it is for a layout, on a device, in a block at some depth (see ``over``);
            None where it asks nothing about them.
    """

    name: str
    function: AttentionFunction
    why_not: Callable[[AttentionSpec], str | None]
    exact: bool = True
    untested: bool = False
    for_layout: Callable[[TokenLayout, torch.device, float], AttentionBackend] | None = None

    def over(self, layout: TokenLayout, device: torch.device, depth: float) -> AttentionBackend:
        """The kernel of a block over a sequence of this layout; for the same, the same object.

        Args:
            depth: how much of the network is done after the block, up to 1 after the last.
        """
        return self if self.for_layout is None else self.for_layout(layout, device, depth)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend; (b, n, heads, head_dim) in and out."""
        return self.function(q, k, v, mask)
