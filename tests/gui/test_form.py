"""The form is the request: no field missing, none invented, none changed on the way."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the page needs the extra gui")

import gradio as gr
from gradio.data_classes import ImageData

from recurvid.errors import InputError, RequestError
from recurvid.generation.request import GenerationRequest
from recurvid.gui import form, how_form
from recurvid.gui.create_tab import picture_field
from recurvid.gui.form import left_open, made_for
from recurvid.gui.words import LANGUAGES
from recurvid.jobs.states import HowToRun

EVERY_FIELD = GenerationRequest(
    prompt="pan left", negative_prompt="blur", seconds=2.5, seed=2**63 - 1, model="framepack",
    size="832x480", fps=24.0, whole_sections=True, crf=20, crossfade=True, steps=7,
    solver="euler", shift=3.25, guidance_scale=9.5, cfg_scale=1.5, cfg_rescale=0.7,
    noise="sequential", step_cache="magcache", cache_threshold=0.2, order="forward",
    schedule="f1k1_f16k4f2k2f1k1_g9", exact_gaps=True,
)  # fmt: skip


def plain(values: list[Any]) -> list[Any]:
    """Values as a browser would send them back."""
    return [value["value"] if isinstance(value, dict) else value for value in values]


def test_one_control_a_field_in_order():
    assert [c.name for c in form.controls()] == [f.name for f in fields(GenerationRequest)]
    drawer = [control.name for group in form.groups().values() for control in group]
    assert sorted([*form.MAIN_FIELDS, *drawer]) == sorted(c.name for c in form.controls())


def test_every_control_has_a_component_of_its_kind():
    with gr.Blocks():
        made: dict[str, Any] = {
            control.name: form.component(control) for control in form.controls()
        }
    assert isinstance(made["order"], gr.Dropdown)
    assert isinstance(made["exact_gaps"], gr.Checkbox)
    assert made["crf"].preprocess(99) == 99, "the request refuses it, in the visitor's language"
    assert next(value for _, value in made["solver"].choices) == ""
    assert "bundled" in [value for _, value in made["model"].choices]
    assert made["prompt"].max_length == 10_000


@pytest.mark.parametrize("request_", [GenerationRequest(), EVERY_FIELD])
def test_a_request_goes_through_the_form_unchanged(request_: GenerationRequest):
    assert form.request_from(plain(form.shown(request_))) == request_


def test_the_test_request_differs_from_the_default_everywhere():
    same = {f.name for f in fields(GenerationRequest) if getattr(EVERY_FIELD, f.name) == f.default}
    assert same == set()
    assert form.chosen(EVERY_FIELD).keys() == {f.name for f in fields(GenerationRequest)}
    assert form.chosen(GenerationRequest()) == {}


def test_an_empty_form_is_the_default():
    empty = [None if c.optional else c.shown(c.spec.default) for c in form.controls()]
    assert form.request_from(empty) == GenerationRequest()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("seed", "-1", "seed"), ("seed", "1e9", "seed"), ("seed", "９", "seed"),
        ("seed", "9" * 40, "seed"), ("steps", "2.5", "steps"), ("steps", "0", "steps"),
        ("fps", "fast", "fps"), ("fps", "nan", "fps"), ("size", "9x9", "size"),
        ("solver", "magic", "solver"), ("model", "../etc", "model"), ("seconds", "5", "seconds"),
        ("crf", 99, "crf"), ("prompt", ["x"], "prompt"), ("schedule", {"a": 1}, "schedule"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(field: str, value: Any, said: str):
    names = [control.name for control in form.controls()]
    values = plain(form.shown(GenerationRequest()))
    values[names.index(field)] = value
    with pytest.raises(RequestError, match=said):
        form.request_from(values)


def test_numbers_with_a_comma_are_numbers():
    assert form.number_in("fps", " 12,5 ") == 12.5


def test_long_and_short_videos_move_the_sliders_ends():
    names = [control.name for control in form.controls()]
    place = names.index("seconds")
    assert form.shown(GenerationRequest(seconds=0.5))[place]["minimum"] == 0.5
    assert form.shown(GenerationRequest(seconds=600.0))[place]["maximum"] == 600
    usual = form.shown(GenerationRequest())[place]
    assert (usual["minimum"], usual["maximum"]) == (1, 120)


def test_how_to_run_goes_through_unchanged():
    how = HowToRun("cpu", "float32", 6.5, "sdpa", "int8", True, 3, "10x13+5@25", False)
    assert how_form.how_from(how_form.shown(how), "cpu") == how
    assert how_form.how_from(how_form.shown(HowToRun()), "auto") == HowToRun()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights", "int3"),
        ("dtype", "float8"),
        ("vram", "0"),
        ("vram", "lots"),
        ("exact_steps", "1.5"),
        ("exact_steps", "2000"),
    ],
)
def test_no_choice_of_how_to_run_is_invented(name: str, value: Any):
    values = how_form.shown(HowToRun())
    values[how_form.FIELDS.index(name)] = value
    with pytest.raises(InputError):
        how_form.how_from(values, "auto")


def test_a_broken_picture_reaches_the_queue_which_says_so(tmp_path: Path):
    """Gradio would answer with a trace full of paths."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with gr.Blocks():
        field = picture_field("picture", 200, "picture")
    given = ImageData(path=str(broken), orig_name="broken.png")
    assert field.preprocess(given) == str(broken)
    assert field.preprocess(None) is None


def test_empty_fields_name_what_they_stand_for():
    names = [control.name for control in left_open()]
    bundled = dict(zip(names, made_for("bundled", LANGUAGES["en"]), strict=True))
    assert bundled["steps"]["placeholder"] == "20 (the model's own)"
    assert bundled["guidance_scale"]["placeholder"] == "the model's own", "it has none"
    assert bundled["order"]["choices"][0] == ("inverted (the model's own)", "")
    large = dict(zip(names, made_for("framepack-f1", LANGUAGES["ja"]), strict=True))
    assert large["fps"]["placeholder"] == "30（モデルの標準）"
    assert large["order"]["choices"][0] == ("forward（モデルの標準）", "")
    unknown = made_for("no such model", LANGUAGES["en"])[names.index("size")]
    assert unknown["placeholder"] == "the model's own"
