"""A machine that cannot compile says so in one line, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.command import run
from tests.e2e.model_folders import write_small_model
from tests.generation.sessions import write_picture

from recurvid.cli import main
from recurvid.errors import ComponentError
from recurvid.models import compiler
from recurvid.models.compiler import refuse_without_compiler, told

CPU = torch.device("cpu")


class InvalidCxxCompiler(RuntimeError):
    """As torch names it."""


class BackendCompilerFailed(RuntimeError):
    """As torch's: what failed hangs on it."""

    def __init__(self, inner: Exception):
        self.inner_exception = inner
        super().__init__(f"backend='inductor' raised:\n{inner}\n\nSet TORCHDYNAMO_VERBOSE=1 ...")


@pytest.fixture(autouse=True)
def tried_anew() -> Generator[None]:
    compiler._why_not.cache_clear()
    yield
    compiler._why_not.cache_clear()


def without_compiler(error: Exception) -> Callable[..., Any]:
    def stand_in(function: Any, **_: Any) -> Any:
        def compiled(*_: Any) -> Any:
            raise BackendCompilerFailed(error)

        return compiled

    return stand_in


NO_CXX = InvalidCxxCompiler("No working C++ compiler found in ...cpp.cxx: (None, 'g++')\n\nmore")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NO_CXX, ["InvalidCxxCompiler: No working C++ compiler", "apt install g++", "build tools"]),
        (RuntimeError("Failed to find C compiler. Please specify via CC"), ["apt install gcc"]),
        (RuntimeError("Cannot find a working triton installation"), ["pip install triton"]),
        (RuntimeError("fatal error: Python.h: No such file"), ["python3-dev"]),
        (ValueError("something new\nin lines"), ["ValueError: something new; leave"]),
        (KeyError(), ["KeyError; leave"]),
    ],
)
def test_the_cause_and_what_helps(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: list[str]
) -> None:
    monkeypatch.setattr(torch, "compile", without_compiler(error))
    with pytest.raises(ComponentError) as refused:
        refuse_without_compiler(CPU)
    said = str(refused.value)
    assert "\n" not in said
    assert said.startswith("--compile: cannot compile for cpu here: ")
    assert said.endswith("leave --compile out")
    assert all(word in said for word in words), said


def test_a_cause_below_causes_is_found() -> None:
    error = RuntimeError("on top")
    error.__cause__ = InvalidCxxCompiler("No working C++ compiler")
    assert told(BackendCompilerFailed(error)).startswith("InvalidCxxCompiler")


def test_a_machine_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bool] = []

    def stand_in(function: Any, **_: Any) -> Any:
        tried.append(True)
        return function

    monkeypatch.setattr(torch, "compile", stand_in)
    refuse_without_compiler(CPU)
    refuse_without_compiler(CPU)
    assert len(tried) == 1


def test_generate_stops_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "compile", without_compiler(NO_CXX))
    write_picture(tmp_path / "photo.png")
    model = f"bundled={write_small_model(tmp_path / 'model')}"
    quick = ["--model", model, "--size", "64x48", "--steps", "1", "--seconds", "1"]
    ran = run(capsys, "generate", "photo.png", *quick, "--session", "s", "--compile")
    assert ran.code == ComponentError.exit_code
    assert "InvalidCxxCompiler" in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "s").exists()
    plain = run(capsys, "generate", "photo.png", *quick, "--session", "s")
    assert plain.code == 0, plain.err  # nobody asked for a compiler


@pytest.mark.slow
def test_torchs_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "/nowhere/g++"))
    with pytest.raises(ComponentError, match=r"C\+\+ compiler.*apt install g"):
        refuse_without_compiler(CPU)


def test_a_failure_in_mid_run_is_one_line_too() -> None:
    code, said = main._unforeseen(BackendCompilerFailed(ValueError("no such register")))
    assert code == ComponentError.exit_code
    assert said == "compiling failed: ValueError: no such register; leave --compile out"
