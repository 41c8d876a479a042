"""fp8 attention of cuDNN through ``nvidia-cudnn-frontend``: Hopper and newer, forward only.

One factor a tensor for q, k and v; K is smoothed. The plan of a shape is built at its first call
and kept by the op's own cache. Scores are scaled to fp8 by 448: weights of a softmax are at most
1. The output comes in the inputs' type where cuDNN can write it, else in fp8: it is a mean of
rows of V, so V's factor holds it.
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
from recurvid.ops.attention.eight_bit import E4M3, E4M3_MAX, smoothed, to_e4m3
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
    dtype: torch.dtype
    device: int


@dataclass(frozen=True)
class Plan:
    """A built graph, its scratch memory and the type of what it writes."""

    graph: Any
    handle: Any
    workspace: Tensor
    writes: torch.dtype


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of cuDNN in fp8, K smoothed, one factor a tensor."""
    assert mask is None
    if q.shape[1] < SHORT:
        return exact(q, k, v, mask)
    (q8, fq), (k8, fk), (v8, fv) = map(to_e4m3, (q, smoothed(k), v))
    return _attend_e4m3(q8, k8, v8, torch.stack([fq, fk, fv]), q.dtype)


@torch.library.custom_op(
    "recurvid::cudnn_fp8_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor factors, ScalarType dtype) -> Tensor",
)
def _attend_e4m3(q: Tensor, k: Tensor, v: Tensor, factors: Tensor, dtype: torch.dtype) -> Tensor:
    """fp8 q, k, v (b, n, heads, head_dim) and their factors (3,) to the output in ``dtype``."""
    q, k, v = (x.contiguous() for x in (q, k, v))
    b, n, heads, channels = q.shape
    index = q.device.index or 0
    plan = plan_of(Shape(b, n, k.shape[1], heads, channels, dtype, index))
    library = loaded(LIBRARY)
    library.set_stream(plan.handle, torch.cuda.current_stream(q.device).cuda_stream)
    return run(plan, (q, k, v), factors, dtype)


@_attend_e4m3.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, factors: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(q.shape, dtype=dtype, device=q.device)


def run(
    plan: Plan, inputs: tuple[Tensor, Tensor, Tensor], factors: Tensor, dtype: torch.dtype
) -> Tensor:
    """Execute a plan on fp8 tensors."""
    q, k, v = inputs
    out = torch.empty(q.shape, dtype=plan.writes, device=q.device)
    one = torch.ones((), device=q.device)
    narrow = plan.writes == E4M3
    scalars = (
        *factors.unbind(),
        one / E4M3_MAX,
        one * E4M3_MAX,
        1 / factors[2] if narrow else one,
    )
    scratch = torch.empty(2, device=q.device)
    tensors = {Q: q, K: k, V: v, OUT: out, AMAX_S: scratch[:1], AMAX_O: scratch[1:]}
    tensors |= {FIRST_FACTOR + i: value.contiguous() for i, value in enumerate(scalars)}
    plan.graph.execute(tensors, plan.workspace, handle=plan.handle)
    return (out.float() * factors[2]).to(dtype) if narrow else out


@lru_cache(maxsize=16)
def plan_of(shape: Shape) -> Plan:
    """The plan of a shape: first one that writes the wanted type, else one that writes fp8."""
    library = loaded(LIBRARY)
    handle = library.create_handle()
    try:
        return _build(library, handle, shape, shape.dtype)
    except Exception:  # noqa: BLE001 - cuDNN's own class, different from version to version
        return _build(library, handle, shape, E4M3)


def _build(library: ModuleType, handle: Any, shape: Shape, writes: torch.dtype) -> Plan:
    types = library.data_type
    names = {torch.bfloat16: types.BFLOAT16, torch.float16: types.HALF, E4M3: types.FP8_E4M3}
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
    out.set_output(True).set_uid(OUT).set_data_type(names[writes])
    out.set_dim([shape.batch, shape.heads, shape.queries, shape.channels])
    out.set_stride(_strides(shape, shape.queries))
    for amax, uid in ((amax_s, AMAX_S), (amax_o, AMAX_O)):
        amax.set_output(True).set_uid(uid).set_data_type(types.FLOAT)
        amax.set_dim([1, 1, 1, 1]).set_stride([1, 1, 1, 1])
    graph.build([library.heur_mode.A])
    size = max(1, graph.get_workspace_size())
    space = torch.empty(size, dtype=torch.uint8, device=f"cuda:{shape.device}")
    return Plan(graph, handle, space, writes)


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
    untested=True,
)
