"""An option that several commands have is the same in all of them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import typer

from recurvid.cli.machine import MACHINE
from recurvid.cli.main import app
from recurvid.generation.local import Local
from recurvid.generation.request import request_fields

ROOT: Any = typer.main.get_command(app)
#: Options of one spelling that mean something else in another command.
OF_ITS_OWN = {
    *(("bench", name) for name in ("--seconds", "--size", "--steps", "--model", "--out")),
    *(("doctor", name) for name in ("--size", "--model")),
    ("gui", "--port"),
}
#: The page and the server take several devices, one a worker.
LISTEN = {"gui", "serve"}


def options(command: str) -> dict[str, dict[str, str]]:
    """By the first spelling: everything that a user can notice of an option."""
    unseen = {"callback", "type_descriptor"}  # objects of each command's own
    return {
        option.opts[0]: {k: repr(v) for k, v in vars(option).items() if k not in unseen}
        for option in ROOT.commands[command].params
        if option.param_type_name == "option"
    }


@pytest.mark.parametrize("command", sorted(ROOT.commands))
def test_an_option_of_one_spelling_is_one_option(command: str) -> None:
    mine = options(command)
    for other in sorted(ROOT.commands):
        for name, found in options(other).items():
            own = {(command, name), (other, name)} & OF_ITS_OWN
            differ = name == "--device" and (command in LISTEN) != (other in LISTEN)
            if name in mine and not own and not differ:
                assert mine[name] == found, f"{name} of {command} and {other}"


def test_the_page_and_the_server_listen_alike() -> None:
    shared = {"--host", "--home", "--device", "--api-key-file", "--allow-open"}
    assert shared <= set(options("gui")) & set(options("serve"))


@pytest.mark.parametrize("command", ["generate", "resume", "bench"])
def test_every_way_to_run_is_an_option_of_every_command_that_runs(command: str) -> None:
    names = {option.name for option in ROOT.commands[command].params}
    assert set(MACHINE) <= names
    ours = {"output", "overwrite", "replaces", "metadata", "offline", "model", "draft_decoder"}
    assert set(MACHINE) == {spec.name for spec in fields(Local)} - ours


def test_a_request_has_an_option_a_field_in_both_commands_that_take_one() -> None:
    names = {f"--{spec.name.replace('_', '-')}" for spec in request_fields()}
    assert names <= set(options("generate"))
    assert names <= set(options("info"))
