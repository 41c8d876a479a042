"""The README's table says what is missed, and takes what is newest."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from tests.architecture.source import ROOT


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Generator[Any]:
    monkeypatch.syspath_prepend(ROOT / "docs" / "reference")
    before = set(sys.modules)
    yield importlib.import_module("claims")
    for name in set(sys.modules) - before:
        if name in ("claims", "measurements", "on_a_cpu"):
            del sys.modules[name]


def test_a_target_is_met_or_missed_by_so_much(claims: Any) -> None:
    assert claims.Target(1.45, least=True).judged(1.5, "×") == "≥ 1.45×: met"
    assert claims.Target(2.0, True).judged(1.79, "×") == "≥ 2×: **missed by 0.21×**"
    assert claims.Target(1.7, True, 1.9).judged(1.73) == "≥ 1.7: met (1.9 was hoped for)"
    assert claims.Target(1.7, True, 1.9).judged(1.95) == "≥ 1.7: met"
    assert claims.Target(5.3).judged(5.35, " GiB") == "≤ 5.3 GiB: **missed by 0.05 GiB**"
    assert claims.Target(5.3).judged(5.3) == "≤ 5.3: met"


def test_the_newest_file_that_has_it_and_what_ships(
    claims: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(attention: str, ms: float) -> dict[str, Any]:
        return {"attention": attention, "ms": ms, "ratio": 1000 / ms, "error_bf16": 0.01}

    old = {"int8-fused@cudnn-fp8": step("cudnn-fp8", 700.0)}
    new = {
        "int8-fused": step("cudnn", 750.0),
        "int8-eager@best": step("saved:t128x128", 680.0),
        "int8-fused%10x13": step("cudnn", 400.0),
        "int8-fused@best-8": step("saved:f8_128x224", 500.0),
        "int8-graph": {"failed": "no"},
    }
    for day, variants in (("24", old), ("25", new)):
        path = tmp_path / f"step-speed-2026-11-{day}.json"
        path.write_text(json.dumps({"variants": variants}), encoding="utf-8")
    monkeypatch.setattr(sys.modules["measurements"], "RESULTS", tmp_path)
    forms = ("int8-fused", "int8-eager")
    assert claims.fastest(forms, exact=True)[2]["ms"] == 680
    name, _, found = claims.fastest(forms, exact=False)
    assert (name, found["ms"]) == ("step-speed-2026-11-24", 700)
    with pytest.raises(LookupError):
        claims.fastest(("compiled",), exact=True)


def test_every_row_links_a_file_with_a_day_and_a_card(claims: Any) -> None:
    rows = claims.fast_and_small().splitlines()[2:]
    assert len(rows) >= 8
    for row in rows:
        where = row.split("](")[-1].rstrip(" |)")
        assert (ROOT / where).is_file()
        assert re.search(r"\bH[12]00\b", row.split("|")[-2])
        assert "2026-" in row.split("|")[-2]
