"""The model of one job serves the next, to the same bits."""

from __future__ import annotations

import gc
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.jobs.queues import a_store, png

from recurvid.checkpoints import locate
from recurvid.checkpoints.locate import BUNDLED_FOLDER
from recurvid.errors import NumericsError
from recurvid.generation import loading, section
from recurvid.generation.request import GenerationRequest
from recurvid.jobs.claims import Claims
from recurvid.jobs.executor import Executor, Looked
from recurvid.jobs.session_executor import make
from recurvid.jobs.states import HowToRun, Job
from recurvid.jobs.store import JobStore

REQUEST = GenerationRequest(prompt="pan left", seconds=0.5, size="32", steps=1)
TURNED = REQUEST.but(prompt="zoom in", seed=3)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is loaded from now on."""
    told: list[str] = []

    def noted(name: str, load: Callable[..., object]) -> Callable[..., object]:
        def loaded(*args: object, **kwargs: object) -> object:
            told.append(name)
            return load(*args, **kwargs)

        return loaded

    for name in ("load_tuned", "load_taehv"):
        monkeypatch.setattr(loading, name, noted(name, getattr(loading, name)))
    return told


def queued(store: JobStore, request: GenerationRequest = REQUEST, **how: object) -> Job:
    store.add(request, png(), how=HowToRun(**how))  # type: ignore[arg-type]
    claim = Claims(store).take("cpu")
    assert claim is not None
    return claim.job


def video(store: JobStore, executor: Executor, job: Job) -> bytes:
    folder = store.folders.of(job.id)
    for _ in executor.run(job, folder):
        pass
    return (folder / "video.mp4").read_bytes()


def test_loaded_once_and_the_same_bits_as_alone(own_home: Path, loads: list[str]):
    store = a_store(own_home)
    alone = [video(store, make("cpu"), queued(store, asked)) for asked in (REQUEST, TURNED)]
    assert loads.count("load_tuned") == loads.count("load_taehv") == 2
    loads.clear()
    executor = make("cpu")
    asked = (REQUEST, TURNED, TURNED, REQUEST)
    beside = [video(store, executor, queued(store, one)) for one in asked]
    assert sorted(loads) == ["load_taehv", "load_tuned"]
    assert beside == [alone[0], alone[1], alone[1], alone[0]]
    assert alone[0] != alone[1]


def test_another_way_to_run_loads_anew(own_home: Path, loads: list[str]):
    store = a_store(own_home)
    alone = video(store, make("cpu"), queued(store, weights="int8-weights"))
    executor = make("cpu")
    video(store, executor, queued(store))
    loads.clear()
    assert video(store, executor, queued(store, weights="int8-weights")) == alone
    assert loads.count("load_tuned") == 1


def test_given_up_at_rest(own_home: Path, loads: list[str]):
    store, executor = a_store(own_home), make("cpu")
    video(store, executor, queued(store))
    executor.rest()
    video(store, executor, queued(store))
    assert loads.count("load_tuned") == 2


def test_a_cancelled_job_leaves_its_model(own_home: Path, loads: list[str]):
    store, executor = a_store(own_home), make("cpu")
    alone = video(store, make("cpu"), queued(store))
    loads.clear()
    job = queued(store, REQUEST.but(steps=3))
    reports = executor.run(job, store.folders.of(job.id))
    next(report for report in reports if isinstance(report, Looked))
    reports.close()
    assert video(store, executor, queued(store)) == alone
    assert loads.count("load_tuned") == 1


def test_a_model_that_failed_is_not_kept(
    own_home: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
):
    store, executor = a_store(own_home), make("cpu")
    with monkeypatch.context() as broken:

        def not_finite(*_: object) -> None:
            raise NumericsError("the model returned NaN")

        broken.setattr(section, "check_finite", not_finite)
        with pytest.raises(NumericsError):
            video(store, executor, queued(store))
    video(store, executor, queued(store))
    assert loads.count("load_tuned") == 2


def test_what_a_failed_job_left_in_cycles_goes_at_rest():
    class Left:
        def __init__(self) -> None:
            self.self = self

    gc.disable()
    try:
        left = Left()
        seen = weakref.ref(left)
        del left
        assert seen() is not None
        make("cpu").rest()
        assert seen() is None
    finally:
        gc.enable()


def test_changed_files_are_loaded_anew(
    own_home: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
):
    folder = own_home / "model"
    shutil.copytree(BUNDLED_FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.setattr(locate, "BUNDLED_FOLDER", folder)
    store, executor = a_store(own_home), make("cpu")
    video(store, executor, queued(store))
    dit = next(folder.glob("dit*.safetensors"))
    os.utime(dit, ns=(0, 0))  # replaced by another of the same size
    video(store, executor, queued(store))
    assert loads.count("load_tuned") == 2
