from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from recurvid import durable


def test_writes_whole_and_leaves_nothing_beside(tmp_path):
    target = tmp_path / "a.bin"
    durable.write_bytes(target, b"one")
    durable.write_bytes(target, b"two")
    assert target.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a.bin"]


def half_written(target):
    with durable.atomic_path(target) as beside:
        assert beside.suffix == ".mp4"
        assert beside.parent == target.parent
        assert not beside.exists()
        beside.write_bytes(b"half")
        raise RuntimeError("stop")


def test_error_in_the_body_keeps_the_old_file(tmp_path):
    target = tmp_path / "a.mp4"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"):
        half_written(target)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_json_is_utf8_and_refuses_nan(tmp_path):
    target = tmp_path / "a.json"
    durable.write_json(target, {"b": "\u00e9\U0001f600", "a": [1, 2.5, None]})
    assert json.loads(target.read_text("utf-8")) == {"b": "\u00e9\U0001f600", "a": [1, 2.5, None]}
    assert list(json.loads(target.read_text("utf-8"))) == ["b", "a"]
    with pytest.raises(ValueError, match="JSON"):
        durable.write_json(target, {"x": float("nan")})
    assert json.loads(target.read_text("utf-8"))["a"] == [1, 2.5, None]


def test_a_name_as_long_as_the_file_system_takes(tmp_path):
    target = tmp_path / ("n" * 251 + ".mp4")
    durable.write_bytes(target, b"x")
    assert target.read_bytes() == b"x"


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege on Windows")
def test_follows_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "a")
    durable.write_bytes(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "a").read_bytes() == b"x"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_new_files_get_the_usual_permissions(tmp_path):
    durable.write_bytes(tmp_path / "a", b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        durable.write_bytes(tmp_path / "no" / "a", b"x")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_writer_leaves_the_old_file_and_a_sweepable_rest(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    code = (
        "import sys, time; from recurvid import durable\n"
        "with durable.atomic_path(sys.argv[1]) as beside:\n"
        "    beside.write_bytes(b'half'); print('written', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert target.read_bytes() == b"old"
    assert len(durable.sweep(tmp_path)) == 1
    assert os.listdir(tmp_path) == ["a.bin"]


def test_sweep_takes_only_our_leftovers(tmp_path):
    for name in (".recurvid-00ff.partial.mp4", "video.mp4", ".hidden", "x.partial"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in durable.sweep(tmp_path)] == [".recurvid-00ff.partial.mp4"]
    assert len(os.listdir(tmp_path)) == 3


def test_what_is_passing_is_written_or_let_be(tmp_path, monkeypatch):
    path = tmp_path / "preview.webp"
    assert durable.write_passing(path, b"one")
    assert not durable.write_passing(tmp_path / "nowhere" / "preview.webp", b"two")

    def refuse(*_):
        raise PermissionError("somebody looks at it")

    monkeypatch.setattr(os, "replace", refuse)
    assert not durable.write_passing(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["preview.webp"]


def test_the_module_stays_light():
    code = "import sys; import recurvid.durable; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
