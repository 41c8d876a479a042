from __future__ import annotations

import os
import sys
from fractions import Fraction

import pytest

from recurvid.errors import ComponentError, OutputError
from recurvid.video import encoders
from recurvid.video.destination import check_output, destination, output_note
from recurvid.video.encoders import VideoSettings, exact_fps

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
not_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere"
)


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("a.mp4", "mp4", "a.mp4"),
        ("A.MP4", "mp4", "A.MP4"),
        ("x/b.webm", "webm", "b.webm"),
        ("b.c.gif", "gif", "b.c.gif"),
        ("frames/", "png", "%06d.png"),
        ("frames.mp4/", "png", "%06d.png"),
        ("shot_%05d.png", "png", "shot_%05d.png"),
        ("%d.PNG", "png", "%d.PNG"),
    ],
)
def test_kinds(text, kind, name):
    place = destination(text)
    assert (place.kind, place.path.name) == (kind, name)
    assert place.path.is_absolute()
    assert destination(str(place.path)) == place


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video", "has no ending"),
        ("video.avi", "'.avi' is not known"),
        (".mp4", "has no ending"),
        ("video.mp4.txt", "'.txt' is not known"),
        ("frame.png", "one number"),
        ("%d_%d.png", "one number"),
        ("100%_%d.png", "one number"),
        ("%s.png", "one number"),
        ("%99999d.png", "one number"),
        ("", "not a file name"),
        ("a\0.mp4", "not a file name"),
    ],
)
def test_unknown(text, message):
    with pytest.raises(OutputError, match=message) as caught:
        destination(text)
    assert "\n" not in str(caught.value)


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert destination("~/a.mp4").path == tmp_path / "a.mp4"


def test_frame_names(tmp_path):
    place = destination(tmp_path / "a_%03d.b.png")
    assert place.frame_path(7) == tmp_path / "a_007.b.png"
    assert place.frame_path(12345) == tmp_path / "a_12345.b.png"
    for name in (
        "a_007.b.png",
        "a_12345.b.png",
        "a_7.b.png",
        "a_x.b.png",
        "b_001.b.png",
        "a_.b.png",
    ):
        (tmp_path / name).touch()
    assert [path.name for path in place.frames_there()] == ["a_007.b.png", "a_12345.b.png"]


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "new/", "%04d.png"])
def test_a_good_place_is_left_as_it_was(tmp_path, settings, name):
    place = check_output(f"{tmp_path}/{name}", settings, 64, 96)
    assert place == destination(f"{tmp_path}/{name}")
    assert os.listdir(tmp_path) == []
    assert output_note(place) is None


@pytest.mark.parametrize("name", ["no/a.mp4", "no/a.gif", "no/frames/", "no/deep/%d.png"])
def test_no_such_folder(tmp_path, settings, name):
    with pytest.raises(OutputError, match="no such folder"):
        check_output(f"{tmp_path}/{name}", settings, 64, 96)
    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_way(tmp_path, settings):
    (tmp_path / "a.mp4").mkdir()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="a folder is in the way"):
            check_output(tmp_path / "a.mp4", settings, 64, 96, overwrite=overwrite)


def test_a_file_where_a_folder_should_be(tmp_path, settings):
    (tmp_path / "file").write_text("x")
    for name in ("file/a.mp4", "file/frames/", "file/"):
        with pytest.raises(OutputError, match="is a file, not a folder"):
            check_output(f"{tmp_path}/{name}", settings, 64, 96)


def test_an_existing_file_is_kept_unless_overwritten(tmp_path, settings):
    (tmp_path / "a.mp4").write_bytes(b"work")
    with pytest.raises(OutputError, match="exists already"):
        check_output(tmp_path / "a.mp4", settings, 64, 96)
    check_output(tmp_path / "a.mp4", settings, 64, 96, overwrite=True)
    assert (tmp_path / "a.mp4").read_bytes() == b"work"
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_existing_frames_are_kept_unless_overwritten(tmp_path, settings):
    (tmp_path / "000003.png").touch()
    with pytest.raises(OutputError, match="1 frames stand there already"):
        check_output(f"{tmp_path}/", settings, 64, 96)
    check_output(f"{tmp_path}/", settings, 64, 96, overwrite=True)
    check_output(f"{tmp_path}/other_%d.png", settings, 64, 96)
    assert os.listdir(tmp_path) == ["000003.png"]


@posix
def test_devices_and_dead_links(tmp_path, settings):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(OutputError, match="not a regular file"):
        check_output(tmp_path / "a.mp4", settings, 64, 96, overwrite=True)
    (tmp_path / "b.mp4").symlink_to(tmp_path / "no" / "b.mp4")
    with pytest.raises(OutputError, match="no such folder"):
        check_output(tmp_path / "b.mp4", settings, 64, 96)
    (tmp_path / "c.mp4").symlink_to(tmp_path / "there.mp4")
    check_output(tmp_path / "c.mp4", settings, 64, 96)
    assert not (tmp_path / "there.mp4").exists()


@posix
def test_a_link_to_itself(tmp_path, settings):
    (tmp_path / "a.mp4").symlink_to(tmp_path / "a.mp4")
    with pytest.raises(OutputError, match="cannot be written"):
        check_output(tmp_path / "a.mp4", settings, 64, 96)


@not_root
def test_a_folder_that_may_not_be_written(tmp_path, settings):
    (tmp_path / "locked").mkdir(mode=0o500)
    for name in ("a.mp4", "%d.png", "frames/"):
        with pytest.raises(OutputError, match="cannot be written"):
            check_output(f"{tmp_path}/locked/{name}", settings, 64, 96)


def test_a_refusal_of_the_system_is_one_line(tmp_path, settings, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(OutputError, match=r"cannot be written \(Permission denied\)"):
        check_output(tmp_path / "a.mp4", settings, 64, 96)


def test_a_name_that_is_too_long(tmp_path, settings):
    with pytest.raises(OutputError, match="cannot be written"):
        check_output(tmp_path / ("n" * 300 + ".mp4"), settings, 64, 96)


@pytest.mark.parametrize(("height", "width"), [(63, 64), (0, 64)])
def test_impossible_sizes(tmp_path, settings, height, width):
    with pytest.raises(OutputError, match="must be even"):
        check_output(tmp_path / "a.mp4", settings, height, width)


def test_an_encoder_that_refuses_is_found_out_at_once(tmp_path, settings):
    with pytest.raises(OutputError, match="cannot be written with libx264"):
        check_output(tmp_path / "a.mp4", settings, 32768, 32)


def test_missing_encoders(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(encoders, "_available", lambda name: name == "mpeg4")
    assert "mpeg4" in (output_note(check_output(tmp_path / "a.mp4", settings, 64, 96)) or "")
    with pytest.raises(ComponentError, match="webm"):
        check_output(tmp_path / "a.webm", settings, 64, 96)


def test_segments_of_other_kinds_are_nearly_lossless(settings):
    assert destination("a.mp4").segment_settings(settings) == settings
    better = destination("a.gif").segment_settings(settings)
    assert better.crf < settings.crf
    assert better.fps == Fraction(12)


def test_a_folder_with_other_things_is_not_filled_with_frames(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "notes.txt").write_text("mine")
    settings = VideoSettings(exact_fps(12))
    with pytest.raises(OutputError, match=r"results/video\.mp4"):
        check_output(f"{tmp_path}/results/", settings, 64, 64, overwrite=True)
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["notes.txt"]
