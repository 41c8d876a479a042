"""From a request to sections made with a cache, and back after an interruption."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.generation.sessions import contents, opened, planned, start
from tests.generation.tiny_components import CountingDiT, tiny_components

from recurvid.caching.calibration import FILE, Calibration
from recurvid.caching.magcache import PUBLISHED
from recurvid.caching.protocol import Step
from recurvid.caching.registry import CACHES, new_cache
from recurvid.caching.thresholds import OF_MODEL, THRESHOLDS, threshold_of
from recurvid.checkpoints.locate import locate
from recurvid.cli import generate
from recurvid.errors import CheckpointError, RequestError, SessionError
from recurvid.events import Finished, SectionDone
from recurvid.generation.defaults import resolved, spec_of, unresolved
from recurvid.generation.request import GenerationRequest
from recurvid.generation.session import GenerationSession
from recurvid.generation.step_caches import caching_for, calibration_for, calls_of
from recurvid.sampling.sigmas import flow_sigmas
from recurvid.sampling.solvers import SOLVERS

FREE = [name for name, kind in CACHES.items() if not kind.calibrated]
CALM = Calibration({6: (1.0, 1.01, 1.0, 0.99, 1.0, 0.8)})


def blocks_of(session: GenerationSession) -> list[int]:
    """Counts how often the last block runs, from now on."""
    ran: list[int] = []
    backbone: Any = session.components.backbone
    last = backbone.single_transformer_blocks[-1]
    last.register_forward_hook(lambda *_: ran.append(1))
    return ran


def latents(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(root).items() if "sections" in name}


def test_off_is_the_default_and_threshold_zero_equals_it(tmp_path: Path) -> None:
    assert GenerationRequest().step_cache == "off"
    list(opened(start(tmp_path / "off")).run())
    for name in FREE:
        journal = start(tmp_path / name, step_cache=name, cache_threshold=0.0)
        list(opened(journal).run())
        assert latents(tmp_path / name) == latents(tmp_path / "off")


@pytest.mark.parametrize("name", FREE)
def test_a_cache_saves_blocks_and_changes_the_latents(tmp_path: Path, name: str) -> None:
    asked: dict[str, Any] = {"steps": 6, "seconds": 4.0}
    list(opened(start(tmp_path / "off", **asked)).run())
    journal = start(tmp_path / "on", **asked, step_cache=name, cache_threshold=10.0)
    session = opened(journal)
    ran = blocks_of(session)
    sections = len(session.plan.sections.sections)
    list(session.run())
    assert 2 * sections <= len(ran) < 6 * sections
    assert latents(tmp_path / "on") != latents(tmp_path / "off")


CUT: list[dict[str, Any]] = [{"step_cache": name} for name in FREE]
CUT[0] |= {"cfg_scale": 3.0, "negative_prompt": "blur"}


@pytest.mark.parametrize("asked", CUT, ids=FREE)
def test_stopped_between_sections_it_continues_to_the_same_bits(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    asked = {"seconds": 8.0, "steps": 5, "cache_threshold": 10.0, **asked}
    list(opened(start(tmp_path / "whole", **asked)).run())
    journal = start(tmp_path / "cut", **asked)
    events = opened(journal).run()
    done = next(i for i, event in enumerate(events) if isinstance(event, SectionDone))
    assert done > 5
    list(itertools.islice(events, 3))  # into the second section, after its first steps
    events.close()
    assert isinstance(list(opened(journal).run())[-1], Finished)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_two_sessions_over_one_model_do_not_mix(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"steps": 5, "step_cache": "teacache", "cache_threshold": 10.0}
    for name, prompt in [("a", "a walk"), ("b", "a storm")]:
        list(opened(start(tmp_path / name, **asked, prompt=prompt)).run())
    components = tiny_components()
    runs = []
    for name, prompt in [("c", "a walk"), ("d", "a storm")]:
        journal = start(tmp_path / name, **asked, prompt=prompt)
        runs.append(GenerationSession(journal, planned(journal, components), components).run())
    for _ in itertools.zip_longest(*runs):
        pass
    assert latents(tmp_path / "c") == latents(tmp_path / "a")
    assert latents(tmp_path / "d") == latents(tmp_path / "b")
    assert latents(tmp_path / "c") != latents(tmp_path / "d")


def with_weights(folder: Path, journal: Any) -> GenerationSession:
    """A session whose transformer's file lies in ``folder``."""
    weights = folder / "dit.safetensors"
    weights.write_bytes(b"weights")
    components = replace(tiny_components(), weights={"transformer": [weights]})
    return GenerationSession(journal, planned(journal, components), components)


def test_magcache_takes_the_calibration_beside_the_weights(tmp_path: Path) -> None:
    CALM.save(tmp_path / FILE)
    journal = start(tmp_path, steps=6, step_cache="magcache")
    session = with_weights(tmp_path, journal)
    ran = blocks_of(session)
    list(session.run())
    # Six steps: the first is kept, two skipped, one computed, one skipped, and the last jumps.
    assert len(ran) == 3 * len(session.plan.sections.sections)


def test_a_calibration_that_changed_is_noticed(tmp_path: Path) -> None:
    CALM.save(tmp_path / FILE)
    journal = start(tmp_path, steps=6, step_cache="magcache")
    events = with_weights(tmp_path, journal).run()
    next(event for event in events if isinstance(event, SectionDone))
    events.close()
    Calibration({6: (1.0,) * 6}).save(tmp_path / FILE)
    with pytest.raises(SessionError, match="calibration"):
        list(with_weights(tmp_path, journal).run())
    CALM.save(tmp_path / FILE)
    assert isinstance(list(with_weights(tmp_path, journal).run())[-1], Finished)


def test_a_model_without_calibration_is_refused_before_anything_runs(tmp_path: Path) -> None:
    journal = start(tmp_path, step_cache="magcache")
    with pytest.raises(RequestError, match=r"magcache is not calibrated for the model 'bundled'"):
        with_weights(tmp_path, journal)
    assert CountingDiT.calls == 0 or not list(journal.sections_folder.iterdir())


def test_published_calibrations_serve_the_released_models(tmp_path: Path) -> None:
    weights = [tmp_path / "a.safetensors"]
    for model in ("framepack", "framepack-f1"):
        request = GenerationRequest(model=model, step_cache="magcache")
        assert calibration_for(request, weights) == PUBLISHED[model]
        assert calibration_for(request.but(step_cache="teacache"), weights) is None
        assert calibration_for(request.but(step_cache="off"), weights) is None
    (tmp_path / FILE).write_text("nonsense")
    with pytest.raises(CheckpointError, match=FILE):
        calibration_for(GenerationRequest(model="framepack", step_cache="magcache"), weights)


def test_defaults_are_filled_in_and_only_where_there_is_a_cache() -> None:
    plain = GenerationRequest()
    assert resolved(plain, spec_of(plain)).cache_threshold is None
    for name in THRESHOLDS:
        filled = resolved(plain.but(step_cache=name), spec_of(plain))
        assert filled.cache_threshold == threshold_of(name, "bundled")
        assert resolved(filled, spec_of(plain)) == filled
        given = plain.but(step_cache=name, cache_threshold=0.0)
        assert resolved(given, spec_of(plain)).cache_threshold == 0.0
        assert unresolved(filled, spec_of(plain)).step_cache == name
    assert THRESHOLDS["teacache"] == 0.15
    with pytest.raises(RequestError, match="cache_threshold: there is no step cache"):
        resolved(plain.but(cache_threshold=0.1), spec_of(plain))


def test_a_model_has_thresholds_of_its_own_where_published_ones_skip_nothing() -> None:
    released = GenerationRequest(model="framepack-f1", step_cache="magcache")
    assert resolved(released, spec_of(released)).cache_threshold == THRESHOLDS["magcache"] == 0.1
    small = GenerationRequest(step_cache="magcache")
    assert resolved(small, spec_of(small)).cache_threshold == OF_MODEL["bundled"]["magcache"]
    assert OF_MODEL["bundled"]["magcache"] > THRESHOLDS["magcache"]
    assert threshold_of("teacache", "bundled") == THRESHOLDS["teacache"]
    assert threshold_of("off", "bundled") is None
    for thresholds in OF_MODEL.values():
        assert set(thresholds) <= set(THRESHOLDS)


@pytest.mark.parametrize("steps", [8, 12, 20])
def test_the_bundled_models_calibration_skips_at_its_default(steps: int) -> None:
    request = GenerationRequest(step_cache="magcache", steps=steps)
    files = locate("bundled")
    calibration = calibration_for(request, [Path(files["transformer"])])
    assert calibration is not None
    assert steps in calibration.runs
    cache = new_cache("magcache", threshold_of("magcache", "bundled"), calibration)
    for index in range(steps):
        tokens = torch.ones(1, 2, 4)
        step = Step(index, steps, 0.5)
        cache.run(step, tokens, lambda: tokens, lambda: (t for t in [torch.zeros(1, 2, 4)]))  # noqa: B023
    assert 0.4 <= sum(cache.computed) / steps <= 0.8


def test_another_cache_than_the_videos_brings_its_own_threshold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = GenerationRequest(step_cache="teacache", cache_threshold=0.3)
    monkeypatch.setattr(generate, "_request_in", lambda video: old)
    monkeypatch.setattr(generate, "locate", lambda model: None)

    def asked(**given: Any) -> GenerationRequest:
        return generate._request(given, Path("old.mp4"))[0]

    assert asked() == old
    assert asked(step_cache="teacache") == old
    assert asked(step_cache="taylor").cache_threshold is None
    assert asked(step_cache="off") == GenerationRequest()
    assert asked(step_cache="taylor", cache_threshold=0.2).cache_threshold == 0.2


def test_caches_of_a_request_are_new_each_time_and_have_its_threshold() -> None:
    request = GenerationRequest(step_cache="first-block", cache_threshold=0.25)
    caching = caching_for(request, None, SOLVERS["euler"], flow_sigmas(3, 1.0))
    assert caching is not None
    one, two = caching.new(), caching.new()
    assert one is not two
    assert vars(one)["threshold"] == 0.25
    assert caching_for(GenerationRequest(), None, SOLVERS["euler"], flow_sigmas(3, 1.0)) is None


def test_calls_of_a_solver_are_found() -> None:
    sigmas = torch.tensor([1.0, 0.75, 0.25, 0.0])
    assert calls_of(SOLVERS["euler"], sigmas) == (1.0, 0.75, 0.25)
    assert calls_of(SOLVERS["unipc"], sigmas) == (1.0, 0.75, 0.25)
    assert calls_of(SOLVERS["heun"], sigmas) == (1.0, 0.75, 0.75, 0.25, 0.25)
    assert calls_of(SOLVERS["heun"], sigmas[:3]) == (1.0, 0.75, 0.75, 0.25)
