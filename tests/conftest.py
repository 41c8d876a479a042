"""What every test starts from: a wiped environment, no network, and the default selection.

The environment is set while this file is imported, before anything imports torch or the hub's
library, both of which read it once.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from recurvid.settings import settings

WIPED = ("RECURVID_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DIFFUSERS_")
LEFT_OUT = ("slow", "network")  # unless `-m` says otherwise

for _name in [name for name in os.environ if name.startswith(WIPED)]:
    del os.environ[_name]
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Sizes here are tiny: a second thread only waits for the first, and spins while it does. On a busy
# machine with two cores the parity tests took 160 s with two threads and 27 s with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONBREAKPOINT", None)
# A run in the background begins with Ctrl-C ignored, and what it starts inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out minutes-long and network tests; skip, and so count, those that lack a GPU."""
    if not config.option.markexpr:
        kept, left = [], []
        for item in items:
            (left if any(item.get_closest_marker(m) for m in LEFT_OUT) else kept).append(item)
        if left:
            config.hook.pytest_deselected(items=left)
            items[:] = kept
    for item in items:
        for marker, needed in (("gpu", 1), ("multigpu", 2)):
            if item.get_closest_marker(marker) and _gpus() < needed:
                item.add_marker(pytest.mark.skip(reason=f"needs {needed} CUDA device(s)"))


def _gpus() -> int:
    if find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count()


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("homes")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_home(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A RECURVID_HOME of the test's own (not made yet), and settings that are read anew."""
    home = next(_homes)
    monkeypatch.setenv("RECURVID_HOME", str(home))
    settings.cache_clear()
    yield home
    settings.cache_clear()
