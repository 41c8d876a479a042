"""The benchmark that draws the caches' curve, on a random tiny model."""

from __future__ import annotations

import importlib.util
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.model_folders import write_small_model
from tests.generation.sessions import write_picture
from tests.generation.tiny_components import DIT
from tests.models.dit_cases import randomise

from recurvid.caching.calibration import Calibration
from recurvid.caching.registry import CACHES
from recurvid.checkpoints.int8 import save_quantized
from recurvid.models.packed_dit.model import PackedDiT

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cache_curve.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("cache_curve", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cache_curve", module)
    spec.loader.exec_module(module)
    return module


def test_it_runs_and_draws(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_small_model(tmp_path / "model")
    dit = PackedDiT(DIT).requires_grad_(False)
    randomise(dit)
    save_quantized(dit.state_dict(), model / "dit.safetensors")
    picture = write_picture(tmp_path / "picture.png")
    base = ["cache_curve", "--model", str(model), "--seconds", "1"]
    base += ["--case", str(picture), "pan left"]
    base += ["--size", "64x48", "--steps", "6", "--device", "cpu"]
    monkeypatch.setenv("OUT", str(tmp_path / "out"))

    monkeypatch.setattr(
        sys, "argv", [*base, "--case", str(picture), "zoom in", "--save-calibration"]
    )
    assert script.main() == 0
    saved = Calibration.load(model / "magcache.json")
    assert list(saved.runs) == [6]
    assert saved.jump == script.SMALL_JUMP

    monkeypatch.setattr(sys, "argv", [*base, "--factors", "0", "60"])
    assert script.main() == 0
    (path,) = (tmp_path / "out").glob("*.json")
    assert path.name.startswith("cache-curve-6-")
    result = json.loads(path.read_text())
    assert result["calibration_from"] == "beside the weights"
    points = result["points"]
    assert [p["cache"] for p in points] == ["off", *(name for name in CACHES for _ in range(2))]
    for exact, loose in zip(points[1::2], points[2::2], strict=True):
        assert exact["threshold"] == 0
        assert (exact["work"], exact["steps"], exact["psnr"], exact["ssim"]) == (1, 1, None, 1)
        assert loose["seconds"] > 0
    for loose in points[2::2]:
        if loose["cache"] != "magcache":  # a random model has ratios that never let it skip
            assert loose["work"] < 1
            assert 5 < loose["worst"] <= loose["psnr"] < 90
            assert loose["ssim"] < 1
    drawn = ElementTree.parse(path.with_suffix(".svg")).getroot()
    dots = [e for e in drawn.iter() if e.tag.endswith("circle")]
    told = sum(p["psnr"] is not None for p in points)
    assert len(dots) == 2 * told + 2 * (len(points) - 1) + len(CACHES)
    assert "teacache" in capsys.readouterr().out


def test_likeness_is_over_all_videos_and_of_the_worst(script: Any) -> None:
    plain = np.full((2, 16, 16, 3), 100, dtype=np.uint8)
    near, far = plain + np.uint8(2), plain + np.uint8(8)
    psnr, worst, ssim = script.likeness([near, far], [plain, plain])
    assert psnr == pytest.approx(10 * np.log10(255**2 / ((4 + 64) / 2)))
    assert worst == pytest.approx(10 * np.log10(255**2 / 64))
    assert 0.9 < ssim < 1
    assert script.likeness([plain], [plain]) == (None, None, 1.0)
