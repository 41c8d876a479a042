"""Imports go one way only: import-linter's contract, and that it speaks of every package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.architecture.source import PACKAGE, ROOT

CONTRACT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "importlinter"
]
NO_LAYER = {"__init__", "__main__", "_version", "bundled"}  # bundled holds data, no modules


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("import-linter is not installed")
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); "
        "from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    command = [sys.executable, "-c", code, str(folder / "src"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")


def test_layers_hold():
    said = lint(ROOT)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "0 broken" in said.stdout


def test_every_package_has_a_layer():
    (contract,) = [c for c in CONTRACT["contracts"] if c["type"] == "layers"]
    named = set(re.findall(r"[a-z_]+", " ".join(contract["layers"])))
    children = {path.stem for path in PACKAGE.glob("*.py")}
    children |= {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    assert children - NO_LAYER - named == set()


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("packing/pack.py", "import recurvid.generation.session"),
        ("latents.py", "import recurvid.packing.pack"),
        ("sampling/noise.py", "import recurvid.packing.pack"),  # strangers on one layer
        ("ops/rope.py", "def hidden():\n    import recurvid.models.protocol"),  # deferred ones too
    ],
)
def test_layers_can_be_broken(tmp_path: Path, where: str, line: str):
    shutil.copytree(PACKAGE, tmp_path / "src" / "recurvid", ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    changed = tmp_path / "src" / "recurvid" / where
    changed.write_text(changed.read_text(encoding="utf-8") + f"\n\n{line}\n", encoding="utf-8")
    said = lint(tmp_path)
    assert said.returncode != 0
    assert "1 broken" in said.stdout, said.stdout + said.stderr
