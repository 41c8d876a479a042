"""What the library says, said in every language: no line may come without its sentence."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs the extra gui")
import torch
from tests.gui.jobs import PICTURE, put

import recurvid
from recurvid import errors
from recurvid.checkpoints.known import KNOWN, ROLES
from recurvid.errors import InputError, JobStateError, LimitError, Line, ScheduleError
from recurvid.generation.memory_plan import PHASES
from recurvid.generation.request import GenerationRequest
from recurvid.gui import sayings
from recurvid.gui.how_form import vram_from
from recurvid.gui.words import LANGUAGES
from recurvid.jobs.limits import Limits
from recurvid.jobs.states import HowToRun, JobState
from recurvid.jobs.store import JobStore
from recurvid.ops.attention.backend import AttentionSpec
from recurvid.ops.attention.registry import ATTENTION

ROOT = Path(recurvid.__file__).parent
EVERY = pytest.mark.parametrize("code", LANGUAGES)
KINDS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.RecurVidError)
}
# Where everything that is raised may be read on the page ...
SHOWN = [
    "generation/request.py", "generation/defaults.py", "video/pictures.py", "video/buckets.py",
    "video/metadata.py", "checkpoints/fetch.py",
    *(f"{folder}/{path.name}" for folder in ("gui", "jobs")
      for path in sorted((ROOT / folder).glob("*.py"))),
]  # fmt: skip
# ... but for what the owner of the server reads on its terminal.
OPERATORS = {
    "gui/door.py", "gui/serving.py", "jobs/access.py", "jobs/claims.py", "jobs/database.py",
    "jobs/executor.py", "jobs/slots.py", "jobs/supervisor.py",
}  # fmt: skip
OPERATORS_TOO = {("jobs/limits.py", "from_json"), ("jobs/limits.py", "_check"),
                 ("video/metadata.py", "embedded")}  # fmt: skip


@dataclass(frozen=True)
class Saying:
    """A line that the source holds."""

    where: str
    key: str | None
    values: frozenset[str]


def calls(module: str, kinds: set[str]) -> Iterator[tuple[str, ast.Call]]:
    """Calls of some classes, with the function around them."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.FunctionDef):
                yield from walk(inner, inner.name)
                continue
            called = inner.func if isinstance(inner, ast.Call) else None
            if isinstance(inner, ast.Call) and getattr(called, "id", "") in kinds:
                yield function, inner
            yield from walk(inner, function)

    yield from walk(parsed(module), "")


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text("utf-8"))


def saying(module: str, call: ast.Call) -> Saying:
    assert isinstance(call.func, ast.Name)
    place = 0 if call.func.id == "LimitError" else 1
    given = call.args[place] if len(call.args) > place else None
    key = str(given.value) if isinstance(given, ast.Constant) else given and ast.unparse(given)
    names = frozenset(word.arg for word in call.keywords if word.arg)
    return Saying(f"{module}:{call.lineno}", key, names)


def sayings_of(modules: list[str], kinds: set[str]) -> list[Saying]:
    found = [(m, f, call) for m in modules for f, call in calls(m, kinds)]
    return [
        saying(module, call)
        for module, function, call in found
        if module not in OPERATORS
        and (module, function) not in OPERATORS_TOO
        # A line that was raised before is passed on, or all of a LimitError is elsewhere.
        and not any(isinstance(argument, ast.Starred) for argument in call.args)
        and not any(word.arg is None for word in call.keywords)
    ]


def test_whatever_the_page_shows_has_a_key():
    found = sayings_of(SHOWN, KINDS)
    assert len(found) > 60
    assert [said.where for said in found if said.key is None] == []


@EVERY
def test_every_key_has_its_sentence_and_every_blank_its_value(code: str):
    words = LANGUAGES[code].words
    everywhere = [str(path.relative_to(ROOT)) for path in sorted(ROOT.rglob("*.py"))]
    raised = [said for said in sayings_of(everywhere, KINDS - {"ScheduleError"}) if said.key]
    lines = [said for said in sayings_of(everywhere, {"Line"}) if said.key]
    # These hand a line on, with whatever key it has.
    handed_on = {"key", "reason.key", "found.key", "line.key", "error.line.key"}
    said = [one for one in (*raised, *lines) if one.key not in handed_on]
    assert len(said) > 100
    for one in said:
        assert f"error.{one.key}" in words, one
        blanks = set(re.findall(r"\{(\w+)\}", words[f"error.{one.key}"]))
        assert blanks <= one.values, one


@EVERY
def test_every_kind_of_failure_has_its_sentence(code: str):
    codes: set[str] = set()
    for module in sorted((ROOT / "jobs").glob("*.py")):
        text = module.read_text("utf-8")
        codes |= set(re.findall(r'error_code="(\w+)"', text))
        codes |= set(re.findall(r'Failure\("(\w+)"', text))
        codes |= set(re.findall(r'Error, "(\w+)"\)', text))
    assert codes >= {"worker_crashed", "out_of_memory", "model_unavailable", "invalid_request"}
    assert {f"failure.{name}" for name in codes} <= LANGUAGES[code].words.keys()


@EVERY
def test_every_phase_model_licence_and_part_has_its_word(code: str):
    words = LANGUAGES[code].words.keys()
    assert {f"plan.{name}" for name in PHASES} <= words
    assert {f"role.{name}" for name in ROLES} <= words
    assert {f"model.{name}.title" for name in KNOWN} <= words
    terms = {term.name for spec in KNOWN.values() for term in spec.licences}
    assert {f"licence.{name}" for name in terms} <= words


@EVERY
@pytest.mark.parametrize("name", ATTENTION)
def test_every_reason_of_a_kernel_has_its_sentence(name: str, code: str):
    for device in ("cpu", "cuda", "mps"):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            for masked, grad, channels in (
                (False, False, 128),
                (True, True, 128),
                (False, True, 9),
            ):
                spec = AttentionSpec(device, dtype, channels, masked=masked, grad=grad)
                reason = ATTENTION[name].why_not(spec)
                if reason is not None:
                    assert isinstance(reason, Line), "a reason without a key stays English"
                    assert f"error.{reason.key}" in LANGUAGES[code].words
                    sayings.say(LANGUAGES[code], reason)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"seconds": 0}, "秒数：0 は小さすぎます。0.01 以上にしてください。"),
        ({"steps": "many"}, "ステップ数：「many」ではなく、整数を入力してください。"),
        ({"size": "big"}, "「big」は読み取れません"),
        ({"order": "random"}, "区間の順序：「random」は選べません"),
        ({"model": "../x"}, "モデル「../x」はありません"),
    ],
)
def test_a_wrong_field_is_said_in_japanese(values: dict[str, object], said: str):
    with pytest.raises(InputError) as caught:
        GenerationRequest.from_json(values)
    assert said in sayings.problem(LANGUAGES["ja"], caught.value)


def test_a_choice_of_how_to_run_is_called_as_on_the_form():
    with pytest.raises(InputError) as caught:
        vram_from("much")
    said = sayings.problem(LANGUAGES["ja"], caught.value)
    assert said == "メモリの上限 (GiB)：「much」ではなく、数値を入力してください。"
    with pytest.raises(InputError) as caught:
        HowToRun(attention="\n")
    assert sayings.problem(LANGUAGES["zh"], caught.value).startswith("注意力内核：不能设为")


def test_what_has_no_sentence_is_said_in_english():
    assert sayings.problem(LANGUAGES["zh"], InputError("only English")) == "only English"
    assert sayings.say(LANGUAGES["zh"], Line("text", "no.such.key")) == "text"
    assert sayings.say(LANGUAGES["zh"], Line("text", "too_long")) == "text", "its values are gone"


def test_values_are_no_templates():
    error = LimitError("queue_full", "full", jobs="{0.__class__}")
    assert "{0.__class__}" in sayings.problem(LANGUAGES["en"], error)
    schedule = ScheduleError("no digit", "f{k}", 1)
    assert "f{k}" in sayings.problem(LANGUAGES["zh"], schedule)


def test_lines_survive_json():
    line = Line("a text", "too_long", seconds="9", most="5")
    again = Line.from_json(line.to_json())
    assert (again, again.key, again.values) == (line, line.key, line.values)
    assert Line.from_json("plain").key == ""
    assert Line.from_json({"text": 5}).key == ""


def test_failures_say_their_kind_and_then_the_detail(tmp_path: Path):
    store = JobStore(tmp_path)
    job = put(
        store, store.add(GenerationRequest(), PICTURE), JobState.FAILED, error="CUDA died",
        error_code="device_unavailable",
    )  # fmt: skip
    assert sayings.failure(LANGUAGES["en"], job) == "CUDA died"
    said = sayings.failure(LANGUAGES["ja"], job)
    assert said.startswith(LANGUAGES["ja"]("failure.device_unavailable"))
    assert said.endswith("（CUDA died）")
    unknown = put(store, job, JobState.FAILED, error="later", error_code="of a later version")
    assert sayings.failure(LANGUAGES["ja"], unknown) == "later"


def test_why_the_queue_stands_still_is_said(tmp_path: Path):
    class Full:
        total, free = 10**9, 10**6

    store = JobStore(tmp_path, disk_usage=lambda _: Full())
    said = sayings.paused(LANGUAGES["zh"], store.queue_state().reason)
    assert said == "磁盘空间不足（可用 1 MB，需保留 100 MB），有空间后会自动继续。"
    assert sayings.paused(LANGUAGES["zh"], Line("cuda:0", "queue.no_worker")).endswith("（cuda:0）")
    assert sayings.paused(LANGUAGES["zh"], None) == ""
    full = sayings.paused(LANGUAGES["zh"], Line("the disk is full; ...", "disk_full"))
    assert full == "磁盘已满，有空间后会自动继续。", "nothing is left to tell"


def test_a_refused_action_is_said(tmp_path: Path):
    store = JobStore(tmp_path, Limits(seconds=3))
    job = put(store, store.add(GenerationRequest(seconds=1.0), PICTURE), JobState.DONE)
    with pytest.raises(JobStateError) as over:
        store.cancel(job.id)
    assert sayings.problem(LANGUAGES["zh"], over.value) == "这个任务已经结束，无需取消。"
    with pytest.raises(LimitError) as long:
        store.add(GenerationRequest(seconds=9.0), PICTURE)
    assert sayings.problem(LANGUAGES["ja"], long.value).startswith("9 秒は長すぎます。")
