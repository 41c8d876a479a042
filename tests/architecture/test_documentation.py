"""The documentation is run: code blocks, commands, links, and what is made from the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tests.architecture.source import ROOT

from recurvid.cli.main import app

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "vendor").glob("*.md"),
    ]
)
EACH_PAGE = pytest.mark.parametrize("page", PAGES)


def blocks(text: str, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [body for language, body in found if language in languages]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """Every command line in the blocks and in `code` of a page, split into words."""
    lines = [line for body in blocks(text, "sh", "console") for line in body.splitlines()]
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    lines += re.findall(r"`([^`\n]+)`", outside)
    words = [
        shlex.split(line.removeprefix("$ "), comments=True)
        for line in lines
        if re.match(r"\$? ?(recurvid|python3?|py|make|bash) \S", line)
    ]
    return [line for line in words if line]


@EACH_PAGE
def test_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for body in blocks(text_of(page), "python"):
        exec(compile(body, page, "exec"), names)


@EACH_PAGE
def test_commands_exist(page: str):
    for words in commands(text_of(page)):
        check_command(words)


def check_command(words: list[str]) -> None:
    """Raise unless a command line names things that are there, and options that are taken."""
    program, *rest = words
    if program == "recurvid":
        check_recurvid(rest)
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", text_of("Makefile"), re.M), words
    elif program == "bash":
        assert (ROOT / rest[0]).is_file(), words
    elif rest[0] == "run.py":
        assert f"run.py {rest[1]}" in text_of("run.py"), words
    elif not rest[0].startswith("-"):
        assert (ROOT / rest[0]).is_file(), words


def check_recurvid(words: list[str]) -> None:
    """Let the command line read the words, without running anything.

    A command that is named without a word after it is a mention, and may leave out what it needs.
    """
    mention = not any(word.startswith("-") or "." in word for word in words)
    words = [word for word in words if word not in ("-h", "--help")]
    if not words:
        return
    command = typer.main.get_command(app)
    context = command.make_context("recurvid", list(words))
    while rest := [*getattr(context, "_protected_args", []), *context.args]:
        name, child, rest = context.command.resolve_command(context, rest)  # type: ignore[attr-defined]
        try:
            context = child.make_context(name, rest, parent=context)
        except Exception as error:
            if mention and type(error).__name__ == "MissingParameter":
                return
            raise


def test_commands_are_found_and_checked():
    text = "```sh\nrecurvid generate a.jpg --prompt 'x'  # note\n```\nand `make help` or `not this`"
    found = commands(text)
    assert found == [["recurvid", "generate", "a.jpg", "--prompt", "x"], ["make", "help"]]
    for words in found:
        check_command(words)


@pytest.mark.parametrize(
    "line",
    [
        "recurvid generat a.jpg",
        "recurvid generate a.jpg --promt x",
        "recurvid generate --prompt x",
        "recurvid models fetch x",
        "make nonsense",
        "bash .ci/walk",
        "python3 run.py dance",
        "python nothing.py",
    ],
)
def test_wrong_commands_are_seen(line: str):
    with pytest.raises(Exception):  # noqa: B017, PT011
        check_command(shlex.split(line))


@EACH_PAGE
def test_links_lead_somewhere(page: str):
    outside = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", outside):
        if not re.match(r"[a-z]+:", target):
            assert ((ROOT / page).parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("script", ["docs/pictures/draw.py", "docs/reference/write.py"])
def test_what_is_made_from_the_code_is_up_to_date(script: str):
    said = subprocess.run(
        [sys.executable, str(ROOT / script), "--check"], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stdout + said.stderr


def test_readme_has_the_two_commands():
    for command in ("demo", "test"):
        assert f"`python3 run.py {command}`" in text_of("README.md")
        assert f"`py run.py {command}`" in text_of("README.md")
    assert "run.py test" in text_of(".ci/run")
    assert "run.py test" in text_of(".github/workflows/ci.yml")


def test_decisions_are_numbered_without_gaps():
    numbers = [int(p.name[:4]) for p in sorted((ROOT / "docs/adr").glob("[0-9]*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_decision_is_listed():
    listed = text_of("docs/adr/README.md")
    missing = [p.name for p in (ROOT / "docs/adr").glob("[0-9]*.md") if p.name not in listed]
    assert missing == []
