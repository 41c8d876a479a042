"""Attention kernels that were compiled elsewhere, as backends of the model.

A folder of shared objects, one a kernel, exported by the CuTe compiler: FlashAttention 4 for
Hopper in tiles of several sizes (bf16), and its relatives whose q and k are fp8 ("qk8_...") or
whose V and softmax weights are fp8 too ("f8_..."). What loads them is apache-tvm-ffi alone.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import ctypes
import math
import os
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.eight_bit import E4M3_MAX, FIXED, normed_to_e4m3, smoothed
from recurvid.ops.attention.sdpa import SHORT
from recurvid.ops.attention.sdpa import attend as exact

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    triton = None

FOLDER = Path(os.environ.get("SAVED_KERNELS") or Path(__file__).parent.parent / ".whl2" / "kernels")
GROUP = 32  # tokens whose order within the group is the tensor cores' own


def names() -> list[str]:
    """Kernels in the folder."""
    return sorted(path.stem for path in FOLDER.glob("*.so"))


def backends() -> dict[str, AttentionBackend]:
    """Every saved kernel as a backend, "saved:NAME"."""
    found = {}
    for name in names():
        call = {"f8": attend_f8, "qk": attend_qk8}.get(name[:2], attend_bf16)
        found[f"saved:{name}"] = AttentionBackend(
            f"saved:{name}", partial(call, name), _why_not, exact=call is attend_bf16
        )
    return found


def _why_not(spec: Any) -> str | None:
    return None if spec.device == "cuda" else f"it runs on cuda, not on {spec.device}"


@cache
def loaded(name: str) -> Any:
    """The function of a saved kernel."""
    import tvm_ffi

    for runtime in ("libcudart.so.13", "libcudart.so"):
        try:
            ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
            break
        except OSError:
            continue
    return tvm_ffi.load_module(str(FOLDER / f"{name}.so"))["func"]


@torch.library.custom_op(
    "recurvid_benchmarks::saved",
    mutates_args=(),
    schema="(str name, Tensor q, Tensor k, Tensor v, float scale) -> Tensor",
)
def run(name: str, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Call a kernel: q, k (b, n, heads, head_dim), v of that form, to bf16 of that form."""
    out = torch.empty(q.shape, dtype=torch.bfloat16, device=q.device)
    given = (x.view(torch.uint8) if x.itemsize == 1 else x for x in (q, k, v))
    loaded(name)(*given, out, None, scale, *[None] * 9, (None, None), None, None)
    return out


@run.register_fake
def _(name: str, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.empty(q.shape, dtype=torch.bfloat16, device=q.device)


def attend_bf16(name: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """FlashAttention 4."""
    if q.shape[1] < SHORT:
        return exact(q, k, v, mask)
    return run(name, q.contiguous(), k.contiguous(), v.contiguous(), q.shape[-1] ** -0.5)


def attend_qk8(name: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scores in fp8, the rest in bf16."""
    if q.shape[1] < SHORT:
        return exact(q, k, v, mask)
    scale = q.shape[-1] ** -0.5 / FIXED**2
    q8, k8 = normed_to_e4m3(q), normed_to_e4m3(smoothed(k))
    return run(name, q8.contiguous(), k8.contiguous(), v.contiguous(), scale)


def attend_f8(name: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """All in fp8; V without its mean and with a factor a channel."""
    if q.shape[1] < SHORT:
        return exact(q, k, v, mask)
    scale = q.shape[-1] ** -0.5 / FIXED**2
    q8, k8 = normed_to_e4m3(q), normed_to_e4m3(smoothed(k))
    x = v.float()
    mean, low, high = x.mean(1), x.amin(1), x.amax(1)  # (b, heads, head_dim)
    reach = torch.maximum(high - mean, mean - low).clamp_min(1e-12)
    v8 = channel_rows(v.contiguous(), mean, E4M3_MAX / reach)
    out = run(name, q8.contiguous(), k8.contiguous(), v8.permute(0, 3, 1, 2), scale)
    return (out.float() * (reach / E4M3_MAX)[:, None] + mean[:, None]).to(v.dtype)


def order_of(place: Tensor) -> Tensor:
    """Which token of a group of 32 lies at each place, as the tensor cores hand on scores."""
    half, thread, pair, one = place // 16 % 2, place % 16 // 4, place % 4 // 2, place % 2
    return place // GROUP * GROUP + 8 * (pair + 2 * half) + 2 * thread + one


def channel_rows_plain(v: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """See :func:`channel_rows`; in plain torch."""
    n = v.shape[1]
    padded = math.ceil(n / GROUP) * GROUP
    x = (v.float() - mean[:, None]) * factor[:, None]
    x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, padded - n))
    x = x[:, order_of(torch.arange(padded, device=v.device))]
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).permute(0, 2, 3, 1).contiguous()


if triton is not None:

    @triton.jit
    def rows_kernel(
        v, mean, factor, out, n, padded, heads,
        CHANNELS: tl.constexpr, TOKENS: tl.constexpr,
    ):  # fmt: skip
        batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
        place = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
        half, thread = place // 16 % 2, place % 16 // 4
        pair, one = place % 4 // 2, place % 2
        token = place // 32 * 32 + 8 * (pair + 2 * half) + 2 * thread + one
        channel = tl.arange(0, CHANNELS)
        row = (batch.to(tl.int64) * n + token) * heads + head
        inside = (token < n)[:, None]
        x = tl.load(v + row[:, None] * CHANNELS + channel[None, :], mask=inside, other=0)
        at = (batch * heads + head) * CHANNELS + channel
        x = x.to(tl.float32) - tl.load(mean + at)[None, :]
        x = x * tl.load(factor + at)[None, :]
        x = tl.where(inside, tl.minimum(tl.maximum(x, -448.0), 448.0), 0.0)
        to = out + at.to(tl.int64)[:, None] * padded + place[None, :]
        tl.store(to, tl.trans(x.to(out.dtype.element_ty)), mask=(place < padded)[None, :])


@torch.library.custom_op(
    "recurvid_benchmarks::channel_rows",
    mutates_args=(),
    schema="(Tensor v, Tensor mean, Tensor factor) -> Tensor",
)
def channel_rows(v: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """(v - mean) * factor as fp8 with tokens last, in the order of :func:`order_of`.

    v (b, n, heads, head_dim); mean and factor (b, heads, head_dim); out (b, heads, head_dim, n up
    to the next multiple of 32), zeros beyond n.
    """
    if triton is None or not (v.is_cuda or os.environ.get("TRITON_INTERPRET")):
        return channel_rows_plain(v, mean, factor)
    b, n, heads, channels = v.shape
    padded = math.ceil(n / GROUP) * GROUP
    out = torch.empty(b, heads, channels, padded, dtype=torch.float8_e4m3fn, device=v.device)
    grid = (math.ceil(padded / 128), b * heads)
    rows_kernel[grid](
        v, mean.contiguous(), factor.contiguous(), out, n, padded, heads,
        CHANNELS=channels, TOKENS=128, num_warps=8,
    )  # fmt: skip
    return out


@channel_rows.register_fake
def _(v: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    b, n, heads, channels = v.shape
    padded = (n + GROUP - 1) // GROUP * GROUP
    shape = (b, heads, channels, padded)
    return torch.empty(shape, dtype=torch.float8_e4m3fn, device=v.device)
