"""8-bit attention gives way to an exact kernel in the first and last steps, and nowhere else."""

from __future__ import annotations

import copy
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

from recurvid.checkpoints.locate import locate
from recurvid.errors import InputError, SessionError
from recurvid.generation import tuned
from recurvid.generation.denoising import Guidance, make_denoiser
from recurvid.generation.exact_ends import ExactEnds
from recurvid.generation.fingerprint import refuse_changes
from recurvid.generation.loading import load_components
from recurvid.generation.local import Local
from recurvid.generation.runtime import Runtime
from recurvid.generation.session import GenerationSession
from recurvid.generation.tuned import exact_for
from recurvid.models.packed_dit.config import PRESETS
from recurvid.models.placed import PlacedDiT, Streaming
from recurvid.models.protocol import Backbone, PreparingBackbone
from recurvid.ops.attention import registry
from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.eight_bit import simulated
from recurvid.ops.attention.sdpa import SDPA
from recurvid.packing.pack import Packed, PackedContext
from recurvid.sampling.sigmas import flow_sigmas
from recurvid.sampling.solvers import SOLVERS

STEPS = 6


class Kernel:
    """Counts its calls, and is another one else."""

    def __init__(self, name: str, attend: Callable[..., torch.Tensor] = SDPA.function, **how):
        self.calls = 0
        self.attend = attend
        self.backend = AttentionBackend(name, self._attend, lambda _: None, **how)

    def _attend(self, *args) -> torch.Tensor:
        self.calls += 1
        return self.attend(*args)

    def since(self) -> int:
        self.calls, before = 0, self.calls
        return before


def rounding() -> Kernel:
    return Kernel("rounds", lambda q, k, v, _: simulated(q, k, v), exact=False)


def run(backbone: Backbone, look: Callable[[], object] = lambda: None, solver: str = "euler",
        cfg: float = 1.0) -> tuple[torch.Tensor, list[Any]]:  # fmt: skip
    """The latents that a run ends at, and what was seen after each step."""
    g = torch.Generator().manual_seed(0)
    context = group("k1", torch.randn(1, 4, 2, 4, 6, generator=g), torch.tensor([[0, 9]]))
    sigmas = flow_sigmas(STEPS, 3.0)
    denoiser = make_denoiser(
        backbone,
        conditioning(0),
        Packed(PackedContext((context,)), torch.tensor([[5, 6, 7]])),
        Guidance(cfg, 0.0, conditioning(1)),
        torch.float32,
        sigmas=sigmas,
    )
    seen: list[Any] = []
    x = torch.randn(1, 4, 3, 4, 6, generator=g)
    for step in SOLVERS[solver](denoiser, x, sigmas):
        x = step.x
        seen.append(look())
    return x, seen


def ends(backbone: Backbone, kernel: AttentionBackend, steps: int) -> ExactEnds:
    return ExactEnds(backbone, kernel, steps, flow_sigmas(STEPS, 3.0))


@pytest.mark.parametrize(
    ("steps", "which"), [(0, ""), (1, "05"), (2, "0145"), (3, "012345"), (9, "012345")]
)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_which_steps_are_exact(steps: int, which: str, cfg: float):
    own, other = rounding(), Kernel("exact")
    model = tiny_model()
    model.attention = own.backend
    _, seen = run(ends(model, other.backend, steps), lambda: (own.since(), other.since()), cfg=cfg)
    assert len(seen) == STEPS
    for number, (rounded, exact) in enumerate(seen):
        assert (rounded == 0) == (exact > 0) == (str(number) in which)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_every_solver_ends_exactly(solver: str):
    own, other = rounding(), Kernel("exact")
    model = tiny_model()
    model.attention = own.backend
    _, seen = run(ends(model, other.backend, 1), lambda: (own.since(), other.since()), solver)
    # Heun's first step looks at the second noise level too, as its second step does.
    assert (seen[0][0] == 0) == (solver != "heun")
    assert seen[0][1] > 0
    assert seen[-1][0] == 0 < seen[-1][1]
    assert all(rounded > 0 for rounded, _ in seen[1:-2])


def test_numbers_change_with_the_kernel_only():
    plain, rounded = tiny_model(), tiny_model()
    rounded.attention = rounding().backend
    exact, all_rounded = run(plain)[0], run(rounded)[0]
    assert not exact.equal(all_rounded)
    assert run(ends(rounded, SDPA, 0))[0].equal(all_rounded)
    assert run(ends(rounded, SDPA, STEPS))[0].equal(exact)
    assert run(ends(plain, SDPA, 1))[0].equal(exact)
    some = run(ends(rounded, SDPA, 1))[0]
    assert not some.equal(exact)
    assert not some.equal(all_rounded)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_streamed_gives_the_bits_of_resident(steps: int):
    model = tiny_model()
    model.attention = rounding().backend
    placed = PlacedDiT(copy.deepcopy(model), torch.device("cpu"), Streaming(resident=1))
    wrapped = ends(placed, SDPA, steps)
    assert isinstance(wrapped, PreparingBackbone)
    assert run(wrapped)[0].equal(run(ends(model, SDPA, steps))[0])


def test_prepared_timesteps_are_not_made_again(monkeypatch: pytest.MonkeyPatch):
    placed = PlacedDiT(tiny_model(), torch.device("cpu"), Streaming())
    made: list[int] = []
    real = placed._precompute

    def counted(conditioning, timesteps, attention):
        made.append(len(timesteps))
        return real(conditioning, timesteps, attention)

    monkeypatch.setattr(placed, "_precompute", counted)
    run(ends(placed, SDPA, 1))
    assert made == [2, STEPS - 2]


def test_is_a_backbone():
    assert isinstance(ends(tiny_model(), SDPA, 1), Backbone)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """An 8-bit kernel that runs here, under the name of one that needs a card."""
    made = rounding()
    monkeypatch.setitem(registry.ATTENTION, "sage", made.backend)
    return made


def test_only_kernels_that_round_get_another(kernel: Kernel):
    config, dtype = PRESETS["bundled"], torch.float32
    for name in ("auto", "sdpa", "reference"):
        assert exact_for(Runtime.of("cpu", attention=name), config, dtype) is None
    assert exact_for(Runtime.of("cpu", attention="sage"), config, dtype) is SDPA
    assert exact_for(Runtime.of("cpu", attention="sage", exact_steps=0), config, dtype) is None
    assert tuned.attention_for(Runtime.of("cpu", attention="sage"), config, dtype).exact is False


def test_a_loaded_model_has_one_for_its_ends(kernel: Kernel):
    files = locate("bundled")
    runtime = Runtime.of("cpu", attention="sage")
    assert load_components(files, runtime).exact_attention is SDPA
    assert load_components(files, replace(runtime, attention="sdpa")).exact_attention is None


def test_a_session_uses_it(tmp_path: Path, kernel: Kernel):
    other = Kernel("exact")
    journal = start(tmp_path, steps=5, seconds=1.0)
    components = replace(
        tiny_components(),
        runtime=Runtime.of("cpu", attention="sage", exact_steps=2),
        exact_attention=other.backend,
    )
    components.backbone.attention = kernel.backend  # pyright: ignore[reportAttributeAccessIssue]
    made = GenerationSession(journal, planned(journal, components), components)
    for _ in made.run():
        pass
    assert other.calls == 4 * kernel.calls > 0
    assert journal.read_json("fingerprint.json")["exact steps"] == "2"


def test_a_session_remembers_them_where_they_mean_something(kernel: Kernel):
    def numerics(attention: str, steps: int) -> dict[str, str]:
        return Runtime.of("cpu", attention=attention, exact_steps=steps).numerics()

    with pytest.raises(SessionError, match=r"exact steps \(1 -> 2\)"):
        refuse_changes(numerics("sage", 1), numerics("sage", 2), Path("folder"))
    for exact in ("auto", "sdpa"):
        assert numerics(exact, 1) == numerics(exact, 2)
        assert "exact steps" not in numerics(exact, 1)


def test_less_than_none():
    with pytest.raises(InputError, match="exact steps: -1; give 0 or more"):
        Runtime.of("cpu", exact_steps=-1)


def test_a_session_folder_of_before_has_one():
    assert Local.from_json({"output": "x"}).exact_steps == 1
    assert Local.from_json({"output": "x", "exact_steps": 3}).exact_steps == 3
    for wrong in (True, 1.5, "1", None):
        with pytest.raises(ValueError, match="'exact_steps' needs a whole number"):
            Local.from_json({"output": "x", "exact_steps": wrong})
