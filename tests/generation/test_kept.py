"""A backbone under a budget that serves one session after the other, the CPU as the card."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.checkpoints.layouts import everything, remote
from tests.generation.sessions import write_picture

from recurvid.errors import ComponentError
from recurvid.events import Progress
from recurvid.generation import loading, opening, placing
from recurvid.generation.journal import Journal
from recurvid.generation.kept import KeptModel
from recurvid.generation.local import Local
from recurvid.generation.opening import open_session
from recurvid.generation.request import GenerationRequest
from recurvid.generation.runtime import Runtime
from recurvid.models.placed import PlacedDiT
from recurvid.settings import settings

REQUEST = GenerationRequest(
    prompt="a walk", model="framepack", size="64x48", steps=1, seconds=1.0, seed=1
)
TURNED = REQUEST.but(prompt="a run", seed=2)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return everything(
        tmp_path_factory.mktemp("hub"), remote(tmp_path_factory.mktemp("repositories"))
    )


@pytest.fixture
def work(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECURVID_MODELS", str(hub))
    monkeypatch.setenv("RECURVID_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    write_picture(tmp_path / "photo.png")
    return tmp_path


def latents(
    work: Path,
    name: str,
    kept: KeptModel | None = None,
    request: GenerationRequest = REQUEST,
    vram: float | None = 6.0,
) -> bytes:
    """The section that a session makes; cancelled then, as decoding takes its time."""
    local = Local(output=str(work / f"{name}.mp4"), vram=vram, device="cpu")
    journal = Journal.create(work / name, request, local, work / "photo.png")
    session = open_session(journal, kept=kept)
    with closing(session.run()) as events:
        next(event for event in events if isinstance(event, Progress) and event.phase == "decode")
    if kept is not None:
        kept.keep(session.components)
    return b"".join(path.read_bytes() for path in sorted((work / name / "sections").iterdir()))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[PlacedDiT]:
    """Backbones that are loaded from now on."""
    told: list[PlacedDiT] = []
    init = PlacedDiT.__init__

    def noted(self: PlacedDiT, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        told.append(self)

    monkeypatch.setattr(PlacedDiT, "__init__", noted)
    return told


@pytest.mark.parametrize("together", [True, False])
def test_one_backbone_for_three_sessions(
    work: Path, made: list[PlacedDiT], monkeypatch: pytest.MonkeyPatch, together: bool
):
    plan = placing.plan_memory

    def planned(*args: Any, **kwargs: Any) -> Any:
        return dataclasses.replace(plan(*args, **kwargs), together=together)

    monkeypatch.setattr(placing, "plan_memory", planned)
    alone = [latents(work, "a"), latents(work, "b", request=TURNED)]
    assert len(made) == 2
    kept, stays = KeptModel(), [False]
    monkeypatch.setattr(placing, "_stays", lambda _: stays[0])
    beside = [latents(work, "c", kept), latents(work, "d", kept, TURNED)]
    (backbone,) = made[2:]
    stays[0] = True
    beside.append(latents(work, "e", kept))
    assert len(made) == 3
    assert beside == [*alone, alone[0]]
    assert backbone.held == kept.held


def test_who_stays_and_who_leaves(
    work: Path, made: list[PlacedDiT], monkeypatch: pytest.MonkeyPatch
):
    """Off the device unless the encoders fit beside it; what was made of a prompt goes."""
    kept = KeptModel()
    latents(work, "a", kept)
    (backbone,) = made
    assert backbone._prompts
    monkeypatch.setattr(placing, "_stays", lambda _: False)
    left: list[str] = []
    monkeypatch.setattr(PlacedDiT, "leave", lambda _: left.append("left"))
    local = Local(output=str(work / "b.mp4"), vram=6.0, device="cpu")
    journal = Journal.create(work / "b", REQUEST, local, work / "photo.png")
    session = open_session(journal, kept=kept)
    assert session.components.backbone is backbone
    assert left == ["left"]
    assert not backbone._prompts
    assert kept.is_empty  # what is lent is the session's


def test_another_plan_loads_anew(
    work: Path, made: list[PlacedDiT], monkeypatch: pytest.MonkeyPatch
):
    kept = KeptModel()
    latents(work, "a", kept)
    latents(work, "b", kept, vram=7.0)
    assert len(made) == 2
    streaming = placing._streaming
    more = lambda plan: dataclasses.replace(streaming(plan), slots=3)  # noqa: E731
    monkeypatch.setattr(placing, "_streaming", more)
    latents(work, "c", kept, vram=7.0)
    assert len(made) == 3


def test_what_does_not_fit_beside_it_is_planned_again_without_it(
    work: Path, made: list[PlacedDiT], monkeypatch: pytest.MonkeyPatch
):
    kept = KeptModel()
    alone = latents(work, "a", kept)
    plan, refused = opening.under_budget, [0]

    def full(*args: Any) -> Any:
        if not kept.is_empty or refused[0] < 0:
            refused[0] += 1
            raise ComponentError("it does not fit")
        return plan(*args)

    monkeypatch.setattr(opening, "under_budget", full)
    assert latents(work, "b", kept) == alone
    assert (refused, len(made)) == ([1], 2)
    kept.drop()
    refused[0] = -2  # nothing is in the way: told as it is
    with pytest.raises(ComponentError, match="does not fit"):
        latents(work, "c", kept)
    assert refused == [-1]


def test_without_a_budget_it_depends_on_the_memory(work: Path, monkeypatch: pytest.MonkeyPatch):
    kept, there, loaded = KeptModel(), [10**12], [0]
    alone = latents(work, "a", kept, vram=None)
    load = loading.load_tuned

    def noted(*args: Any) -> Any:
        loaded[0] += 1
        return load(*args)

    monkeypatch.setattr(loading, "load_tuned", noted)
    monkeypatch.setattr("recurvid.generation.kept.available_memory", lambda: (there[0], 0))
    assert latents(work, "b", kept, vram=None) == alone
    assert loaded == [0]
    there[0] = 1000  # the encoders would not fit beside it
    assert latents(work, "c", kept, vram=None) == alone
    assert loaded == [1]


def test_what_is_held_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placing, "available_memory", lambda: (10, 0))
    runtime = Runtime.of("cpu", vram=6.0)
    budgets = [placing.budget_of(runtime, tmp_path, held) for held in (0, 5)]
    assert [budget.ram for budget in budgets if budget is not None] == [10, 15]
