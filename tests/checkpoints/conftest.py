from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.checkpoints.layouts import everything, remote, write_large_transformer


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All repositories as plain folders ``org/name``."""
    return remote(tmp_path_factory.mktemp("remote"))


@pytest.fixture(scope="session")
def hub(repositories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub cache in which everything is complete. Do not write into it."""
    return everything(tmp_path_factory.mktemp("hub"), repositories)


@pytest.fixture(scope="session")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The released transformer at its real size: three sparse shards of zeros with an index."""
    folder = tmp_path_factory.mktemp("large")
    write_large_transformer(folder)
    yield folder
    for shard in folder.glob("*.safetensors"):
        shard.unlink()
