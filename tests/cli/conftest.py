from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.model_folders import write_small_model
from tests.generation.sessions import write_picture


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What ``--model`` takes for a tiny model in the bundled layout."""
    return f"bundled={write_small_model(tmp_path_factory.mktemp('model'))}"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a picture in it."""
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "photo.png")
    return tmp_path


@pytest.fixture
def quick(small_model: str) -> list[str]:
    """Options of a video that takes a moment."""
    return ["--model", small_model, "--size", "64x48", "--steps", "1", "--seconds", "4"]
