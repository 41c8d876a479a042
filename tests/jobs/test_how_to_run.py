"""What the command line's ``generate`` offers, API and page offer too."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import typer
from tests.jobs.queues import a_store, png

from recurvid.cli.machine import MACHINE
from recurvid.cli.main import app
from recurvid.errors import InputError
from recurvid.generation.journal import Journal
from recurvid.generation.local import Local
from recurvid.generation.request import GenerationRequest, request_fields
from recurvid.gui import how_form
from recurvid.jobs.claims import Claims
from recurvid.jobs.session_executor import make
from recurvid.jobs.states import HowToRun
from recurvid.server.schemas import HowBody

#: Options of ``generate`` that no job has: files of this machine (a draft decoder comes from the
#: server's own environment), the terminal, or what is always on.
FILES = {"out", "session", "like", "overwrite", "draft_decoder"}
NOT_A_JOBS = {*FILES, "offline", "previews", "quiet", "as_json"}
#: Those that a job has beside request and how to run.
PICTURES = {"image", "end_image"}
OTHERWISE = {"no_metadata": "metadata"}
HOW = {spec.name for spec in fields(HowToRun)}


def test_no_option_of_generate_is_missing():
    command: Any = typer.main.get_command(app)
    names = {option.name for option in command.commands["generate"].params} - {"help"}
    names -= {spec.name for spec in request_fields()} | PICTURES | NOT_A_JOBS
    assert {OTHERWISE.get(name, name) for name in names} == HOW


def test_no_choice_of_a_session_is_missing():
    here_only = {"output", "overwrite", "replaces", "model", "offline", "draft_decoder"}
    assert {spec.name for spec in fields(Local)} - here_only == HOW
    assert set(MACHINE) <= HOW


def test_the_page_and_the_description_have_all_of_them():
    assert {*how_form.FIELDS, "device"} == HOW
    assert set(HowBody.model_fields) == HOW
    assert all(field.description for field in HowBody.model_fields.values())


def test_all_of_them_reach_the_session(own_home: Any):
    how = HowToRun("cpu", "float32", 6, "sdpa", "auto", False, 3, "2x2", False)
    takes_long = {"weights", "compiled"}
    assert all(getattr(how, name) != getattr(HowToRun(), name) for name in HOW - takes_long)
    store = a_store(own_home)
    store.add(GenerationRequest(seconds=0.5, size="32", steps=1), png(), how=how)
    claim = Claims(store).take("cpu")
    assert claim is not None
    folder = store.folders.of(claim.id)
    reports = make("cpu").run(claim.job, folder)
    next(reports)
    reports.close()
    local = Journal.open(folder / "session").local
    assert {name: getattr(local, name) for name in HOW} == how.to_json()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exact_steps", -1), ("exact_steps", 1001), ("exact_steps", True), ("exact_steps", 1.5),
        ("sparse", ""), ("sparse", 3), ("metadata", "no"), ("compiled", None),
    ],
)  # fmt: skip
def test_what_is_no_choice_is_refused(name: str, value: Any):
    with pytest.raises(InputError, match=name):
        HowToRun.from_json({name: value})
