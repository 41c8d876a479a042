"""The page's texts: the same in every language, and every one that is used is there."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs the extra gui")

import recurvid.gui
from recurvid.generation.request import ORDERS, limits_of, request_fields
from recurvid.gui.how_form import FIELDS
from recurvid.gui.languages import english
from recurvid.gui.words import (
    LANGUAGES,
    duration,
    language_for,
    time_left,
    translations,
    word,
)
from recurvid.jobs.states import HowToRun, JobState

ENGLISH = LANGUAGES["en"].words
OTHERS = pytest.mark.parametrize("code", [code for code in LANGUAGES if code != "en"])
SOURCES = sorted(Path(recurvid.gui.__file__).parent.glob("*.py"))


@OTHERS
def test_every_language_says_everything(code: str):
    assert LANGUAGES[code].words.keys() == ENGLISH.keys()
    assert all(text.strip() for text in LANGUAGES[code].words.values())


@OTHERS
def test_the_same_blanks_are_filled_in(code: str):
    for key, text in ENGLISH.items():
        blanks = re.findall(r"\{(\w+)\}", text)
        assert sorted(re.findall(r"\{(\w+)\}", LANGUAGES[code].words[key])) == sorted(blanks), key


@OTHERS
def test_other_languages_are_no_english(code: str):
    same = {key for key, text in LANGUAGES[code].words.items() if text == ENGLISH[key]}
    # Prompts are English in all: the models know no other language.
    assert same == {"prompt.example", *(f"help.example{number}" for number in range(1, 5))}


def test_texts_that_the_code_names_are_there():
    named: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                called = node.func
                name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
                first = node.args[0]
                if name in ("word", "language") and isinstance(first, ast.Constant):
                    named.add(str(first.value))
    assert len(named) > 80
    assert named <= ENGLISH.keys()


def test_every_field_state_and_order_has_a_text():
    for spec in request_fields():
        assert f"field.{spec.name}" in ENGLISH
        help = ENGLISH[f"field.{spec.name}.help"]
        assert help == limits_of(spec).help or f"field.{spec.name}.help" in english.WORDS
    assert {f"group.{limits_of(spec).group}" for spec in request_fields()} <= ENGLISH.keys()
    assert {f"state.{state.value}" for state in JobState} <= ENGLISH.keys()
    assert {f"timeline.{order}" for order in ORDERS} <= ENGLISH.keys()


def test_every_choice_of_how_to_run_says_what_it_costs():
    assert {*FIELDS, "device"} == {spec.name for spec in fields(HowToRun)}
    assert {f"how.{name}.help" for name in FIELDS} <= ENGLISH.keys()


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "en"), ("", "en"), ("ja", "ja"), ("ja-JP,en;q=0.5", "ja"), ("zh-TW", "zh"),
        ("fr-FR,fr;q=0.9,zh;q=0.8,en;q=0.7", "zh"), ("fr", "en"), ("en-GB,ja", "en"),
        ("x" * 100_000, "en"), (";;;,,,", "en"),
    ],
)  # fmt: skip
def test_the_browsers_language_is_taken(header: str | None, code: str):
    assert language_for(header).code == code


def test_gradio_gets_the_same_tables():
    tables = translations().translations_dict
    assert tables["ja"] == {f"recurvid.{k}": v for k, v in LANGUAGES["ja"].words.items()}
    assert tables["zh-CN"] == tables["zh"]
    assert word("auto").key in tables["en"]
    with pytest.raises(KeyError):
        word("no such text")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.0, "59 min 59 s"),
        (7500.0, "2 h 5 min"),
    ],
)
def test_lengths_of_time(seconds: float, said: str):
    assert duration(LANGUAGES["en"], seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3.0, "5 s"), (1.0, "5 s"), (12.0, "10 s"), (58.0, "1 min 0 s"), (187.0, "3 min 5 s"),
        (754.0, "13 min"), (3599.0, "1 h 0 min"), (7500.0, "2 h 5 min"),
    ],
)  # fmt: skip
def test_what_is_left_is_said_as_a_guess(seconds: float, said: str):
    assert time_left(LANGUAGES["en"], seconds) == said
