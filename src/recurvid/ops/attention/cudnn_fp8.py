"""fp8 attention of cuDNN through ``nvidia-cudnn-frontend``: Hopper and newer, forward only.

q and k take a fixed factor (they come from a norm), K without its mean over the tokens; V without
its mean and with a factor a channel, both put back after the kernel. The plan of a shape is built
at its first call and kept. Scores are scaled to fp8 by 448: weights of a softmax are at most 1.
The kernel writes fp8 (version 1.16 has no other): the output is a mean of rows of V, so V's factor
holds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.eight_bit import (
    E4M3,
    E4M3_MAX,
    FIXED,
    around_mean,
    normed_to_e4m3,
    smoothed,
)
from recurvid.ops.attention.requirements import Requirements, loaded
from recurvid.ops.attention.sdpa import SHORT
from recurvid.ops.attention.sdpa import attend as exact

LIBRARY = "cudnn"
Q, K, V, OUT, AMAX_S, AMAX_O = range(1, 7)
FACTORS = ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")
FIRST_FACTOR = 11


@dataclass(frozen=True)
class Shape:
    """What a plan is built for."""

    batch: int
    queries: int
    keys: int
    heads: int
    channels: int
    device: int


@dataclass(frozen=True)
class Plan:
    """A built graph, its scratch memory and its factors, in the order of ``FACTORS``."""

    graph: Any
    handle: Any
    workspace: Tensor
    factors: tuple[Tensor, ...]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of cuDNN in fp8; q and k must come from a norm."""
    assert mask is None
    if q.shape[1] < SHORT:
        return exact(q, k, v, mask)
    mean, reach, inner = around_mean(v)
    v8 = (inner * E4M3_MAX).to(E4M3)
    out = _attend_e4m3(normed_to_e4m3(q), normed_to_e4m3(smoothed(k)), v8)
    return (out.float() * (reach / E4M3_MAX) + mean).to(v.dtype)


@torch.library.custom_op(
    "recurvid::cudnn_fp8_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v) -> Tensor",
)
def _attend_e4m3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """fp8 q and k times ``FIXED``, and v (b, n, heads, head_dim), to fp8 in v's measure."""
    q, k, v = (x.contiguous() for x in (q, k, v))
    b, n, heads, channels = q.shape
    plan = plan_of(Shape(b, n, k.shape[1], heads, channels, q.device.index or 0))
    library = loaded(LIBRARY)
    library.set_stream(plan.handle, torch.cuda.current_stream(q.device).cuda_stream)
    return run(plan, (q, k, v))


@_attend_e4m3.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty(q.shape, dtype=E4M3, device=q.device)


def run(plan: Plan, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Execute a plan on fp8 tensors."""
    q, k, v = inputs
    out = torch.empty_like(q)
    scratch = torch.empty(2, device=q.device)
    tensors = {Q: q, K: k, V: v, OUT: out, AMAX_S: scratch[:1], AMAX_O: scratch[1:]}
    tensors |= {FIRST_FACTOR + i: value for i, value in enumerate(plan.factors)}
    plan.graph.execute(tensors, plan.workspace, handle=plan.handle)
    return out


@lru_cache(maxsize=16)
def plan_of(shape: Shape) -> Plan:
    """The plan of a shape, built at its first call."""
    library = loaded(LIBRARY)
    return _build(library, library.create_handle(), shape)


def _build(library: ModuleType, handle: Any, shape: Shape) -> Plan:
    types = library.data_type
    graph = library.pygraph(
        io_data_type=types.FP8_E4M3,
        intermediate_data_type=types.FLOAT,
        compute_data_type=types.FLOAT,
        handle=handle,
    )
    tensor = _tensor_maker(graph, shape)
    q = tensor("q", Q, shape.queries, types.FP8_E4M3)
    k = tensor("k", K, shape.keys, types.FP8_E4M3)
    v = tensor("v", V, shape.keys, types.FP8_E4M3)
    unit = {"dim": [1, 1, 1, 1], "stride": [1, 1, 1, 1]}
    factors = {
        name: graph.tensor(name=name, uid=FIRST_FACTOR + i, data_type=types.FLOAT, **unit)
        for i, name in enumerate(FACTORS)
    }
    out, _, amax_s, amax_o = graph.sdpa_fp8(
        q=q, k=k, v=v, **factors, is_inference=True, attn_scale=shape.channels**-0.5
    )
    out.set_output(True).set_uid(OUT).set_data_type(types.FP8_E4M3)
    out.set_dim([shape.batch, shape.heads, shape.queries, shape.channels])
    out.set_stride(_strides(shape, shape.queries))
    for amax, uid in ((amax_s, AMAX_S), (amax_o, AMAX_O)):
        amax.set_output(True).set_uid(uid).set_data_type(types.FLOAT)
        amax.set_dim([1, 1, 1, 1]).set_stride([1, 1, 1, 1])
    graph.build([library.heur_mode.A])
    size = max(1, graph.get_workspace_size())
    space = torch.empty(size, dtype=torch.uint8, device=f"cuda:{shape.device}")
    given = (1 / FIXED, 1 / FIXED, 1.0, 1 / E4M3_MAX, E4M3_MAX, 1.0)
    one = torch.ones(1, device=space.device)
    return Plan(graph, handle, space, tuple(one * value for value in given))


def _strides(shape: Shape, tokens: int) -> list[int]:
    """Of (b, heads, n, head_dim) as cuDNN names it, over memory that is (b, n, heads, head_dim)."""
    row = shape.heads * shape.channels
    return [tokens * row, shape.channels, row, 1]


def _tensor_maker(graph: Any, shape: Shape) -> Callable[[str, int, int, Any], Any]:
    def make(name: str, uid: int, tokens: int, data_type: Any) -> Any:
        dim = [shape.batch, shape.heads, tokens, shape.channels]
        stride = _strides(shape, tokens)
        return graph.tensor(name=name, uid=uid, dim=dim, stride=stride, data_type=data_type)

    return make


CUDNN_FP8 = AttentionBackend(
    "cudnn-fp8",
    attend,
    Requirements(library=LIBRARY, capability=(9, 0), head_dim=128, multiple=16, grad=False),
    exact=False,
)
