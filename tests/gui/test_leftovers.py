"""Uploads that a page leaves behind: those of dead processes go, and nothing beside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recurvid.gui.leftovers import clear_abandoned, uploads_folder

PAGE = """
import sys
from pathlib import Path
from recurvid.gui.leftovers import uploads_folder
with uploads_folder(Path(sys.argv[1])) as uploads:
    (uploads / "picture.png").write_bytes(b"a private picture")
    print(uploads, flush=True)
    sys.stdin.read()
"""


def page(place: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a folder for uploads, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", PAGE, str(place)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def killed(place: Path) -> Path:
    """What a killed page leaves."""
    process, uploads = page(place)
    process.kill()
    process.communicate()
    assert (uploads / "picture.png").is_file()
    return uploads.parent


def test_an_end_leaves_nothing(tmp_path: Path):
    process, uploads = page(tmp_path)
    assert uploads.is_dir()
    process.communicate("")
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_next_page_clears_what_a_killed_one_left(tmp_path: Path):
    left = killed(tmp_path)
    with uploads_folder(tmp_path) as uploads:
        assert not left.exists()
        assert list(tmp_path.iterdir()) == [uploads.parent]


def test_a_page_that_runs_keeps_its_uploads(tmp_path: Path):
    process, uploads = page(tmp_path)
    assert clear_abandoned(tmp_path) == []
    assert (uploads / "picture.png").is_file()
    process.communicate("")


@pytest.mark.skipif(sys.platform == "win32", reason="numbers of processes are of Unix")
def test_the_lock_keeps_what_the_number_would_give_up(tmp_path: Path):
    """As in a container beside ours: its process has a number that nobody has here."""
    process, uploads = page(tmp_path)
    (uploads.parent / "process").write_text(f"{2**22 + 1} ")
    assert clear_abandoned(tmp_path) == []
    assert (uploads / "picture.png").is_file()
    process.communicate("")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc tells when one began")
def test_a_number_that_another_process_has_now_keeps_nothing(tmp_path: Path):
    left = killed(tmp_path)
    mark = left / "process"
    mark.write_text(f"{os.getpid()} {mark.read_text().split()[1]}")
    assert clear_abandoned(tmp_path) == [left]


def test_links_and_folders_without_a_mark_stay(tmp_path: Path):
    place, elsewhere = tmp_path / "tmp", tmp_path / "elsewhere"
    place.mkdir()
    left = killed(place)
    left.rename(elsewhere)
    (place / "recurvid-page-link").symlink_to(elsewhere)
    (place / "recurvid-page-none").mkdir()
    odd = place / "recurvid-page-odd"
    odd.mkdir()
    (odd / "process").symlink_to(elsewhere / "process")
    strange = place / "recurvid-page-strange"
    strange.mkdir()
    (strange / "process").write_text("no number")
    assert clear_abandoned(place) == []
    assert (elsewhere / "uploads" / "picture.png").is_file()
    assert len(list(place.iterdir())) == 4


def test_what_a_link_among_uploads_leads_to_stays(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    left = killed(tmp_path)
    (left / "uploads" / "link").symlink_to(outside)
    assert clear_abandoned(tmp_path) == [left]
    assert (outside / "kept").is_file()
