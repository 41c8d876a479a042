"""Our kernel for Hopper, its three parts as threads over torch, with barriers that count.

Products are computed when they are waited for and not before, so that a buffer which is given back
too early has been overwritten; a wait that nobody ends fails. Only where Triton is installed.
"""

from __future__ import annotations

import inspect
import threading
import time
import types
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recurvid.ops.attention import gluon_hopper
from recurvid.ops.attention.gluon_hopper import AVAILABLE, HOPPER_TILES, ROWS
from recurvid.ops.attention.reference import REFERENCE
from recurvid.ops.attention.triton_rounding import order_of

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="Triton is not installed, or too old")

PATIENCE = 60  # seconds until a wait counts as one that nobody ends
E4M3 = torch.float8_e4m3fn


class Values(torch.Tensor):
    """A tensor with the two methods that are not torch's."""

    def to(self, kind: Any, bitcast: bool = False) -> Any:  # pyright: ignore
        kind = torch.int64 if kind == "i64" else kind
        return self.view(kind) if bitcast else super().to(kind)


def values(x: torch.Tensor) -> Values:
    return x.as_subclass(Values)


class Whole(int):
    def to(self, _: Any) -> Whole:
        return self


@dataclass
class Pointer:
    data: torch.Tensor
    at: Any = 0

    @property
    def dtype(self) -> Any:
        return SimpleNamespace(element_ty=self.data.dtype)

    def __add__(self, more: Any) -> Pointer:
        return Pointer(self.data, self.at + more)


@dataclass
class Barrier:
    """Of a phase: how many have to come, how many bytes; waits look at the phase's parity."""

    count: int = 0
    left: int = 0
    bytes: int = 0
    phase: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def update(self, arrivals: int, more_bytes: int) -> None:
        with self.changed:
            self.left -= arrivals
            self.bytes += more_bytes
            assert self.left >= 0
            if self.left == 0 and self.bytes == 0:
                self.phase, self.left = self.phase + 1, self.count
                self.changed.notify_all()

    def wait(self, parity: int) -> None:
        with self.changed:
            done = self.changed.wait_for(lambda: self.phase % 2 != parity, timeout=PATIENCE)
            assert done, "nobody ends this wait"


class Shared:
    """Shared memory: buffers, or barriers."""

    def __init__(self, kind: Any, shape: list[int], _: Any):
        self.shape = shape
        self.data = torch.zeros(shape, dtype=kind if kind != "i64" else torch.int64)
        self.barriers = [Barrier() for _ in range(shape[0])] if kind == "i64" else []

    def index(self, i: int) -> Any:
        return self.barriers[i] if self.barriers else Buffer(self.data[i])


@dataclass
class Buffer:
    data: torch.Tensor

    def permute(self, order: tuple[int, int]) -> Buffer:
        return Buffer(self.data.permute(order))

    def load(self, _: Any) -> Buffer:
        return Buffer(self.data.clone())


def barrier(x: Any) -> Barrier:
    return x.barriers[0] if isinstance(x, Shared) else x


class Mbarrier:
    MBarrierLayout = staticmethod(lambda: None)

    @staticmethod
    def init(x: Any, count: int) -> None:
        barrier(x).count = barrier(x).left = count

    @staticmethod
    def expect(x: Any, nbytes: int) -> None:
        barrier(x).update(1, nbytes)

    @staticmethod
    def arrive(x: Any, pred: bool = True) -> None:
        barrier(x).update(int(pred), 0)

    @staticmethod
    def wait(x: Any, phase: int, pred: bool = True) -> None:
        if pred:
            barrier(x).wait(phase)


@dataclass
class Descriptor:
    data: torch.Tensor
    block: list[int]
    layout: Any = None

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype

    @property
    def block_type(self) -> Any:
        return SimpleNamespace(shape=self.block, nbytes=self.block[0] * self.block[1])


def copy(source: Descriptor, at: list[int], ready: Any, to: Buffer) -> None:
    rows, columns = (slice(a, a + n) for a, n in zip(at, source.block, strict=True))
    to.data.copy_(source.data[rows, columns])
    barrier(ready).update(0, -source.block_type.nbytes)


class Pending(threading.local):
    """Products of a thread that nobody has waited for."""

    def __init__(self) -> None:
        self.products: list[Any] = []


PENDING = Pending()


def start(a: Any, b: Buffer, acc: Any, use_acc: bool = True, is_async: bool = False) -> Any:
    assert is_async
    left = a.data if isinstance(a, Buffer) else a
    PENDING.products.append(
        SimpleNamespace(left=left, right=b.data, acc=acc, add=use_acc, out=None)
    )
    return PENDING.products[-1]


def finish(pending: int, deps: list[Any]) -> Any:
    while len(PENDING.products) > pending:
        work = PENDING.products.pop(0)
        time.sleep(0.002)  # whoever may overwrite an operand now, does
        out = work.left.double() @ work.right.double()
        out = (out + work.acc.double() if work.add else out).to(work.acc.dtype)
        work.out = values(out)
    assert deps[0].out is not None
    return deps[0].out


def assembler(text: str, _: str, inputs: list[Any], **__: Any) -> Any:
    if "cvt" in text:
        codes = torch.stack([x.to(E4M3).view(torch.uint8).int() for x in inputs])
        words = codes[0] | codes[1] << 8 | codes[2] << 16 | codes[3] << 24
        return values(words)
    place = torch.arange(inputs[0].shape[1]) % 4 * 8
    return values(((inputs[0] >> place) & 255).to(torch.uint8))


def together(functions: list[Any], warps: list[int], registers: list[int]) -> None:
    assert len(warps) == len(registers) == len(functions) - 1
    failed: list[BaseException] = []

    def one(function: Any, given: Any) -> None:
        try:
            function(*given)
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            failed.append(error)

    threads = [threading.Thread(target=one, args=part, daemon=True) for part in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert not failed, failed
    assert not any(thread.is_alive() for thread in threads)


def language(program: tuple[int, int]) -> Any:
    """What the kernel uses of Gluon."""

    def load(p: Pointer) -> Any:
        return values(p.data.reshape(-1)[p.at])

    def store(p: Pointer, x: Any, mask: Any) -> None:
        mask = mask.expand(x.shape)
        p.data.view(-1)[p.at.expand(x.shape)[mask]] = x[mask].as_subclass(torch.Tensor)

    return SimpleNamespace(
        constexpr=int, int64="i64", int32=torch.int32, int8=torch.int8, float32=torch.float32,
        float8e4nv=E4M3, load=load, store=store, allocate_shared_memory=Shared,
        inline_asm_elementwise=assembler, warp_specialize=together,
        program_id=lambda axis: Whole(program[axis]), cdiv=lambda a, b: -(-a // b),
        static_range=range, arange=lambda a, b, _: values(torch.arange(a, b)),
        full=lambda shape, x, kind, _: values(torch.full(shape, x, dtype=kind)),
        zeros=lambda shape, kind, _: values(torch.zeros(shape, dtype=kind)),
        max=lambda x, axis: x.amax(axis), sum=lambda x, axis: x.sum(axis),
        maximum=torch.maximum, fma=lambda a, b, c: a * b + c, exp2=torch.exp2,
        expand_dims=lambda x, axis: x.unsqueeze(axis),
        split=lambda x: (x[..., 0], x[..., 1]), join=lambda a, b: values(torch.stack([a, b], -1)),
        convert_layout=lambda x, *_, **__: x, SliceLayout=lambda *_: None,
        NVMMADistributedLayout=lambda *_: None, DotOperandLayout=lambda *_: None,
    )  # fmt: skip


def as_python(program: tuple[int, int]) -> Any:
    """The kernel over torch."""
    names: dict[str, Any] = {
        "gl": language(program), "mbarrier": Mbarrier, "warpgroup_mma": start,
        "warpgroup_mma_wait": finish, "fetch_tile": copy,
        "fence_async_shared": lambda: None, "range": range, "__builtins__": __builtins__,
    }  # fmt: skip
    for name in ("MAGIC", "MAGIC_BITS", "LIFT", "HALF"):
        names[name] = getattr(gluon_hopper, name).value
    for name, made in vars(gluon_hopper).items():
        if isinstance(made, type(gluon_hopper.hopper_attention_kernel)):
            names[name] = types.FunctionType(inspect.unwrap(made.fn).__code__, names, name)
    return names["hopper_attention_kernel"]


def narrow(x: torch.Tensor, rows: int, most: float, kind: torch.dtype) -> Any:
    """(heads, n, channels) as codes, padded, and what one is worth."""
    step = x.abs().amax() / most
    codes = (x / step).round() if kind == torch.int8 else x / step
    return torch.nn.functional.pad(codes, (0, 0, 0, rows - x.shape[1])).to(kind), step


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", HOPPER_TILES)
def test_three_parts_make_one_attention(name, whole):
    tile, heads, channels, n, keys = HOPPER_TILES[name], 2, 64, 150, 700
    torch.manual_seed(0)
    q, k, v = (torch.randn(heads, m, channels) for m in (n, keys, keys))
    k -= k.mean(1, keepdim=True)
    kind, most = (torch.int8, 127) if whole else (E4M3, 448)
    q8, q_step = narrow(q, 256, most, kind)
    k8, k_step = narrow(k, 768, most, kind)
    v8, v_step = narrow(v, 768, 448, E4M3)
    v8 = v8.view(torch.uint8)[:, order_of(torch.arange(768))].transpose(1, 2).contiguous()
    scale = torch.full((heads, 256), float(q_step * k_step * channels**-0.5 * 1.4426950408889634))
    step, mean = v_step.expand(heads, channels).clone(), torch.full((heads, channels), 2.0)
    out = torch.zeros(1, n, heads, channels)
    for program in ((0, 0), (1, 0), (0, 1), (1, 1)):
        as_python(program)(
            Descriptor(q8.view(-1, channels), [ROWS // 2, channels]),
            Descriptor(k8.view(-1, channels), [tile.keys, channels]),
            Descriptor(v8.view(E4M3).view(-1, 768), [channels, tile.keys]),
            Pointer(scale), Pointer(mean), Pointer(step), Pointer(out), n, keys, 256, 768, heads,
            whole, tile.stages, tile.apart, tile.turns, tile.held,
        )  # fmt: skip
    back = [(x.float() * s)[:, :m] for x, s, m in ((q8, q_step, n), (k8, k_step, keys))]
    exact = REFERENCE(*(x.transpose(0, 1)[None] for x in (*back, v))) + 2
    assert (out - exact).norm() / (exact - 2).norm() < 0.05
    assert out.abs().amin() > 0
