"""The short form of benchmarks/queue_load.py: real sessions, a worker killed at random."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "queue_load.py"


@pytest.mark.e2e
def test_no_job_is_lost_or_made_twice(own_home: Path):
    spec = importlib.util.spec_from_file_location("queue_load", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules["queue_load"] = script
    spec.loader.exec_module(script)
    figures = script.run(own_home, script.Load(jobs=8, clients=4, kills=2))
    assert figures["jobs"] == {"done": 8}
    assert figures["living workers killed"] == 2
