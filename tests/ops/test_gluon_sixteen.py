"""Our 16-bit kernel for Hopper: what the host hands it, and its parts as threads over torch.

The threads, the barriers that count and the products that are computed when they are waited for are
those of test_gluon_hopper. Only where Triton is installed.
"""

from __future__ import annotations

import inspect
import math
import os
import subprocess
import sys
import types
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.ops import test_gluon_hopper as threads

from recurvid.errors import ComponentError
from recurvid.ops.attention import gluon_sixteen, registry
from recurvid.ops.attention.backend import AttentionSpec
from recurvid.ops.attention.gluon_sixteen import (
    AVAILABLE,
    GLUON,
    ROWS,
    SIXTEEN_BIT_TILES,
    fetchable,
    multiply,
    sixteen_bit_attention,
)
from recurvid.ops.attention.registry import attention_backend

needs_triton = pytest.mark.skipif(not AVAILABLE, reason="Triton is not installed, or too old")


@dataclass
class Buffer(threads.Buffer):
    def reshape(self, shape: list[int]) -> Buffer:
        return Buffer(self.data.view(shape))

    def permute(self, order: tuple[int, int]) -> Buffer:
        return Buffer(self.data.permute(order))


class Shared(threads.Shared):
    def index(self, i: int) -> Any:
        return self.barriers[i] if self.barriers else Buffer(self.data[i])


class Source:
    """A descriptor of the host as the copy engine reads it: zeros beyond the end."""

    def __init__(self, made: Any):
        self.data = torch.as_strided(
            made.base, made.shape, made.strides, made.base.storage_offset()
        )
        self.dtype, self.layout = made.base.dtype, made.layout
        shape = made.block_shape
        self.block_type = SimpleNamespace(shape=shape, nbytes=math.prod(shape))


def copy(source: Source, at: list[int], ready: Any, to: Buffer) -> None:
    part = source.data
    for axis, (a, n) in enumerate(zip(at, source.block_type.shape, strict=True)):
        assert 0 <= a < part.shape[axis] or axis == 2
        part = part.narrow(axis, min(a, part.shape[axis]), max(min(n, part.shape[axis] - a), 0))
    to.data.zero_()
    to.data[:, :, : part.shape[2]] = part
    threads.barrier(ready).update(0, -source.block_type.nbytes)


PARTS = {
    name: made
    for name, made in vars(gluon_sixteen).items()
    if AVAILABLE and isinstance(made, type(gluon_sixteen.sixteen_bit_kernel))
}


def as_python(program: tuple[int, int], change: dict[str, Any]) -> Any:
    """The kernel over torch; ``change`` breaks it."""
    language = threads.language(program)
    language.where, language.allocate_shared_memory = torch.where, Shared
    names: dict[str, Any] = {
        "gl": language, "mbarrier": threads.Mbarrier, "warpgroup_mma": threads.start,
        "warpgroup_mma_wait": threads.finish, "fetch_tile": copy, "float": float,
        "fence_async_shared": lambda: None, "range": range, "HALF": ROWS // 2,
        "__builtins__": __builtins__,
    }  # fmt: skip
    for name, made in PARTS.items():
        names[name] = types.FunctionType(inspect.unwrap(made.fn).__code__, names, name)
    names["in_rows"] = lambda x, _: x.unsqueeze(1)
    names["gl"].__dict__.update(change)
    return names["sixteen_bit_kernel"]


class Launcher:
    """``kernel[grid](...)``, program after program."""

    def __init__(self, **change: Any):
        self.change = change

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        def launch(q: Any, k: Any, v: Any, out: Any, *rest: Any, **constants: Any) -> None:
            switches = {name: x for name, x in constants.items() if name.isupper()}
            for first in range(grid[0]):
                for line in range(grid[1]):
                    kernel = as_python((first, line), self.change)
                    kernel(*map(Source, (q, k, v)), threads.Pointer(out), *rest, **switches)

        return launch


def drawn(b: int, n: int, keys: int, heads: int, kind: torch.dtype) -> list[torch.Tensor]:
    """q, and k and v out of one tensor as a model has them; scores are about 11 below zero."""
    torch.manual_seed(0)
    q = torch.randn(b, n, heads, 128) + 1
    k, v = torch.randn(b, keys, 2, heads, 128).unbind(2)
    k -= 1
    together = torch.stack([k, v], 2).to(kind)
    return [q.to(kind), *together.unbind(2)]


def off(found: torch.Tensor, given: list[torch.Tensor]) -> float:
    """Relative distance to torch's own attention in fp64."""
    a, b, c = (x.double().transpose(1, 2) for x in given)
    right = F.scaled_dot_product_attention(a, b, c).transpose(1, 2)
    return float((found.double() - right).norm() / right.norm())


def attended(given: list[torch.Tensor], name: str) -> torch.Tensor:
    q, k, v = given
    out = torch.full(q.shape, math.nan, dtype=q.dtype)
    multiply(q, k, v, out, SIXTEEN_BIT_TILES[name])
    return out


@needs_triton
@pytest.mark.parametrize("name", SIXTEEN_BIT_TILES)
def test_three_parts_make_one_attention(name, monkeypatch):
    monkeypatch.setattr(gluon_sixteen, "sixteen_bit_kernel", Launcher())
    exactly = drawn(2, 150, 700, 1, torch.float32)
    assert off(attended(exactly, name), exactly) < 1e-6
    rounded = drawn(1, 60, 60, 2, torch.bfloat16)
    assert off(attended(rounded, name), rounded) < 4e-3


@needs_triton
def test_keys_that_fill_up_would_be_noticed(monkeypatch):
    given = drawn(1, 60, 60, 1, torch.float32)
    leave_in = Launcher(where=lambda _, x, __: x)
    monkeypatch.setattr(gluon_sixteen, "sixteen_bit_kernel", leave_in)
    assert off(attended(given, "hopper"), given) > 0.5


@pytest.mark.parametrize("place", [0, 1, 2])
def test_views_into_a_fused_projection_are_not_copied(place):
    x = torch.zeros(1, 9, 3, 2, 128, dtype=torch.bfloat16)[:, :, place]
    assert fetchable(x) is x


def test_what_the_copy_engine_cannot_step_through_is_copied():
    x = torch.zeros(1, 9, 2, 129, dtype=torch.bfloat16)
    for view in (x[..., :128], x.transpose(2, 3), x.view(-1)[1 : 1 + 2 * 128].view(1, 1, 2, 128)):
        assert fetchable(view) is not view
        assert fetchable(view).is_contiguous()


def test_compiled_code_has_no_break():
    q = torch.zeros(1, 300, 2, 128, device="meta", dtype=torch.bfloat16)
    out = sixteen_bit_attention(q, q[:, :7], q[:, :7], "")
    assert out.shape == q.shape
    assert out.dtype == q.dtype


@pytest.mark.parametrize(
    ("card", "head_dim", "grad", "why"),
    [
        ((8, 9), 128, False, "needs compute capability 9.0"),
        ((10, 0), 128, False, "has no code for this card"),
        ((9, 0), 64, False, "heads of 64 channels"),
        ((9, 0), 128, True, "no backward pass"),
    ],
)
def test_what_it_cannot_do_is_refused(card, head_dim, grad, why, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: card)
    with pytest.raises(ComponentError, match=why):
        attention_backend("gluon", AttentionSpec("cuda", torch.bfloat16, head_dim, grad=grad))


def test_auto_takes_it_since_a_card_has_measured_it():
    assert GLUON in registry.AUTO
    assert GLUON.exact
    assert not GLUON.untested


COMPILED = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import compile
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
from recurvid.ops.attention.gluon_sixteen import ROWS, SIXTEEN_BIT_TILES, sixteen_bit_kernel

tile, layout = SIXTEEN_BIT_TILES[sys.argv[1]], gl.NVMMASharedLayout(128, 16, 4)
names = sixteen_bit_kernel.arg_names
switches = {n: getattr(tile, n.lower()) for n in names if n.isupper()}
forms = {n: f"tensordesc<bf16[1, 1, {rows}, 128],{layout!r}>"
         for n, rows in (("q", ROWS // 2), ("k", tile.keys), ("v", tile.keys))}
forms |= {"out": "*bf16", "scale": "fp32", **dict.fromkeys(switches, "constexpr")}
made = compile(
    GluonASTSource(
        sixteen_bit_kernel,
        {n: forms.get(n, "i32") for n in names},
        {(names.index(n),): x for n, x in switches.items()},
        {(names.index("out"),): [["tt.divisibility", 16]]},
    ),
    target=GPUTarget("cuda", 90, 32),
    options={"num_warps": 4},
)
print(made.metadata.shared, len(made.asm["cubin"]))
"""


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("name", SIXTEEN_BIT_TILES)
def test_it_compiles_for_hopper_without_a_card(name, tmp_path):
    said = subprocess.run(
        [sys.executable, "-c", COMPILED, name],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr[-1500:]
    shared, code = map(int, said.stdout.split())
    assert shared <= 227 * 1024
    assert code > 10_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tile", SIXTEEN_BIT_TILES)
def test_attention_on_a_card(tile, kind):
    if torch.cuda.get_device_capability()[0] != 9 or not AVAILABLE:
        pytest.skip("not Hopper, or no Gluon")
    for shape in ((2, 517, 1031, 3), (1, 300, 64, 2), (1, 256, 1, 1)):
        given = [x.cuda() for x in drawn(*shape, kind)]
        q, k, v = given
        out = sixteen_bit_attention(q, k, v, tile)
        assert off(out, given) < 4e-3
        assert torch.equal(sixteen_bit_attention(q, k, v, tile), out)
