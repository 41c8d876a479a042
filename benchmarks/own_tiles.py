"""Every tile of our own attention as a backend: "own:bf16:TILE", and with fp8 and int8 so."""

from __future__ import annotations

from functools import partial

from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.gluon_hopper import AVAILABLE, HOPPER_TILES
from recurvid.ops.attention.gluon_sixteen import GLUON, SIXTEEN_BIT_TILES
from recurvid.ops.attention.triton_eight_bit import TILES, TRITON_FP8, TRITON_INT8

#: Best guesses first, by what their machine code looks like. Others are tried by name.
FIRST = (
    *(f"bf16:{tile}" for tile in SIXTEEN_BIT_TILES),
    "fp8:hopper-apart",
    "fp8:hopper",
    "fp8:hopper-apart-free",
    "int8:hopper-apart",
    "fp8:128x64",
    "fp8:hopper-free",
    "fp8:hopper-shared",
    "fp8:128x256",
    "fp8:128x128",
    "int8:hopper",
    "int8:128x64",
    "fp8:128x64-deep",
    "fp8:128x128-lazy",
    "fp8:128x256-plain",
    "fp8:64x128",
    "int8:128x128",
)


def backends() -> dict[str, AttentionBackend]:
    """All tiles that can be made here."""
    found = {}
    eight_bit = (*TILES, *(HOPPER_TILES if AVAILABLE else ()))
    for name, of, tiles in (
        ("bf16", GLUON, SIXTEEN_BIT_TILES if AVAILABLE else ()),
        ("fp8", TRITON_FP8, eight_bit),
        ("int8", TRITON_INT8, eight_bit),
    ):
        for tile in tiles:
            called = f"own:{name}:{tile}"
            call = partial(of.function, tile=tile)  # pyright: ignore[reportCallIssue]
            found[called] = AttentionBackend(called, call, of.why_not, of.exact)
    return found
