from __future__ import annotations

import pytest
from tests.parity.pipeline_runs import Sides, both_sides


@pytest.fixture(scope="session")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    return both_sides(tmp_path_factory.mktemp("models"))
