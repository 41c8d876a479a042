"""What the backbone hands to a cache, and what it makes of the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.caching.cached_runs import CONFIG, conditioning, tiny_model
from tests.models.dit_cases import group
from torch import Tensor

from recurvid.caching.protocol import CachedStep, Step, after_all
from recurvid.latents import LatentFrames
from recurvid.packing.pack import PackedContext

TARGET = LatentFrames(
    torch.randn(1, 4, 3, 4, 6, generator=torch.Generator().manual_seed(1)),
    torch.tensor([[5, 6, 7]]),
)
CONTEXT = PackedContext(
    (group("k1", torch.randn(1, 4, 2, 4, 6, generator=torch.Generator().manual_seed(2)),
           torch.tensor([[0, 9]])),)
)  # fmt: skip
TIME = torch.tensor([500.0])
PER_FRAME = 2 * 3


class Taking:
    """A cache that keeps what it was handed and answers with ``change`` of the true outcome."""

    def __init__(self, change: Any = lambda out: out, *, stop_after: int | None = None):
        self.computed: list[bool] = []
        self.change, self.stop_after = change, stop_after

    def run(self, step: Step, tokens: Tensor, probe: Any, blocks: Any) -> Tensor:
        self.computed.append(True)
        self.tokens, self.probe = tokens, probe()
        if self.stop_after is not None:
            running = blocks()
            self.seen = [next(running) for _ in range(self.stop_after)]
            running.close()
            return tokens
        return self.change(after_all(tokens, blocks()))

    @property
    def handed(self) -> CachedStep:
        return CachedStep(self, Step(0, 1, 0.5))


def config(**changes: Any):
    return replace(CONFIG, **changes)


CONFIGS = [
    config(),
    config(num_layers=0),
    config(num_single_layers=0),
    config(num_layers=1, num_single_layers=2),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["both", "single", "double", "1+2"])
@pytest.mark.parametrize("ready", [False, True])
def test_handing_it_over_changes_nothing(config: Any, ready: bool) -> None:
    model, told = tiny_model(0, config), conditioning(0)
    prompt = model.with_vectors(model.embed_prompt(told, TIME)) if ready else None
    plain = model(TARGET, TIME, told, CONTEXT, prompt=prompt)
    cache = Taking()
    assert torch.equal(model(TARGET, TIME, told, CONTEXT, prompt=prompt, cache=cache.handed), plain)
    assert cache.tokens.shape == (1, 5 * PER_FRAME, config.width)  # two context frames, three noisy


@pytest.mark.parametrize("config", CONFIGS, ids=["both", "single", "double", "1+2"])
@pytest.mark.parametrize("ready", [False, True])
def test_the_probe_is_what_the_first_block_attends_with(config: Any, ready: bool) -> None:
    model, told = tiny_model(0, config), conditioning(0)
    prompt = model.with_vectors(model.embed_prompt(told, TIME)) if ready else None
    first: Any = [*model.transformer_blocks, *model.single_transformer_blocks][0]
    seen: list[Tensor] = []
    first.attn.to_q.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    cache = Taking()
    model(TARGET, TIME, told, CONTEXT, prompt=prompt, cache=cache.handed)
    assert torch.equal(cache.probe, seen[0][:, : 5 * PER_FRAME])


def test_blocks_run_when_they_are_asked_for() -> None:
    model, told = tiny_model(), conditioning(0)
    ran: list[int] = []
    every = [*model.transformer_blocks, *model.single_transformer_blocks]
    for i, block in enumerate(every):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    cache = Taking(stop_after=1)
    model(TARGET, TIME, told, CONTEXT, cache=cache.handed)
    assert ran == [0]
    everything = Taking(stop_after=3)
    model(TARGET, TIME, told, CONTEXT, cache=everything.handed)
    assert ran == [0, 0, 1, 2]
    assert torch.equal(everything.seen[0], cache.seen[0])
    assert {x.shape for x in everything.seen} == {(1, 5 * PER_FRAME, CONFIG.width)}


def test_only_noisy_tokens_of_the_answer_count() -> None:
    model, told = tiny_model(), conditioning(0)
    plain = model(TARGET, TIME, told, CONTEXT)

    def spoil(part: slice):
        def change(out: Tensor) -> Tensor:
            out = out.clone()
            out[:, part] += 1.0 + torch.arange(CONFIG.width)
            return out

        return model(TARGET, TIME, told, CONTEXT, cache=Taking(change).handed)

    context = 2 * PER_FRAME
    assert torch.equal(spoil(slice(0, context)), plain)
    got = spoil(slice(context, context + PER_FRAME))  # the first noisy frame
    assert not torch.equal(got[:, :, 0], plain[:, :, 0])
    assert torch.equal(got[:, :, 1:], plain[:, :, 1:])
