from __future__ import annotations

import json
import math
import string
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurvid.errors import RequestError
from recurvid.generation import request as module
from recurvid.generation.defaults import resolved, spec_of, unresolved
from recurvid.generation.request import GenerationRequest, limits_of, parse_size
from recurvid.planning import ORDERS
from recurvid.sampling.noise import NOISE
from recurvid.sampling.solvers import SOLVERS

requests = st.builds(
    GenerationRequest,
    prompt=st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=99),
    seconds=st.floats(0.01, 86_400),
    seed=st.integers(0, 2**63 - 1),
    size=st.none() | st.sampled_from(["192", "640", "832x480", "64x32"]),
    fps=st.none() | st.floats(1, 240),
    crf=st.integers(0, 51),
    steps=st.none() | st.integers(1, 1000),
    solver=st.none() | st.sampled_from(module.SOLVERS),
    cfg_scale=st.none() | st.floats(0, 100),
    noise=st.sampled_from(module.NOISES),
    whole_sections=st.booleans(),
)


@given(requests)
def test_json_gives_the_same_request_back(request: GenerationRequest) -> None:
    text = json.dumps(request.to_json())
    assert GenerationRequest.from_untrusted(text) == request
    assert GenerationRequest.from_untrusted(json.loads(text)) == request


def test_defaults_are_those_the_project_decided() -> None:
    request = GenerationRequest()
    assert (request.seed, request.seconds, request.crf) == (31337, 5.0, 16)
    filled = resolved(
        GenerationRequest(model="framepack"), spec_of(GenerationRequest(model="framepack"))
    )
    assert (filled.fps, filled.size, filled.steps, filled.guidance_scale) == (30.0, "640", 25, 10.0)
    assert filled.order == "inverted"
    f1 = GenerationRequest(model="framepack-f1")
    assert resolved(f1, spec_of(f1)).order == "forward"


def test_choices_are_the_registries() -> None:
    assert set(module.SOLVERS) == set(SOLVERS)
    assert set(module.ORDERS) == set(ORDERS)
    assert set(module.NOISES) == set(NOISE)


def test_every_field_tells_what_it_is() -> None:
    for spec in fields(GenerationRequest):
        assert limits_of(spec).help.endswith(".")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"seconds": 0}, "seconds"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": math.nan}, "seconds"),
        ({"seconds": math.inf}, "seconds"),
        ({"seconds": "5"}, "seconds"),
        ({"seconds": 10**400}, "seconds"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": None}, "seed"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"prompt": "x" * 10_001}, "prompt"),
        ({"prompt": "a\0b"}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"steps": 0}, "steps"),
        ({"steps": 1001}, "steps"),
        ({"size": "big"}, "size"),
        ({"size": "0"}, "size"),
        ({"size": "640x"}, "size"),
        ({"size": "99999x99999"}, "size"),
        ({"size": 640}, "size"),
        ({"size": "\u0666\u0664\u0660"}, "size"),
        ({"shift": 0.009}, "shift"),
        ({"shift": 5e-324}, "shift"),
        ({"solver": "magic"}, "solver"),
        ({"order": "../x"}, "order"),
        ({"noise": ""}, "noise"),
        ({"crf": 52}, "crf"),
        ({"whole_sections": 1}, "whole_sections"),
        ({"model": "/etc/passwd"}, "model"),
        ({"model": "org/repository"}, "model"),
        ({"model": "https://example.org"}, "model"),
        ({"model": ""}, "model"),
        ({"cfg_rescale": 1.5}, "cfg_rescale"),
        ({"picture": "/etc/passwd"}, "picture"),
        ({"output": "/tmp/x"}, "output"),
        ({"__class__": "x"}, "__class__"),
        ({"format": 2}, "format"),
        ({"format": True}, "format"),
        ({"format": None}, "format"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError, match=field) as caught:
        GenerationRequest.from_untrusted(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "1",
        '"x"',
        "[" * 100_000,
        '{"prompt": "' + "x" * 300_000 + '"}',
        b"\xff",
    ],
)
def test_other_data_is_refused(text: str | bytes) -> None:
    with pytest.raises(RequestError):
        GenerationRequest.from_untrusted(text)


NAMES = [spec.name for spec in fields(GenerationRequest)]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(string.ascii_letters, max_size=5) | st.sampled_from(NAMES), inner)
    ),
)


@given(ANY_JSON)
def test_any_json_is_a_request_or_a_request_error(values: Any) -> None:
    try:
        request = GenerationRequest.from_untrusted(values)
    except RequestError:
        return
    assert GenerationRequest.from_json(request.to_json()) == request


def test_sizes() -> None:
    assert parse_size("640") == 640
    assert parse_size("832X480") == (832, 480)


@given(requests, st.sampled_from(["bundled", "framepack", "framepack-f1"]))
def test_unresolved_is_the_opposite_of_resolved(request: GenerationRequest, model: str) -> None:
    request = request.but(model=model)
    spec = spec_of(request)
    filled = resolved(request, spec)
    assert resolved(unresolved(filled, spec), spec) == filled


def test_the_first_models_schedule_does_not_follow_to_another() -> None:
    inverted = GenerationRequest(model="framepack", prompt="x", steps=7)
    spec = spec_of(inverted)
    open_again = unresolved(resolved(inverted, spec), spec).but(model="framepack-f1")
    filled = resolved(open_again, spec_of(open_again))
    assert filled.schedule == "f1k1_f16k4f2k2f1k1_g9"
    assert filled.steps == 7


def test_guidance_for_a_model_without_it_is_refused() -> None:
    request = GenerationRequest(guidance_scale=5.0)
    with pytest.raises(RequestError, match="guidance_scale"):
        resolved(request, spec_of(request))


@pytest.mark.parametrize(
    ("given", "kept"), [(" 0640 ", "640"), ("0064X48", "64x48"), ("832x480", "832x480")]
)
def test_a_size_is_kept_in_one_form(given: str, kept: str) -> None:
    assert GenerationRequest(size=given).size == kept


@pytest.mark.parametrize("shift", [0.0, 0.01, 100.0])
def test_shifts_that_can_be_run(shift: float) -> None:
    assert GenerationRequest(shift=shift).shift == shift
