"""What `from recurvid import ...` gives: sorted, complete, documented; and the version."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import re

import pytest
from tests.architecture.source import PACKAGE, ROOT, Module, modules

import recurvid

WITH_ALL = [m for m in modules() if "__all__" in m.text]
GATHERING = [m for m in WITH_ALL if m.path.name == "__init__.py"]


def isort_order(names: list[str]) -> list[str]:
    """CONSTANTS, then Classes, then functions, each by name: the order of ruff's RUF022."""
    return sorted(names, key=lambda n: (not n.isupper(), not n[:1].isupper(), n))


@pytest.mark.parametrize("module", WITH_ALL, ids=lambda m: m.name)
def test_exported_names_exist_and_are_sorted(module: Module):
    loaded = importlib.import_module(module.name)
    names = list(loaded.__all__)
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(loaded, name)] == []
    assert names == isort_order(names)


@pytest.mark.parametrize("module", GATHERING, ids=lambda m: m.name)
def test_every_name_that_a_package_gathers_is_exported(module: Module):
    gathered = {
        alias.asname or alias.name
        for node in module.tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recurvid")
        for alias in node.names
    }
    assert gathered <= set(importlib.import_module(module.name).__all__)


def test_public_names_are_documented():
    public = [getattr(recurvid, name) for name in recurvid.__all__ if name != "__version__"]
    for thing in public:
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), thing


def test_types_are_advertised():
    assert (PACKAGE / "py.typed").is_file()


def test_version_is_the_newest_entry_of_the_changelog():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d|unreleased)$", text, re.M)
    assert entries, "no entry of the form '## [1.2.3] - 2026-01-31'"
    assert recurvid.__version__ == entries[0][0]
    assert recurvid.__version__ == importlib.metadata.version("recurvid")
    versions = [tuple(map(int, version.split("."))) for version, _ in entries]
    assert versions == sorted(versions, reverse=True)
