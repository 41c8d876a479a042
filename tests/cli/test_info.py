from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import run

from recurvid.checkpoints.known import KNOWN
from recurvid.cli import examination
from recurvid.cli.tables import printable
from recurvid.video.assembly import concatenate

Capsys = pytest.CaptureFixture[str]
RELEASED = "f1k1_x_g9_f1k1f2k2f16k4_td"


def test_a_schedule(capsys: Capsys) -> None:
    ran = run(capsys, "info", RELEASED)
    assert ran.code == 0
    assert "17,966" in ran.out
    assert "history f16k4" in ran.out
    assert "█" in ran.out


def test_a_schedule_for_machines(capsys: Capsys) -> None:
    (record,) = run(capsys, "info", RELEASED, "--json").records
    assert record["tokens"] == {
        "anchor f1k1": 1560,
        "target g9": 14040,
        "history f1k1": 1560,
        "history f2k2": 390,
        "history f16k4": 416,
        "total": 17966,
    }
    (record,) = run(capsys, "info", RELEASED, "--size", "64x64", "--json").records
    assert record["tokens"]["target g9"] == 9 * 16


def test_a_plan_is_drawn(capsys: Capsys) -> None:
    ran = run(capsys, "info", "--seconds", "9", "--model", "framepack", "--size", "832x480")
    assert "8 sections, 270 frames at 30 fps = 9.00 s, 832x480" in ran.out
    rows = [line for line in ran.out.splitlines() if "▏" in line]
    assert len(rows) == 8
    # Inverted: the first row makes the end, the last touches the picture.
    assert rows[0].rstrip().endswith("█▕ gap 27")
    assert "◆█" in rows[-1]
    made = [row.index("█") for row in rows]
    assert made == sorted(made, reverse=True)


@pytest.mark.parametrize("sections", [1, 25, 100, 2000])
def test_a_plan_of_any_length_fits_the_terminal(capsys: Capsys, sections: int) -> None:
    ran = run(capsys, "info", "--seconds", str(sections * 3), "--model", "bundled")
    lines = ran.out.splitlines()
    assert len(lines) < 40
    assert max(len(line) for line in lines) < 110
    assert f"{sections} section" in lines[0]


@pytest.mark.parametrize(
    ("order", "schedule", "first"),
    [
        ("forward", "f1k1_f16k4f2k2f1k1_g9", "◆█████████"),
        ("endpoint", "td_f16k4f4k2f1k1_g9_x_f1k1", "▒█"),
        ("planned", "td_f16k4f4k2f1k1_g9_x_f1k1", "▒█"),
    ],
)
def test_other_orders(capsys: Capsys, order: str, schedule: str, first: str) -> None:
    ran = run(capsys, "info", "--order", order, "--schedule", schedule)
    rows = [line for line in ran.out.splitlines() if "▏" in line]
    assert f"▏{first}" in rows[0]


def test_a_plan_for_machines(capsys: Capsys) -> None:
    (record,) = run(capsys, "info", "--seconds", "3", "--whole-sections", "--model", "framepack",
                    "--json").records  # fmt: skip
    assert record["frames"] == 73
    assert len(record["sections"]) == 2
    assert record["tokens"]["total"] > 10_000


def test_a_video(capsys: Capsys, work: Path, quick: list[str]) -> None:
    run(capsys, "generate", "photo.png", "--prompt", "a [bold]walk[/]", *quick)
    ran = run(capsys, "info", "photo.mp4")
    assert "48 frames at 12 fps = 4.00 s, 64x48, h264" in ran.out
    assert "a [bold]walk[/]" in ran.out
    (record,) = run(capsys, "info", "photo.mp4", "--json").records
    assert record["request"]["prompt"] == "a [bold]walk[/]"
    assert str(work) not in str(record["request"])


def test_a_video_of_somebody_else(capsys: Capsys, work: Path, quick: list[str]) -> None:
    run(capsys, "generate", "photo.png", *quick, "--no-metadata")
    ran = run(capsys, "info", "photo.mp4")
    assert ran.code == 0
    assert "no request" in ran.out


def test_a_hostile_request_in_a_video(capsys: Capsys, work: Path, quick: list[str]) -> None:
    run(capsys, "generate", "photo.png", *quick, "--no-metadata", "--out", "plain.mp4")
    for request in ({"model": "/etc/passwd"}, {"x": 1}, [], "x", {"seed": 1e99}):
        concatenate([work / "plain.mp4"], work / "bad.mp4", metadata={"request": request})
        for command in (["info", "bad.mp4"], ["generate", "photo.png", "--like", "bad.mp4"]):
            ran = run(capsys, *command)
            assert ran.code == 2
            assert len(ran.err.splitlines()) == 1


def test_a_hostile_version_in_a_video(capsys: Capsys, work: Path, quick: list[str]) -> None:
    run(capsys, "generate", "photo.png", *quick, "--no-metadata", "--out", "plain.mp4")
    said = {"version": "1\x1b]0;title\x07\nlast", "request": {}}
    concatenate([work / "plain.mp4"], work / "bad.mp4", metadata=said)
    ran = run(capsys, "info", "bad.mp4")
    assert ran.code == 0
    assert not {"\x1b", "\x07"} & set(ran.out)
    assert "made by RecurVid 1\N{REPLACEMENT CHARACTER}]0;title" in ran.out
    assert next(line for line in ran.out.splitlines() if "last" in line).startswith("made by")


def test_a_session_with_a_broken_plan(capsys: Capsys, work: Path, quick: list[str]) -> None:
    run(capsys, "generate", "photo.png", *quick, "--session", "s")
    (work / "s/plan.json").write_text('{"sections": 3, "frames": "x"}')
    ran = run(capsys, "info", "s")
    assert ran.code == 6
    assert "plan.json is not a plan" in ran.err


def test_models_for_machines_are_a_line_each(capsys: Capsys) -> None:
    ran = run(capsys, "models", "--json")
    assert [record["name"] for record in ran.records] == list(KNOWN)
    (record,) = run(capsys, "models", "get", "bundled", "--json").records
    assert record["name"] == "bundled"


def test_control_characters_are_not_printed() -> None:
    assert (
        printable("a\x1b]0;title\x07b\nc")
        == "a\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}b\nc"
    )


def test_a_session(capsys: Capsys, work: Path, quick: list[str]) -> None:
    run(capsys, "generate", "photo.png", "--prompt", "a walk", *quick, "--session", "s")
    ran = run(capsys, "info", "s")
    assert "finished; 48 frames" in ran.out
    (work / "s/finished.json").unlink()
    (work / "s/sections/0001.safetensors").unlink()
    (record,) = run(capsys, "info", "s", "--json").records
    assert (record["sections"], record["sections_done"], record["finished"]) == (2, 1, False)


def test_doctor(capsys: Capsys) -> None:
    ran = run(capsys, "doctor")
    assert ran.code == 0
    for word in ("torch", "cpu", "sdpa", "reference", "free", "bundled", "framepack-f1"):
        assert word in ran.out
    (record,) = run(capsys, "doctor", "--json").records
    assert record["devices"][0]["chosen"] is True
    assert record["memory"]["total"] > record["memory"]["available"] > 0
    why = {model["name"]: model["why_not"] for model in record["models"]}
    assert "recurvid models get framepack" in why["framepack"]


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 6), ["sm_80", "sm_90"], True),  # code for 8.0 runs on 8.6
        ((12, 0), ["sm_80", "sm_90"], False),  # RTX 50 with an older build
        ((12, 0), ["sm_80", "sm_90", "compute_90"], True),  # PTX is compiled for it
        ((12, 0), ["sm_90", "sm_120"], True),
        ((6, 1), ["sm_75", "sm_80", "compute_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 4), ["gfx942"], False),
    ],
)
def test_a_card_that_this_torch_has_no_code_for(
    capability: tuple[int, int], built_for: list[str], runs: bool
) -> None:
    reason = examination.cuda_why_not(capability, built_for)
    assert (reason is None) is runs
    assert examination.cuda_why_not(capability, built_for, rocm="6.4") is None
    if reason:
        assert "CUDA 12.8" in reason


@pytest.mark.parametrize(
    ("device", "memory", "part"),
    [
        ({"device": "cpu", "memory": None}, 25e9, "text encoder needs 30 GB"),
        ({"device": "cpu", "memory": None}, 64e9, None),
        ({"device": "cuda:0", "memory": 24e9}, 64e9, "transformer needs 26 GB"),
        ({"device": "cuda:0", "memory": 80e9}, 16e9, None),
        ({"device": "mps", "memory": None}, None, None),
    ],
)
def test_a_model_that_is_too_large_is_said_to_be(
    device: dict[str, Any], memory: float | None, part: str | None
) -> None:
    available = None if memory is None else int(memory)
    sizes = {"total": available, "available": available}
    reason = examination._too_large(KNOWN["framepack"], device, sizes)
    assert (reason is None) == (part is None)
    if part:
        assert part in str(reason)
    assert examination._too_large(KNOWN["bundled"], device, sizes) is None
