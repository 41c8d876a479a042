"""The 13B model on cards of all sizes, against numbers written out here."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recurvid.caching.magcache import PUBLISHED
from recurvid.caching.protocol import Step
from recurvid.caching.registry import CACHES, new_cache
from recurvid.conditioning import Conditioning
from recurvid.errors import InputError
from recurvid.generation.memory_plan import (
    DECODE,
    DENOISE,
    HELD,
    PHASES,
    TEXT,
    MemoryQuestion,
    backbone_sizes,
    decode_room,
    decode_tile,
    phase_needs,
    plan_memory,
)
from recurvid.latents import LatentFrames
from recurvid.memory.budget import GIB, MemoryBudget
from recurvid.models.packed_dit.config import PRESETS
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.models.quantized import rounded_in
from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.linear.forms import FORMS, convert
from recurvid.packing.kernel import Kernel
from recurvid.packing.pack import ContextGroup, PackedContext
from recurvid.vae.lean_decoder import BYTES
from recurvid.vae.windows import fit_windows

SCHEDULE = "f1k1_x_g9_f1k1f2k2f16k4_td"
FULL = PRESETS["13b"]


def question(**other) -> MemoryQuestion:
    values: dict[str, Any] = {"schedule": SCHEDULE, "height": 480, "width": 832, **other}
    return MemoryQuestion(**values)


def test_sizes_of_the_13b_model():
    sizes = backbone_sizes(FULL)
    assert len(sizes.blocks) == 60
    assert round(sum(sizes.blocks) / 1e9, 2) == 18.12
    assert round((sum(sizes.blocks) + sizes.always) / 1e9, 1) == 18.2  # 9.08 billion in bf16
    assert round(sizes.once / 1e9, 1) == 7.6
    assert sizes.vectors == 2_224_128  # 362 vectors of 3072 in bf16
    # In 8 bits 17 blocks of 20, and 37 of 40.
    assert round(sum(backbone_sizes(FULL, "int8").blocks) / 1e9, 1) == 10.1
    assert round(sum(backbone_sizes(FULL, "int8-weights").blocks) / 1e9, 1) == 9.1


# vram, form: resident blocks of 60, slots, side of a decoder tile, decoder beside it, LLaMA layers.
@pytest.mark.parametrize(
    ("vram", "weights", "resident", "slots", "tile", "together", "llama"),
    [
        (4, "auto", 5, 2, 192, False, 1),
        (5, "auto", 8, 2, 192, False, 3),
        (6, "auto", 12, 2, 256, False, 5),
        (8, "auto", 22, 2, 256, False, 10),
        (12, "auto", 40, 2, 256, False, 20),
        (16, "auto", 50, 2, 256, False, 32),
        (24, "auto", 60, 0, 256, True, 32),
        (80, "auto", 60, 0, 0, True, 32),
        (4, "int8", 5, 2, 192, False, 1),
        (5, "int8", 12, 2, 192, False, 3),
        (6, "int8", 20, 2, 256, False, 5),
        (8, "int8", 39, 2, 256, False, 10),
        (12, "int8", 60, 0, 256, False, 20),
        (16, "int8", 60, 0, 256, True, 32),
        (24, "int8", 60, 0, 256, True, 32),
        (80, "int8", 60, 0, 0, True, 32),
        (6, "fp8", 20, 2, 256, False, 5),
        (6, "nf4", 32, 2, 256, False, 5),
    ],
)
def test_plans(vram, weights, resident, slots, tile, together, llama):
    budget = MemoryBudget.of(vram, ram=16 * GIB, disk=100 * GIB)
    asked = question(weights=weights)
    plan = plan_memory(budget, asked)
    plan.refuse("framepack")
    denoise = plan.phase(DENOISE)
    assert (len(denoise.resident), denoise.slots) == (resident, slots)
    assert (decode_tile(budget, asked), plan.together) == (tile, together)
    assert len(plan.phase(TEXT).resident) == llama
    assert [phase.need.name for phase in plan.phases] == list(PHASES)
    assert all(phase.device <= budget.allocator for phase in plan.phases)
    assert plan.ram <= (12 if weights != "auto" else 16) * GIB
    # Where all blocks have room beside all tokens at once, nothing is cut.
    assert (denoise.need.at_once > 0) == (
        vram <= (12 if weights == "int8" else 16) and weights != "nf4"
    )


@pytest.mark.parametrize("vram", [6, 24, 80])
@pytest.mark.parametrize("weights", ["auto", "int8"])
def test_side_by_side_everything_is_counted(vram, weights):
    asked = question(weights=weights)
    plan = plan_memory(MemoryBudget.of(vram), asked)
    blocks = sum(backbone_sizes(FULL, weights).blocks)
    decode, denoise = plan.phase(DECODE).need, plan.phase(DENOISE).need
    assert (decode.weights > blocks) == plan.together
    assert (denoise.weights > 0.45e9) == plan.together


@pytest.mark.parametrize(("vram", "windows"), [(4, 6), (6, 3), (8, 2), (12, 1), (24, 2), (80, 1)])
def test_a_decode_gets_what_is_left(vram, windows):
    asked = question()
    plan = plan_memory(MemoryBudget.of(vram), asked)
    room = decode_room(plan, asked)
    cut = fit_windows(60, 104, room // (17 * 64 * BYTES))
    assert len(cut.rows) * len(cut.columns) == windows
    assert plan.phase(DECODE).limit - plan.phase(DECODE).device >= 0


def test_step_caches_are_counted():
    """Against what each really holds after a run: see also the tensors that it names."""
    unit = 17_966 * 3072 * 2
    plain = phase_needs(MemoryBudget.of(80), question(), FULL)[5].work
    for name, tensors in HELD.items():
        for passes in (1, 2):
            asked = question(cache=name, passes=passes)
            work = phase_needs(MemoryBudget.of(80), asked, FULL)[5].work
            assert work - plain == passes * tensors * unit
    assert set(HELD) == {"off", *CACHES}


@pytest.mark.parametrize("name", sorted(CACHES))
def test_no_cache_holds_more_than_is_counted(name: str):
    cache = new_cache(name, 1e-6, PUBLISHED["framepack"])
    tokens = torch.randn(1, 5, 3)

    def blocks() -> Generator[torch.Tensor, None, None]:
        yield tokens * 1.5
        yield tokens * 2.5

    for index in range(4):
        tokens = tokens * 1.3
        seen = tokens + 1
        cache.run(Step(index, 25, 1.0), tokens, lambda seen=seen: seen, blocks)
    held = {t.data_ptr(): t for t in _tensors(vars(cache)) if t.shape == tokens.shape}
    assert len(held) == HELD[name]


def _tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for item in value.values() for t in _tensors(item)]
    if isinstance(value, list | tuple):
        return [t for item in value for t in _tensors(item)]
    return _tensors(vars(value)) if type(value).__module__.startswith("recurvid.caching") else []


def test_weights_in_another_form_need_disk_once():
    made = backbone_sizes(FULL, "int8").rounded
    assert 8.04e9 < made < 8.06e9
    plan = plan_memory(MemoryBudget.of(6, home=5 * GIB), question(weights="int8"), kept=made)
    (line,) = plan.shortages()
    assert "a file of 7.5 GiB, 5.0 GiB of disk are free for it" in line
    assert plan_memory(MemoryBudget.of(6, home=9 * GIB), question(), kept=made).fits


def test_six_gib_and_sixteen_of_memory():
    plan = plan_memory(MemoryBudget.of(6, ram=16 * GIB), question())
    assert plan.source == "mapped"
    assert max(phase.device for phase in plan.phases) <= 4.5 * GIB
    assert plan.ram < 8 * GIB  # of the 16 that the bf16 model may take
    assert 14 * GIB < plan.cache < 15 * GIB


def test_six_gib_and_much_memory():
    plan = plan_memory(MemoryBudget.of(6, ram=48 * GIB), question())
    assert (plan.source, plan.cache) == ("pinned", 0)
    assert 18 * GIB < plan.ram < 19 * GIB


@pytest.mark.parametrize("size", [(768, 768), (704, 1280)])
def test_larger_pictures_leave_fewer_blocks(size):
    small = plan_memory(MemoryBudget.of(8), question()).phase(DENOISE)
    plan = plan_memory(MemoryBudget.of(8), question(height=size[0], width=size[1]))
    large = plan.phase(DENOISE)
    assert large.need.work > small.need.work
    assert len(large.resident) < len(small.resident)


def test_what_is_too_large_is_refused_with_numbers():
    plan = plan_memory(MemoryBudget.of(4), question(height=1088, width=1920))
    (denoise,) = [line for line in plan.shortages() if line.startswith(DENOISE)]
    assert "2.9 GiB of 4.0 GiB" in denoise


def test_odd_sizes():
    with pytest.raises(InputError, match="830x480"):
        plan_memory(MemoryBudget.of(8), question(width=830))


def test_guidance_in_two_passes_keeps_two_prompts():
    one, two = (
        phase_needs(MemoryBudget.of(8), question(passes=passes), FULL)[-1] for passes in (1, 2)
    )
    assert one.name == DECODE
    assert two.weights - one.weights == 25 * (2_224_128 + 256 * 3072 * 2) + 729 * 3072 * 2


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made inside it held at one time. For the meta device."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        named = (*model.parameters(), *model.buffers())
        self.weights = {p.untyped_storage()._cdata for p in named}
        self.live, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.weights:
                    self.live.setdefault(storage._cdata, (storage.nbytes(), storage._weak_ref()))
        for key, (_, reference) in list(self.live.items()):
            if torch.UntypedStorage._expired(reference):
                del self.live[key]
        self.peak = max(self.peak, sum(size for size, _ in self.live.values()))
        return out


@pytest.mark.parametrize(
    "form",
    ["auto", "nf4", *(pytest.param(f, marks=pytest.mark.slow) for f in ("int8", "fp8"))],
)
def test_the_estimate_of_work_covers_what_a_step_allocates(
    form: str, monkeypatch: pytest.MonkeyPatch
):
    """A whole step at full size, without memory: estimate >= peak, and not by far."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta device
    with torch.device("meta"):
        model = PackedDiT(FULL).to(torch.bfloat16)
        if form != "auto":
            convert(model, FORMS[form], rounded_in(form, FULL))

        def frames(count: int) -> LatentFrames:
            data = torch.empty(1, 16, count, 60, 104, dtype=torch.bfloat16)
            return LatentFrames(data, torch.empty(1, count, dtype=torch.int64))

        context = PackedContext(
            tuple(
                ContextGroup(Kernel(k, 2 * k, 2 * k), frames(n))
                for k, n in ((4, 16), (2, 2), (1, 2))
            )
        )
        half: dict[str, Any] = {"dtype": torch.bfloat16}
        told = Conditioning(
            text=torch.empty(1, 256, 4096, **half), text_mask=torch.empty(1, 256, dtype=torch.bool),
            pooled=torch.empty(1, 768, **half), image=torch.empty(1, 729, 1152, **half),
            guidance=torch.empty(1),
        )  # fmt: skip
        prompt = _prompt(model)
        fused = AttentionBackend("fused", lambda q, _k, _v, _m: torch.empty_like(q), lambda _: None)
        with torch.no_grad(), LiveBytes(model) as live:
            target = frames(9)
            section = model.embed_section(context, target)
            model(target, torch.empty(1), told, context, attention=fused, prompt=prompt,
                  section=section)  # fmt: skip
    work = phase_needs(MemoryBudget.of(80), question(), FULL)[5].work
    assert 0.7 * work < live.peak <= work


def _prompt(model: PackedDiT):
    from recurvid.models.packed_dit.model import PromptState

    temb = torch.empty(1, 3072, dtype=torch.bfloat16)
    text = torch.empty(1, 256 + 729, 3072, dtype=torch.bfloat16)
    return model.with_vectors(PromptState(text, None, temb))
