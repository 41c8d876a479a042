"""Importing any module of ours does nothing: no output, no files, no device, no environment.

Every module is imported alone, in a process forked from one that has torch and the other core
dependencies loaded and nothing of ours. Everything optional is hidden there, so that no module
needs an extra to be imported.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.architecture.source import ROOT, modules

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Core dependencies that are too slow to be loaded by an import (about 10 s together).
LAZY = ("transformers", "diffusers", "av", "huggingface_hub")
# What these layers are for needs their extra, and they may import it as they are imported. They
# are watched too, in a process that has it loaded.
OWN_EXTRA = {"gui": ("gradio",), "server": ("fastapi", "uvicorn", "prometheus_client")}
IMPORT_NAMES = {"opencv-python-headless": "cv2", "scikit-image": "skimage"}


def optional_packages() -> set[str]:
    """Import names of everything in the extras and dependency groups."""
    tables = [*PROJECT["project"]["optional-dependencies"].values()]
    tables += [*PROJECT["dependency-groups"].values()]
    names = {
        re.split(r"[\[<>=~; ]", text)[0]
        for table in tables
        for text in table
        if isinstance(text, str)
    }
    core = {re.split(r"[<>=~; ]", text)[0] for text in PROJECT["project"]["dependencies"]}
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names - core}


IMPORT_ONE = r'''
import importlib, json, logging, os, sys, threading, warnings

def effects(name, hidden, lazy):
    """What importing `name` does beside defining things."""
    found = []

    class Hide:
        def find_spec(self, module, path=None, target=None):
            if module.split(".")[0] in hidden:
                raise ModuleNotFoundError(f"{module} is hidden", name=module)

    def watch(event, arguments):
        if event == "open":
            mode, flags = arguments[1], arguments[2]
            writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
            if (isinstance(mode, str) and set(mode) & set("wax+")) or flags & writes:
                found.append(f"opened {arguments[0]} to write")
        elif event in ("os.mkdir", "os.remove", "os.rename", "subprocess.Popen", "socket.connect"):
            found.append(f"{event} {arguments[:1]}")

    sys.meta_path.insert(0, Hide())
    for module in [m for m in sys.modules if m.split(".")[0] in hidden]:
        del sys.modules[module]
    environment, folder = dict(os.environ), os.getcwd()
    path, handlers = list(sys.path), list(logging.getLogger().handlers)
    filters, threads = list(warnings.filters), threading.active_count()
    sys.addaudithook(watch)
    try:
        importlib.import_module(name)
    except BaseException as error:
        return [*found, f"cannot be imported alone: {type(error).__name__}: {error}"]
    torch = sys.modules.get("torch")
    checks = {
        "environment changed": dict(os.environ) != environment,
        "folder changed": os.getcwd() != folder,
        "sys.path changed": list(sys.path) != path,
        "logging handler set": list(logging.getLogger().handlers) != handlers,
        "own logging handler set": any(
            getattr(logging.root.manager.loggerDict[n], "handlers", None)
            for n in logging.root.manager.loggerDict if n.split(".")[0] == "recurvid"),
        "warning filters changed": list(warnings.filters) != filters,
        "thread started": threading.active_count() != threads,
        "CUDA initialised": torch is not None and torch.cuda.is_initialized(),
        "default dtype changed": torch is not None and torch.get_default_dtype() != torch.float32,
        "gradients switched": torch is not None and not torch.is_grad_enabled(),
        "deterministic mode set": torch is not None
            and torch.are_deterministic_algorithms_enabled(),
    }
    found += [what for what, true in checks.items() if true]
    found += [f"loads {library}" for library in lazy if library in sys.modules]
    return found
'''

# The parent loads what is slow and core, then forks once for each module.
IMPORT_EACH = (
    IMPORT_ONE
    + r"""
import tempfile
import numpy, PIL.Image, safetensors, torch, typer, rich.console  # noqa
import torch.utils.checkpoint  # noqa

names, hidden, lazy = json.loads(sys.stdin.read())
assert not any(m.split(".")[0] == "recurvid" for m in sys.modules)
result = {}
for name in names:
    with tempfile.TemporaryFile("w+") as answer, tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1); os.dup2(output.fileno(), 2)
            found = effects(name, hidden, lazy)
            sys.stdout.flush(); sys.stderr.flush()
            answer.write(json.dumps(found)); answer.flush()
            os._exit(0)
        os.waitpid(child, 0)
        answer.seek(0); output.seek(0)
        said = output.read()
        result[name] = json.loads(answer.read() or '["crashed"]')
        result[name] += [f"printed {said[:200]!r}"] if said else []
json.dump(result, sys.stdout)
"""
)

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def import_each(
    names: list[str], path: Path | None = None, loaded: tuple[str, ...] = ()
) -> dict[str, list[str]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RECURVID_", "PYTHON"))}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    first = "".join(f"import {library}\n" for library in loaded)
    hidden = [] if loaded else sorted(optional_packages())
    said = subprocess.run(
        [sys.executable, "-c", first + IMPORT_EACH],
        input=json.dumps([names, hidden, () if loaded else LAZY]),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def test_optional_packages_are_known():
    assert {"gradio", "fastapi", "cv2", "pytest", "jaxtyping", "gguf"} <= optional_packages()
    assert not {"torch", "numpy", "typer"} & optional_packages()


@posix
def test_importing_does_nothing():
    names = [module.name for module in modules() if module.layer not in OWN_EXTRA]
    effects = import_each(names)
    assert effects.keys() == set(names)
    assert {name: found for name, found in effects.items() if found} == {}


@posix
@pytest.mark.parametrize("layer", OWN_EXTRA)
def test_importing_what_needs_an_extra_does_nothing_else(layer: str):
    for library in OWN_EXTRA[layer]:
        pytest.importorskip(library)
    names = [module.name for module in modules() if module.layer == layer]
    effects = import_each(names, loaded=OWN_EXTRA[layer])
    assert {name: found for name, found in effects.items() if found} == {}


WITH_EFFECTS = {
    "prints": ("print('hello')", "printed"),
    "sets": ("import os; os.environ['X'] = '1'", "environment changed"),
    "makes": ("import os; os.mkdir('/nowhere/at/all')", "os.mkdir"),
    "writes": ("import tempfile; tempfile.TemporaryFile()", "to write"),
    "needs_an_extra": ("import pytest", "cannot be imported alone"),
    "needs_nonsense": ("import nothing_of_that_name", "cannot be imported alone"),
    "logs": ("import logging; logging.basicConfig()", "logging handler set"),
    "sets_dtype": ("import torch; torch.set_default_dtype(torch.float64)", "default dtype"),
    "loads": ("import av", "loads av"),
    "starts": (
        "import threading, time; threading.Thread(target=time.sleep, args=(9,)).start()",
        "thread started",
    ),
}


@posix
def test_effects_are_seen(tmp_path: Path):
    for name, (text, _) in WITH_EFFECTS.items():
        (tmp_path / f"{name}.py").write_text(text + "\n")
    effects = import_each(list(WITH_EFFECTS), tmp_path)
    for name, (_, complaint) in WITH_EFFECTS.items():
        seen = effects[name]
        assert any(complaint in what for what in seen), (name, seen)


def test_package_itself_loads_nothing_heavy():
    code = "import recurvid, sys; print([m for m in ('torch', 'numpy', *%r) if m in sys.modules])"
    said = subprocess.run(
        [sys.executable, "-c", code % (LAZY,)], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "[]"
