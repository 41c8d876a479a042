"""Settings from outside, videos and presets: data, and nothing that reaches further."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the page needs the extra gui")

from PIL import Image, PngImagePlugin

from recurvid.errors import InputError, RequestError
from recurvid.generation.request import GenerationRequest
from recurvid.gui.presets import GIVEN, KEPT_IN_FORM, Presets, check_name
from recurvid.gui.replay import request_in

REQUEST = GenerationRequest(prompt="pan left", seed=7, steps=3, size="96")


def carrying(folder: Path, metadata: Any) -> Path:
    """A PNG with an object of RecurVid in its comment."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", json.dumps({"recurvid": metadata}))
    path = folder / "frame.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path, pnginfo=info)
    return path


def test_the_request_of_a_video_comes_back(tmp_path: Path):
    assert request_in(carrying(tmp_path, {"request": REQUEST.to_json()})) == REQUEST


@pytest.mark.parametrize(
    "change",
    [
        {"output": "/etc/passwd"}, {"device": "cuda"}, {"vram": 1}, {"model": "org/name"},
        {"model": "../../x"}, {"model": "/etc"}, {"model": "unheard-of"}, {"steps": "3"},
        {"format": 99}, {"prompt": {"a": 1}}, {"prompt": "x" * 20_000}, {"seconds": 1e30},
    ],
)  # fmt: skip
def test_what_a_video_may_not_say_is_refused(tmp_path: Path, change: dict[str, Any]):
    (name,) = change
    with pytest.raises(RequestError, match=name):
        request_in(carrying(tmp_path, {"request": {**REQUEST.to_json(), **change}}))


def test_an_unknown_model_is_named_with_those_that_are_known(tmp_path: Path):
    video = carrying(tmp_path, {"request": {**REQUEST.to_json(), "model": "unheard-of"}})
    with pytest.raises(RequestError, match=r"'unheard-of'.*bundled"):
        request_in(video)


@pytest.mark.parametrize("metadata", [None, [], {}, {"request": 3}, "text"])
def test_a_video_without_settings(tmp_path: Path, metadata: Any):
    with pytest.raises(InputError):
        request_in(carrying(tmp_path, metadata))


def test_a_file_that_is_no_video(tmp_path: Path):
    for number, data in enumerate((b"", b"\0" * 100, b"#EXTM3U\nfile:///etc/passwd\n")):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(data)
        with pytest.raises(InputError, match="carries no settings"):
            request_in(path)


@pytest.fixture
def presets(tmp_path: Path) -> Presets:
    return Presets(tmp_path / "presets.json")


@pytest.mark.parametrize("name", GIVEN)
def test_given_presets_keep_what_the_video_shows(presets: Presets, name: str):
    made = presets.apply(name, REQUEST, "")
    assert all(getattr(made, field) == getattr(REQUEST, field) for field in KEPT_IN_FORM)
    assert made == GenerationRequest(**GIVEN[name], prompt="pan left", seed=7)


def test_a_preset_is_saved_used_replaced_and_deleted(presets: Presets):
    assert presets.save("  mine \n two", REQUEST, "") == "mine two"
    other = GenerationRequest(prompt="zoom", seconds=9.0, crf=30)
    assert presets.apply("mine two", other, "") == other.but(steps=3, size="96", crf=16)
    presets.save("mine two", other, "")
    assert presets.names("") == ["mine two"]
    assert presets.apply("mine two", REQUEST, "").crf == 30
    presets.delete("mine two", "")
    presets.delete("mine two", "")
    assert presets.names("") == []


def test_presets_belong_to_their_owner(presets: Presets):
    presets.save("mine", REQUEST, "a")
    assert (presets.names("a"), presets.names("b")) == (["mine"], [])
    with pytest.raises(InputError, match="no preset"):
        presets.apply("mine", REQUEST, "b")


def test_names_are_never_paths(presets: Presets, tmp_path: Path):
    presets.save("../../etc/passwd", REQUEST, "../x")
    assert [path.name for path in tmp_path.iterdir()] == ["presets.json"]
    for name in ("", "   ", "draft", "\0"):
        with pytest.raises(InputError):
            presets.save(name, REQUEST, "")
    with pytest.raises(InputError):
        check_name(None)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"": 3}', '{"": {"x": {"model": "/etc"}}}'])
def test_a_damaged_file_of_presets_harms_nobody(presets: Presets, tmp_path: Path, text: str):
    (tmp_path / "presets.json").write_text(text)
    if presets.names("") == ["x"]:
        # The form's model stays, whatever a preset says.
        assert presets.apply("x", REQUEST, "").model == "bundled"
    presets.save("new", REQUEST, "")
    assert "new" in presets.names("")
