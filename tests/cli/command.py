"""The command line inside this process, and as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from recurvid.cli import main


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Ran:
    """``recurvid ARGUMENTS``."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main.run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    code = left.value.code
    assert isinstance(code, int)
    return Ran(code, out, err)


def process(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """``python -m recurvid ARGUMENTS`` that can be signalled."""
    return subprocess.Popen(
        [sys.executable, "-m", "recurvid", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
