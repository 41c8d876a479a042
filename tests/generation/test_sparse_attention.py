"""Sparse attention as an option: where it attends, what a session remembers, what compiles."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.caching.cached_runs import conditioning, tiny_model
from tests.generation.sessions import planned, start
from tests.generation.tiny_components import tiny_components
from tests.models.dit_cases import group
from torch._dynamo.testing import CompileCounter

from recurvid.caching.registry import new_cache
from recurvid.checkpoints.locate import locate
from recurvid.errors import InputError, SessionError
from recurvid.generation.denoising import Guidance, make_denoiser
from recurvid.generation.exact_ends import ExactEnds
from recurvid.generation.fingerprint import refuse_changes
from recurvid.generation.loading import load_components
from recurvid.generation.local import Local
from recurvid.generation.runtime import Runtime
from recurvid.generation.session import GenerationSession
from recurvid.generation.step_caches import Caching
from recurvid.latents import LatentFrames
from recurvid.models.compiled import compile_blocks
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.models.placed import PlacedDiT, Streaming
from recurvid.models.protocol import Backbone
from recurvid.ops.attention.backend import AttentionBackend, TokenLayout
from recurvid.ops.attention.local_windows import sparse
from recurvid.ops.attention.sdpa import SDPA
from recurvid.ops.attention.windows import Windows
from recurvid.packing.pack import ContextGroup, Packed, PackedContext
from recurvid.sampling.sigmas import flow_sigmas
from recurvid.sampling.solvers import SOLVERS

STEPS = 8
WINDOWS = Windows(2, 2, 1, 25)


class Kernel:
    """Torch's own, and what it was asked: (batch, queries, keys) of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int]] = []
        self.backend = AttentionBackend("counts", self._attend, lambda _: None)

    def _attend(self, q, k, v, mask) -> torch.Tensor:
        self.calls.append((q.shape[0], q.shape[1], k.shape[1]))
        return SDPA(q, k, v, mask)

    def since(self) -> list[tuple[int, int, int]]:
        calls, self.calls = self.calls, []
        return calls


def run(backbone: Backbone, look: Callable[[], Any] = lambda: None, *, cache: str = "none",
        cfg: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, list[Any]]:  # fmt: skip
    """Latents 3 x 12 x 16, so 6 x 8 tokens a frame, and what was seen after each step."""
    g = torch.Generator().manual_seed(seed)
    context = group("k1", torch.randn(1, 4, 2, 12, 16, generator=g), torch.tensor([[0, 9]]))
    sigmas = flow_sigmas(STEPS, 3.0)
    denoiser = make_denoiser(
        backbone,
        conditioning(0),
        Packed(PackedContext((context,)), torch.tensor([[5, 6, 7]])),
        Guidance(cfg, 0.0, conditioning(1)),
        torch.float32,
        Caching(lambda: new_cache(cache, 0.0), tuple(map(float, sigmas[:-1])))
        if cache != "none"
        else None,
        sigmas=sigmas,
    )
    x, seen = torch.randn(1, 4, 3, 12, 16, generator=g), list[Any]()
    for step in SOLVERS["euler"](denoiser, x, sigmas):
        x = step.x
        seen.append(look())
    return x, seen


def model_with(attention: AttentionBackend) -> PackedDiT:
    model = tiny_model()
    model.attention = attention
    return model


def dense_first(backbone: Backbone, dense: AttentionBackend, steps: int) -> ExactEnds:
    return ExactEnds(backbone, dense, steps, flow_sigmas(STEPS, 3.0), last=0)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("first", [0, 2, STEPS])
def test_blocks_attend_in_windows_after_the_first_steps(first: int, cfg: float):
    kernel = Kernel()
    model = model_with(sparse(kernel.backend, WINDOWS))
    _, seen = run(dense_first(model, kernel.backend, first), kernel.since, cfg=cfg)
    everything = 5 * 6 * 8  # two frames of the context are at full resolution
    for number, calls in enumerate(seen):
        assert calls
        whole = [c for c in calls if c[1] > everything]
        windows = [c for c in calls if c[1] == 5 * 2 * 2]
        assert bool(whole) == (number < first)
        assert bool(windows) == (number >= first)
        assert all(queries < keys < everything for _, queries, keys in windows)


def frames(kernel: str, count: int, size: tuple[int, int] = (12, 16)) -> ContextGroup:
    return group(kernel, torch.randn(1, 4, count, *size), torch.arange(count)[None])


@pytest.mark.parametrize(
    ("groups", "grid"),
    [
        ((), (3, 6, 8)),
        ((frames("k1", 1),), (4, 6, 8)),
        ((frames("k4", 4), frames("k2", 2), frames("k1", 2)), (5, 6, 8)),
        ((frames("k4", 4), frames("k2", 2)), (3, 6, 8)),
        ((frames("k1", 2, (6, 8)),), (3, 6, 8)),
    ],
)
def test_windows_go_through_what_has_the_same_tokens(
    groups: tuple[ContextGroup, ...], grid: tuple[int, int, int]
):
    model, context = tiny_model(), PackedContext(groups)
    target = LatentFrames(torch.randn(1, 4, 3, 12, 16), torch.tensor([[5, 6, 7]]))
    section = model.embed_section(context, target)
    assert section.grid == grid
    seen: list[tuple[TokenLayout, float]] = []

    def over(layout: TokenLayout, _: torch.device, depth: float) -> AttentionBackend:
        seen.append((layout, depth))
        return SDPA

    told = conditioning(0)
    model(target, torch.tensor([500.0]), told, context, attention=replace(SDPA, for_layout=over))
    coarse = section.rope.tokens - math.prod(grid)
    layout = TokenLayout(coarse, grid, told.text.shape[1])
    assert seen == [(layout, pytest.approx(i / 3)) for i in (1, 2, 3)]


def test_the_prompt_is_refined_by_all_of_itself():
    kernel = Kernel()
    model = model_with(sparse(kernel.backend, WINDOWS))
    with torch.no_grad():
        state = model.embed_prompt(conditioning(0), torch.tensor([500.0]), model.attention)
    assert kernel.calls == [(1, state.text.shape[1], state.text.shape[1])]


def test_off_and_small_grids_are_dense_to_the_bit():
    exact = run(tiny_model())[0]
    assert run(model_with(sparse(SDPA, Windows(6, 8, 0))))[0].equal(exact)
    assert run(model_with(sparse(SDPA, Windows(2, 2, 8))))[0].equal(exact)
    changed = run(model_with(sparse(SDPA, WINDOWS)))[0]
    assert not changed.equal(exact)
    assert run(dense_first(model_with(sparse(SDPA, WINDOWS)), SDPA, STEPS))[0].equal(exact)
    assert (changed - exact).norm() < 0.5 * exact.norm()


def test_streamed_gives_the_bits_of_resident():
    model = model_with(sparse(SDPA, WINDOWS))
    placed = PlacedDiT(copy.deepcopy(model), torch.device("cpu"), Streaming(resident=1))
    assert run(dense_first(placed, SDPA, 2))[0].equal(run(dense_first(model, SDPA, 2))[0])


def test_a_step_cache_that_skips_nothing_changes_nothing():
    model = model_with(sparse(SDPA, WINDOWS))
    assert run(model, cache="teacache")[0].equal(run(model)[0])


def test_batches_with_prompts_of_different_lengths():
    model = model_with(sparse(SDPA, WINDOWS))
    told = conditioning(0)
    twice = replace(
        told,
        text=torch.cat([told.text, told.text.flip(1)]),
        text_mask=torch.ones(2, told.text.shape[1], dtype=told.text_mask.dtype),
        pooled=torch.cat([told.pooled, told.pooled]),
    )
    short = told.text.shape[1] // 2
    twice.text_mask[1, short:] = 0
    g = torch.Generator().manual_seed(0)
    target = LatentFrames(torch.randn(2, 4, 3, 12, 16, generator=g), torch.tensor([[5, 6, 7]] * 2))
    time = torch.tensor([500.0, 500.0])
    with torch.no_grad():
        both = model(target, time, twice, PackedContext(()))
        for row, length in enumerate((told.text.shape[1], short)):
            alone = replace(
                told,
                text=twice.text[row : row + 1, :length],
                text_mask=twice.text_mask[row : row + 1, :length],
                pooled=twice.pooled[row : row + 1],
            )
            one = LatentFrames(target.data[row : row + 1], target.index[row : row + 1])
            got = model(one, time[:1], alone, PackedContext(()))
            torch.testing.assert_close(both[row : row + 1], got, atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_weight():
    model = model_with(sparse(SDPA, WINDOWS)).train().requires_grad_()
    g = torch.Generator().manual_seed(0)
    target = LatentFrames(torch.randn(1, 4, 3, 12, 16, generator=g), torch.tensor([[5, 6, 7]]))
    model(
        target, torch.tensor([500.0]), conditioning(0), PackedContext(())
    ).square().sum().backward()
    for block in (*model.transformer_blocks, *model.single_transformer_blocks):
        for name, parameter in block.named_parameters():
            if "norm_added_k" not in name:
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all()


def test_no_compile_from_section_to_section():
    torch._dynamo.reset()
    counter = CompileCounter()
    kernel = sparse(SDPA, WINDOWS)
    model = compile_blocks(model_with(kernel), fused=False, backend=counter)
    plain = model_with(kernel)
    try:
        first = run(dense_first(model, SDPA, 2))[0]
        # two kinds of blocks, dense and sparse
        assert counter.frame_count == 4
        torch.testing.assert_close(first, run(dense_first(plain, SDPA, 2))[0])
        for section in range(1, 4):
            run(dense_first(model, SDPA, 2), seed=section)
        assert counter.frame_count == 4
    finally:
        torch._dynamo.reset()


def test_a_loaded_model_has_windows_and_what_stands_in_for_them():
    files = locate("bundled")
    components = load_components(files, Runtime.of("cpu", sparse="4x4+2"))
    assert components.dense_attention is SDPA
    assert components.exact_attention is None
    assert components.backbone.attention.name == "sdpa, windows 4x4+2@25"  # pyright: ignore[reportAttributeAccessIssue]
    plain = load_components(files, Runtime.of("cpu"))
    assert plain.dense_attention is None
    assert plain.backbone.attention is SDPA  # pyright: ignore[reportAttributeAccessIssue]


def test_a_session_uses_it(tmp_path: Path):
    kernel = Kernel()
    journal = start(tmp_path, steps=8, seconds=1.0)
    components = replace(
        tiny_components(),
        runtime=Runtime.of("cpu", sparse="1x2+0@25"),
        dense_attention=SDPA,
    )
    components.backbone.attention = sparse(kernel.backend, Windows(1, 2, 0))  # pyright: ignore[reportAttributeAccessIssue]
    for _ in GenerationSession(journal, planned(journal, components), components).run():
        pass
    prompts = [c for c in kernel.calls if c[1] == c[2]]
    assert len(prompts) == 6  # the refiner, in each step that the sparse kernel was handed to
    grid = 11 * 3 * 4  # 9 noisy frames and 2 of the context
    assert sum(batch * queries for batch, queries, _ in kernel.calls if queries == 22) == 12 * grid
    assert journal.read_json("fingerprint.json")["sparse attention"] == "1x2+0@25"


def test_a_session_remembers_the_windows():
    def numerics(sparse: str) -> dict[str, str]:
        return Runtime.of("cpu", sparse=sparse).numerics()

    folder = Path("folder")
    with pytest.raises(SessionError, match=r"sparse attention \(none -> 4x4\+2@25\)"):
        refuse_changes(numerics("none"), numerics("4x4+2"), folder)
    with pytest.raises(SessionError, match=r"sparse attention \(4x4\+2@25 -> 4x4\+2@50\)"):
        refuse_changes(numerics("4x4+2"), numerics("4x4+2@50"), folder)
    refuse_changes(numerics("4x4"), numerics("4x4+2@25"), folder)
    assert "sparse attention" not in numerics("none")


def test_windows_that_cannot_be_read():
    with pytest.raises(InputError, match="sparse attention '4by4': give none, or"):
        Runtime.of("cpu", sparse="4by4")


def test_a_session_folder_of_before_has_none():
    assert Local.from_json({"output": "x"}).sparse == "none"
    assert Local.from_json({"output": "x", "sparse": "4x4"}).sparse == "4x4"
    with pytest.raises(ValueError, match="'sparse' needs text"):
        Local.from_json({"output": "x", "sparse": 4})
