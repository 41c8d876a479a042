"""A plan holds in an allocator that leaves gaps: whole steps at full size, without memory."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from tests.generation.test_memory_plan import FULL, SCHEDULE, _prompt
from tests.memory.allocator import MIB, Allocator, Trace, replay

from recurvid.conditioning import Conditioning
from recurvid.generation.memory_plan import DENOISE, MemoryQuestion, plan_memory
from recurvid.latents import LatentFrames
from recurvid.memory.budget import GIB, MemoryBudget, PhasePlan, place_phase
from recurvid.models.packed_dit.in_pieces import Pieces
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.models.quantized import rounded_in
from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.local_windows import sparse
from recurvid.ops.attention.windows import Windows
from recurvid.ops.linear import layers
from recurvid.ops.linear.forms import FORMS, convert
from recurvid.packing.kernel import Kernel
from recurvid.packing.pack import ContextGroup, PackedContext

SLOW = pytest.mark.slow
#: Five blocks of each kind, the first three of which int8 leaves whole: more of them ask for the
#: same again.
FEW = replace(FULL, num_layers=5, num_single_layers=5)
CARDS = (4, 4.5, 5, 5.5, 5.7, 6, 6.5, 7, 8, 9, 10, 11, 12, 14, 16, 24)


@cache
def two_steps(
    form: str,
    height: int,
    width: int,
    windows: Windows | None = None,
    *,
    at_once: int = 0,
    all_blocks: bool = False,
) -> tuple[tuple[str, int, int], ...]:
    """What a section's first two steps ask for."""
    half: dict[str, Any] = {"dtype": torch.bfloat16}
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta device
        # Out of the tests' type checks, which hold what a function is given until it returns.
        patch.setattr(PackedDiT, "run_blocks", inspect.unwrap(PackedDiT.run_blocks))
        if form == "fp8":  # whose stand-in away from cards widens whole weights
            patch.setattr(layers, "by_torch", lambda _: as_an_older_card)
            patch.setattr(layers, "WITH_WIDE_SUMS", (as_an_older_card,))
        model = PackedDiT(FULL if all_blocks else FEW).to(torch.bfloat16)
        model.pieces = Pieces(at_once) if at_once else None
        if form != "auto":
            convert(model, FORMS[form], rounded_in(form, FULL))

        def frames(count: int) -> LatentFrames:
            data = torch.empty(1, 16, count, height // 8, width // 8, **half)
            return LatentFrames(data, torch.empty(1, count, dtype=torch.int64))

        groups = [(Kernel(k, 2 * k, 2 * k), frames(n)) for k, n in ((4, 16), (2, 2), (1, 2))]
        context = PackedContext(tuple(ContextGroup(*group) for group in groups))
        told = Conditioning(
            text=torch.empty(1, 256, 4096, **half), text_mask=torch.empty(1, 256, dtype=torch.bool),
            pooled=torch.empty(1, 768, **half), image=torch.empty(1, 729, 1152, **half),
            guidance=torch.empty(1),
        )  # fmt: skip
        fused = AttentionBackend("fused", lambda q, _k, _v, _m: torch.empty_like(q), lambda _: None)
        attention = fused if windows is None else sparse(fused, windows)
        prompt, target = _prompt(model), frames(9)
        with torch.no_grad(), Trace(model) as trace:
            blocks = (*model.transformer_blocks, *model.single_transformer_blocks)
            for number, block in enumerate(blocks):
                block.register_forward_pre_hook(partial(_note, trace, number))
            section = model.embed_section(context, target)
            for _ in range(2):
                model(target, torch.empty(1), told, context, attention=attention, prompt=prompt,
                      section=section)  # fmt: skip
    return tuple(trace.events)


def as_an_older_card(
    x: torch.Tensor, x_scale: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: Any
) -> torch.Tensor:
    """What ``fp8_product`` asks for where the library does not scale rows itself."""
    sums = torch.empty(x.shape[0], weight.shape[0], dtype=torch.bfloat16)
    y = sums.float() * x_scale * scale.t()
    return y if bias is None else y + bias.float()


def _note(trace: Trace, number: int, *_: object) -> None:
    trace.block(number)


@pytest.mark.parametrize(
    "form", ["auto", *(pytest.param(f, marks=SLOW) for f in ("int8", "fp8", "int8-weights", "nf4"))]
)
@pytest.mark.parametrize(
    "size", [(480, 832), *(pytest.param(s, marks=SLOW) for s in ((640, 640), (720, 1280)))]
)
def test_the_first_plan_holds(form: str, size: tuple[int, int]):
    assert all(plans_that_hold(form, size).values())


@SLOW
@pytest.mark.parametrize("form", ["auto", "int8"])
@pytest.mark.parametrize("size", [(480, 832), (640, 640)])
@pytest.mark.parametrize("windows", [Windows(10, 13, 5), Windows(30, 13, 7)])
def test_the_first_plan_holds_with_windows(form: str, size: tuple[int, int], windows: Windows):
    assert all(plans_that_hold(form, size, windows).values())


def test_plans_for_less_work_do_not_hold():
    """One and a half tensors of all tokens less than is planned."""
    unit = (17_966 + 985) * 3072 * 2
    held = plans_that_hold("auto", (480, 832), spared=3 * unit // 2)
    assert not all(held.values())


def plans_that_hold(
    form: str, size: tuple[int, int], windows: Windows | None = None, *, spared: int = 0
) -> dict[float, bool]:
    """For each card that a plan fits: whether its first two steps have the memory they ask for.

    Args:
        spared: bytes of work that are not planned for.
    """
    found: dict[float, bool] = {}
    for vram in CARDS:
        budget = MemoryBudget.of(vram)
        asked = MemoryQuestion(SCHEDULE, *size, weights=form, sparse=windows is not None)
        need = plan_memory(budget, asked).phase(DENOISE).need
        plan = place_phase(replace(need, work=need.work - spared), budget.allocator)
        if plan.shortage:
            continue
        events = two_steps(form, *size, windows, at_once=need.at_once)
        try:
            replay(events, plan, Allocator(budget.allocator))
            found[vram] = True
        except MemoryError:
            found[vram] = False
    assert len(found) >= len(CARDS) - 2
    return found


@pytest.mark.parametrize(
    "windows",
    [
        Windows(10, 13, 5),
        pytest.param(Windows(30, 13, 7), marks=SLOW),
        pytest.param(Windows(7, 7, 9), marks=SLOW),
    ],
)
def test_sparse_attention_needs_no_more_at_the_worst_moment(windows: Windows):
    """What it gathers is less than what a block has let go by then."""
    dense, gathering = two_steps("auto", 480, 832), two_steps("auto", 480, 832, windows)
    assert len(gathering) > len(dense)
    assert _most(gathering) < 1.01 * _most(dense)


def _most(events: tuple[tuple[str, int, int], ...]) -> int:
    """Bytes alive at the worst moment."""
    alive: dict[int, int] = {}
    now = most = 0
    for kind, number, size in events:
        if kind == "+":
            alive[number] = size
            now += size
        elif kind == "-":
            now -= alive.pop(number)
        most = max(most, now)
    return most


def test_the_model_of_the_allocator_sees_too_many_blocks():
    """As an H100 did: 7 blocks of 16 bits in 4.6 GiB, one by one, ran out of memory."""
    events = two_steps("auto", 480, 832, all_blocks=True)
    budget = MemoryBudget.of(21)  # all blocks, nothing in pieces, no decoder beside
    need = plan_memory(budget, MemoryQuestion(SCHEDULE, 480, 832, steps=1)).phase(DENOISE).need
    limit = int(4.6 * GIB)
    seven = PhasePlan(need, (20, 25, 30, 35, 40, 45, 50), 2, limit)
    assert seven.device - (2 * (17_966 + 985) * 3072 * 2) <= limit  # the plan of then
    with pytest.raises(MemoryError):
        replay(events, seven, Allocator(limit), in_one_piece=False)


def test_gaps():
    """Two of three pieces are free, and together large enough, but not next to one another."""
    allocator = Allocator(30 * MIB)
    first, _, third = (allocator.take(10 * MIB) for _ in range(3))
    allocator.give(first)
    allocator.give(third)
    assert allocator.reserved == 30 * MIB
    kept = allocator.take(20 * MIB)  # both go back to the card, which puts them together
    allocator.give(kept)
    pieces = [allocator.take(5 * MIB) for _ in range(4)]
    for piece in pieces[::2]:
        allocator.give(piece)
    with pytest.raises(MemoryError, match="10 MiB beside 30"):
        allocator.take(10 * MIB)
