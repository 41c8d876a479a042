"""The package's source files, parsed once, for the tests of this folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "recurvid"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One file: its dotted name, its path below the package, its lines and its tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def layer(self) -> str:
        """The package or module directly under recurvid that it belongs to."""
        return self.path.parts[0].removesuffix(".py")

    def functions(self) -> Iterator[Function]:
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))

    def deferred_imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of every import inside a function."""
        for function in self.functions():
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield from ((node.lineno, name) for name in imported(node))


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules that a statement names; one or more dots first where it is relative."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return ["." * node.level + (node.module or "")]


def parse(path: Path, package: Path = PACKAGE) -> Module:
    relative = path.relative_to(package)
    parts = (package.name, *relative.with_suffix("").parts)
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    text = path.read_text(encoding="utf-8")
    return Module(name, relative, text, ast.parse(text, str(path)))


@lru_cache(maxsize=1)
def modules() -> tuple[Module, ...]:
    return tuple(parse(path) for path in sorted(PACKAGE.rglob("*.py")))
