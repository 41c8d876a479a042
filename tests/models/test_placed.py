"""The backbone through a small device gives the bits of the backbone at home."""

from __future__ import annotations

import copy
import dataclasses
import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.memory.streams import LateCopies
from tests.models.dit_cases import Case, group, randomise, relative
from torch._dynamo.testing import CompileCounterWithBackend

from recurvid.caching.calibration import Calibration
from recurvid.caching.protocol import CachedStep, Step
from recurvid.caching.registry import CACHES, new_cache
from recurvid.conditioning import Conditioning
from recurvid.errors import ComponentError
from recurvid.latents import LatentFrames
from recurvid.memory.budget import PhaseNeed, place_phase
from recurvid.memory.layout import BlockLayout, tensors_of
from recurvid.memory.residency import Turns
from recurvid.models import placed
from recurvid.models.compiled import compile_blocks
from recurvid.models.packed_dit.config import PRESETS
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.models.packed_dit.precompute import ONCE, is_modulation, precompute
from recurvid.models.placed import PlacedDiT, Room, Streaming
from recurvid.models.protocol import Backbone
from recurvid.models.quantized import quantize
from recurvid.packing.pack import PackedContext

CPU = torch.device("cpu")


class Setting:
    """A random case: the model at home, the same placed, and inputs of a call.

    Args:
        left: bytes that new plans may count on, if there shall be any.
    """

    def __init__(
        self,
        seed: int = 5,
        dtype: torch.dtype = torch.float32,
        left: Callable[[], int] | None = None,
        together: bool = False,
        **streaming,
    ):
        case = Case(seed)
        torch.manual_seed(seed)
        self.home = PackedDiT(case.config).eval().requires_grad_(False)
        randomise(self.home)
        self.home.to(dtype)
        self.copies = LateCopies()
        self.turns = Turns(CPU, together=together)
        blocks = [*self.home.transformer_blocks, *self.home.single_transformer_blocks]
        self.sizes = [BlockLayout.of(tensors_of(b, is_modulation)).size for b in blocks]
        need = PhaseNeed("denoise", 0, 0, tuple(self.sizes), kept=True)
        self.placed = PlacedDiT(
            copy.deepcopy(self.home), CPU, Streaming(**streaming), turns=self.turns,
            copies=self.copies, room=None if left is None else Room(need, left),
        )  # fmt: skip
        x = case.inputs(dtype)
        frames = {k: LatentFrames.of(x.latents[k], case.index[k]) for k in case.index}
        self.conditioning: Conditioning = x.conditioning
        self.context = PackedContext(
            tuple(group(k, frames[k].data, frames[k].index) for k in ("k4", "k2", "k1"))
        )
        self.target, self.batch = frames["g"], x.timestep.shape[0]

    def timestep(self, value: float) -> torch.Tensor:
        return torch.full((self.batch,), value)

    def both(self, value: float, conditioning: Conditioning | None = None):
        """What the two say at a timestep; the placed one is given its section, as in a job."""
        told = conditioning or self.conditioning
        args = self.target, self.timestep(value), told, self.context
        section = self.placed.embed_section(self.context, self.target)
        with torch.no_grad():
            return self.placed(*args, section=section), self.home(*args)


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize(("resident", "slots"), [(0, 1), (0, 2), (2, 2), (99, 2)])
def test_same_bits(pinned: bool, resident: int, slots: int):
    setting = Setting(pinned=pinned, resident=resident, slots=slots)
    for value in (1000.0, 731.25, 1.0):
        ours, theirs = setting.both(value)
        assert ours.equal(theirs)


@pytest.mark.parametrize("seed", range(4))
def test_same_bits_for_many_shapes_in_bf16(seed: int):
    setting = Setting(seed, torch.bfloat16)
    ours, theirs = setting.both(500.0)
    assert ours.equal(theirs)


def test_is_a_backbone():
    assert isinstance(Setting().placed, Backbone)


def test_prepared_timesteps_are_not_computed_again(monkeypatch: pytest.MonkeyPatch):
    setting = Setting()
    values = [1000.0, 600.0, 200.0]
    setting.placed.prepare(setting.conditioning, [setting.timestep(v) for v in values])

    def never(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("recurvid.models.placed.precompute", never)
    for value in values:
        ours, theirs = setting.both(value)
        assert ours.equal(theirs)
    setting.placed.prepare(setting.conditioning, [setting.timestep(v) for v in values])
    with pytest.raises(AssertionError, match="computed again"):
        setting.both(601.0)


def test_two_prompts_do_not_mix():
    setting = Setting()
    other = Conditioning(
        text=setting.conditioning.text.flip(0) * 0.5,
        text_mask=setting.conditioning.text_mask,
        pooled=-setting.conditioning.pooled,
        image=setting.conditioning.image,
        guidance=setting.conditioning.guidance,
    )
    for told in (setting.conditioning, other):
        setting.placed.prepare(told, [setting.timestep(700.0)])
    (a, a_home), (b, b_home) = (setting.both(700.0, told) for told in (setting.conditioning, other))
    assert a.equal(a_home)
    assert b.equal(b_home)
    assert not a.equal(b)


def test_prompts_of_jobs_before_are_let_go():
    setting = Setting()
    told = [dataclasses.replace(setting.conditioning) for _ in range(4)]
    for one in told:
        setting.placed.prepare(one, [setting.timestep(700.0)])
    assert list(setting.placed._prompts) == [id(one) for one in told[-2:]]


def test_precompute_equals_a_call_a_timestep():
    setting = Setting(dtype=torch.bfloat16)
    steps = [setting.timestep(v) for v in (999.0, 500.0, 3.0)]
    made = precompute(setting.home, setting.conditioning, steps, CPU)
    for state, timestep in zip(made, steps, strict=True):
        with torch.no_grad():
            plain = setting.home.with_vectors(
                setting.home.embed_prompt(setting.conditioning, timestep)
            )
        assert state.text.equal(plain.text)
        assert state.vectors is not None
        assert plain.vectors is not None
        assert state.vectors.out.equal(plain.vectors.out)
        ours = [*sum(state.vectors.double, ()), *state.vectors.single]
        theirs = [*sum(plain.vectors.double, ()), *plain.vectors.single]
        assert len(ours) == len(theirs) > 2
        assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("form", ["int8-weights", "int8", "fp8"])
def test_rounded_weights_stream_too(form: str):
    case = Setting(4)
    quantize(case.home, form, CPU)
    rounded = PlacedDiT(copy.deepcopy(case.home), CPU, Streaming(pinned=True), copies=case.copies)
    streamed = sum(layout.size for layout in rounded.stream.source.layouts)
    case.placed, plain = rounded, case.placed
    ours, theirs = case.both(800.0)
    assert ours.equal(theirs)
    assert streamed < sum(layout.size for layout in plain.stream.source.layouts)


def test_modulation_is_never_streamed():
    setting = Setting(resident=1)
    for block, layout in zip(
        setting.placed.stream.blocks, setting.placed.stream.source.layouts, strict=True
    ):
        mine = {name for name, _ in block.named_parameters()}
        left = mine - set(layout.names)
        assert left == {name for name in mine if "norm" in name and ".linear." in name}
        assert left


def test_what_is_left_of_13b():
    with torch.device("meta"):
        model = PackedDiT(PRESETS["13b"])
    once = streamed = 0
    for name, parameter in model.named_parameters():
        top, _, rest = name.partition(".")
        inside = rest.partition(".")[2]
        if top in ONCE or (top.endswith("transformer_blocks") and is_modulation(inside)):
            once += parameter.numel()
        elif top.endswith("transformer_blocks"):
            streamed += parameter.numel()
    total = sum(p.numel() for p in model.parameters())
    assert total == 12_874_314_816
    assert round(once / 1e9, 2) == 3.80
    assert round((total - once) / 1e9, 2) == 9.08
    assert round(streamed / 1e9, 2) == 9.06


def test_an_error_in_a_block_leaves_nothing_on_the_device():
    setting = Setting(resident=1)
    setting.both(300.0)
    assert setting.placed.stream.device_bytes > 0
    with pytest.raises(RuntimeError):
        setting.placed(
            LatentFrames(setting.target.data[:, :-1], setting.target.index),
            setting.timestep(3.0),
            setting.conditioning,
            setting.context,
        )
    assert setting.placed.stream.device_bytes == 0
    ours, theirs = setting.both(300.0)
    assert ours.equal(theirs)


def full_device(setting: Setting, room: int) -> list[int]:
    """Let the placed model's device hold ``room`` bytes of buffers; lists the refused sizes."""
    stream, refused = setting.placed.stream, []
    held: dict[int, int] = {}

    def limited(size: int) -> torch.Tensor:
        gc.collect()
        if sum(held.values()) + size > room:
            refused.append(size)
            raise torch.OutOfMemoryError("the device is full")
        array = np.empty(size, np.uint8)  # lives as long as any view of the tensor
        held[id(array)] = size
        weakref.finalize(array, held.pop, id(array))
        return torch.from_numpy(array)

    stream._empty = limited  # type: ignore[method-assign]
    return refused


def test_a_fuller_device_gets_fewer_blocks_and_the_same_bits():
    setting = Setting(resident=99)
    sizes = [layout.size for layout in setting.placed.stream.source.layouts]
    refused = full_device(setting, room=2 * max(sizes) + max(sizes) // 2)
    ours, theirs = setting.both(900.0)
    assert refused
    assert ours.equal(theirs)
    assert len(setting.placed.stream.resident) < len(sizes)


@pytest.fixture
def nothing_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placed, "SPARED", 0)


def test_a_new_plan_takes_what_is_left_at_once(nothing_spared: None):
    left = [0]
    setting = Setting(3, resident=99, left=lambda: left[0])
    left[0] = sum(setting.sizes) - 1  # all but one could stay, were there no buffers
    refused = full_device(setting, left[0])
    ours, theirs = setting.both(900.0)
    assert ours.equal(theirs)
    assert len(refused) == 1
    planned = place_phase(PhaseNeed("", 0, 0, tuple(setting.sizes)), left[0])
    assert len(setting.placed.stream.resident) == len(planned.resident) > 0
    assert setting.placed.stream.slots == planned.slots


def test_memory_that_comes_back_is_used_from_the_next_section_on(nothing_spared: None):
    left = [0]
    setting = Setting(3, resident=99, left=lambda: left[0])
    refused = full_device(setting, 3 * max(setting.sizes))
    left[0] = 3 * max(setting.sizes)
    setting.both(900.0)
    few = len(setting.placed.stream.resident)
    setting.both(800.0)
    assert len(setting.placed.stream.resident) == few < len(setting.sizes)
    refused.clear()
    full_device(setting, 10**9)
    left[0] = 10**9
    ours, theirs = setting.both(700.0)
    assert ours.equal(theirs)
    assert len(setting.placed.stream.resident) == len(setting.sizes)


@pytest.mark.parametrize("where", ["precompute", "embed_section", "arrive"])
def test_a_full_device_beside_the_steps(where: str, monkeypatch: pytest.MonkeyPatch):
    """Making vectors, embedding a section and coming to the device are tried again too."""
    setting = Setting(resident=2)
    asked = []

    def once(work):
        def told(*args, **kwargs):
            asked.append(1)
            if len(asked) == 1:
                raise torch.OutOfMemoryError("full")
            return work(*args, **kwargs)

        return told

    owner, name = {
        "precompute": (setting.placed, "_precompute"),
        "embed_section": (setting.placed.model, "embed_section"),
        "arrive": (setting.placed, "_bring_outer"),
    }[where]
    monkeypatch.setattr(owner, name, once(getattr(owner, name)))
    setting.placed.prepare(setting.conditioning, [setting.timestep(500.0)])
    ours, theirs = setting.both(500.0)
    assert ours.equal(theirs)
    assert len(asked) > 1


def test_libraries_say_in_words_that_memory_is_out():
    for said in ("CUDA error: out of memory\nmore", "x CUBLAS_STATUS_ALLOC_FAILED when calling"):
        setting = Setting(resident=2)
        raise_once(setting, RuntimeError(said))
        ours, theirs = setting.both(500.0)
        assert ours.equal(theirs)
    setting = Setting(resident=2)
    raise_once(setting, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal"):
        setting.both(500.0)
    assert setting.placed.stream.device_bytes == 0


def raise_once(setting: Setting, error: Exception) -> list[bool]:
    """In the middle of the next pass over the blocks; lists when it was done."""
    whole, raised = setting.placed.stream.visit, list[bool]()

    def told(numbers):
        for count, block in enumerate(whole(numbers)):
            if not raised and count == len(numbers) // 2:
                raised.append(True)
                raise error
            yield block

    setting.placed.stream.visit = told  # type: ignore[method-assign]
    return raised


@pytest.mark.parametrize("name", sorted(CACHES))
def test_a_step_that_failed_leaves_no_trace_in_a_cache(name: str):
    """Memory is out in the fourth of eight steps: the decisions and the bits of no trouble."""

    def walk(trouble: bool) -> tuple[list[torch.Tensor], list[bool]]:
        setting = Setting(resident=3)
        cache = new_cache(name, 2.0 if name == "first-block" else 0.3, Calibration({8: (1.0,) * 8}))
        count = 8
        section = setting.placed.embed_section(setting.context, setting.target)
        made, raised = [], [not trouble]
        for index in range(count):
            if trouble and index == 3:
                raised = raise_once(setting, torch.OutOfMemoryError("full"))
            step = CachedStep(cache, Step(index, count, 1 - index / count))
            made.append(
                setting.placed(
                    setting.target, setting.timestep(900.0 - 3 * index), setting.conditioning,
                    setting.context, section=section, cache=step,
                )
            )  # fmt: skip
        assert raised == [True]
        return made, cache.computed

    (plain, decided), (disturbed, again) = walk(False), walk(True)
    assert decided == again
    assert True in decided[3:]
    assert False in decided
    assert all(a.equal(b) for a, b in zip(plain, disturbed, strict=True))


def test_side_by_side_the_other_one_leaves_first():
    setting = Setting(resident=99, together=True)
    came: list[str] = []
    setting.turns.take("vae", lambda: came.append("vae"), lambda: came.append("vae left"))
    setting.both(900.0)
    assert came == ["vae"]
    raise_once(setting, torch.OutOfMemoryError("full"))
    ours, theirs = setting.both(800.0)
    assert ours.equal(theirs)
    assert came == ["vae", "vae left"]
    assert len(setting.placed.stream.resident) == len(setting.sizes)  # nothing more was needed


def test_all_image_tokens_are_kept_once():
    setting = Setting(3)
    steps = [setting.timestep(v) for v in (900.0, 500.0, 100.0)]
    setting.placed.prepare(setting.conditioning, steps)
    (told,) = setting.placed._prompts.values()
    image = setting.conditioning.image
    assert image is not None
    assert told.image is not None
    assert told.image.shape[1] == image.shape[1] > 0
    lengths = {state.text.shape[1] for state in told.states.values()}
    made = precompute(setting.home, setting.conditioning, steps, CPU)
    assert lengths == {made[0].text.shape[1] - image.shape[1]}


@pytest.mark.parametrize("form", ["auto", "int8"])
@pytest.mark.parametrize("pinned", [False, True])
def test_compiled_blocks_stream_and_compile_once_a_kind(form: str, pinned: bool):
    torch._dynamo.reset()
    case = Setting(3)
    if form != "auto":
        quantize(case.home, form, CPU)
    compiled = copy.deepcopy(case.home)
    counter = CompileCounterWithBackend("aot_eager")
    compile_blocks(compiled, backend=counter)
    case.placed = PlacedDiT(compiled, CPU, Streaming(resident=1, pinned=pinned))
    assert len(case.sizes) > 2
    for value in (900.0, 500.0, 100.0):  # each embeds a section anew
        ours, theirs = case.both(value)
        assert relative(ours, theirs) < 1e-5
        assert counter.frame_count == 2
    case.placed.leave()
    case.both(50.0)
    assert counter.frame_count == 2
    torch._dynamo.reset()


def test_a_device_without_room_for_a_block_is_told_in_one_line():
    setting = Setting(resident=1)
    full_device(setting, room=10)
    with pytest.raises(ComponentError, match="out of device memory"):
        setting.both(900.0)
    assert setting.placed.stream.device_bytes == 0


def test_another_component_takes_the_device():
    setting = Setting(resident=1)
    setting.both(900.0)
    assert setting.turns.current == "backbone"
    setting.turns.take("vae")
    assert setting.placed.stream.device_bytes == 0
    ours, theirs = setting.both(900.0)
    assert setting.turns.current == "backbone"
    assert ours.equal(theirs)
