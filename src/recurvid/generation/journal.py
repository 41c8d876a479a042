"""Journal: the durable record of one session, a folder.

::

    request.json              what was asked
    picture.jpg               a copy of the start picture (end_picture.png where there is one)
    local.json                what concerns this machine: output, device, model folder
    fingerprint.json          weights and code that made what lies here
    plan.json                 the request with every default filled in, sections, frames, size
    conditioning.safetensors  embeddings and the latents of the given pictures
    sections/0007.safetensors latents of the eighth section
    video/0007.000000-000036.mp4   frames 0 to 35, which became final with the eighth section
    video/0007.000037-000073.provisional.mp4   frames to look at until theirs are final
    so_far.mp4                the video so far, one file; so_far.json: which segments it holds
    finished.json             written last

Each file is written beside, synced and renamed, so a file that is there is whole. Nothing here
imports torch: the folder stands, with request and picture, before that takes its seconds.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recurvid import durable
from recurvid.errors import RequestError, SessionError
from recurvid.generation.advice import resume_command
from recurvid.generation.local import Local
from recurvid.generation.lock import folder_lock
from recurvid.generation.request import GenerationRequest

_LARGEST_JSON = 64_000_000
_SEGMENT = re.compile(r"(\d{4,})\.(\d{6,})-(\d{6,})\.[a-z0-9]+")
#: Before the suffix of a segment that is no part of the result.
PROVISIONAL = ".provisional"
_PROVISIONAL = re.compile(_SEGMENT.pattern.replace(r"\.[", rf"\{PROVISIONAL}\.["))
_OURS = re.compile(r"(end_)?picture(\.[a-z0-9]{1,8})?|local\.json|lock|\.recurvid-.*\.partial.*")


@dataclass(frozen=True)
class Segment:
    """A finished piece of video: timeline ``frames`` that became final with ``section``."""

    path: Path
    section: int
    frames: range


class Journal:
    """One session folder. Reading never changes it; writing is atomic, file by file."""

    def __init__(self, folder: Path):
        self.folder = folder

    @staticmethod
    def create(
        folder: Path,
        request: GenerationRequest,
        local: Local,
        picture: Path,
        end_picture: Path | None = None,
    ) -> Journal:
        """Start a session; ``request.json`` comes last and makes the folder a session.

        Interrupted before that, it takes its files back.

        Raises:
            SessionError: the folder holds a session or something else, or cannot be written.
        """
        refuse_used_folder(folder)
        journal, begun = Journal(folder), False
        try:
            journal.sections_folder.mkdir(parents=True, exist_ok=True)
            journal.video_folder.mkdir(exist_ok=True)
            durable.sync_folder(folder.parent)
            with folder_lock(folder):
                refuse_used_folder(folder)  # again, now that nobody else can be starting in it
                begun = True
                _copy(picture, folder / f"picture{_suffix(picture)}")
                if end_picture is not None:
                    _copy(end_picture, folder / f"end_picture{_suffix(end_picture)}")
                durable.write_json(folder / "local.json", asdict(local))
                durable.write_json(folder / "request.json", request.to_json())
        except BaseException as error:
            if begun and not journal.has("request.json"):
                with suppress(OSError):
                    journal.discard()
            if isinstance(error, OSError):
                raise SessionError(
                    f"cannot start a session in {folder}: {error.strerror or error}"
                ) from None
            raise
        return journal

    @staticmethod
    def open(folder: Path) -> Journal:
        """An existing session.

        Raises:
            SessionError: there is none, or what makes it one is missing.
        """
        try:
            if not folder.is_dir():
                raise SessionError(f"there is no session folder {folder}")
            if not (folder / "request.json").is_file():
                raise SessionError(f"{folder} is not a session folder (it has no request.json)")
        except PermissionError as error:
            raise SessionError(f"session folder {folder}: {error.strerror}") from None
        journal = Journal(folder)
        _ = journal.request, journal.local, journal.picture
        return journal

    def discard(self) -> None:
        """Take a session back that has made nothing: its request turned out to be impossible."""
        for path in self.folder.iterdir():
            if path.is_file() and (path.name == "request.json" or _OURS.fullmatch(path.name)):
                path.unlink()
        for folder in (self.sections_folder, self.video_folder, self.folder):
            with suppress(OSError):  # not empty: something is there that is not ours
                folder.rmdir()

    def sweep(self) -> None:
        """Remove what killed writers left behind. Only under the lock."""
        for folder in (self.folder, self.sections_folder, self.video_folder):
            folder.mkdir(exist_ok=True)
            durable.sweep(folder)

    @property
    def sections_folder(self) -> Path:
        """Latents, a file a section."""
        return self.folder / "sections"

    @property
    def video_folder(self) -> Path:
        """Segments of video."""
        return self.folder / "video"

    @property
    def request(self) -> GenerationRequest:
        """What was asked."""
        try:
            return GenerationRequest.from_untrusted(self.read_json("request.json"))
        except RequestError as error:
            raise SessionError(f"{self.folder / 'request.json'}: {error}") from None

    @property
    def local(self) -> Local:
        """What concerns this machine."""
        values = self.read_json("local.json")
        try:
            return Local.from_json(values)
        except ValueError as error:
            raise SessionError(f"{self.folder / 'local.json'} {error}") from None

    def write_local(self, local: Local) -> None:
        """Replace what concerns this machine (a resume may send the result elsewhere)."""
        self.write_json("local.json", asdict(local))

    @property
    def picture(self) -> Path:
        """The copy of the start picture."""
        found = self._find("picture")
        if found is None:
            raise SessionError(f"the session {self.folder} has lost its picture")
        return found

    @property
    def end_picture(self) -> Path | None:
        """The copy of the end picture, None where none was given."""
        return self._find("end_picture")

    @property
    def conditioning_path(self) -> Path:
        """Embeddings and given latents."""
        return self.folder / "conditioning.safetensors"

    def section_path(self, index: int) -> Path:
        """Latents of a section."""
        return self.sections_folder / f"{index:04d}.safetensors"

    def finished_sections(self) -> int:
        """How many sections' latents are on disk."""
        paths = self.sections_folder.glob("*.safetensors")
        return sum(1 for path in paths if path.stem.isdigit())

    def segment_path(self, section: int, frames: range, suffix: str) -> Path:
        """Where the segment of ``frames`` goes; the name says what it holds."""
        name = f"{section:04d}.{frames.start:06d}-{frames.stop:06d}{suffix}"
        return self.video_folder / name

    def segments(self) -> list[Segment]:
        """Finished segments in timeline order."""
        return self._segments(_SEGMENT)

    def provisional(self) -> list[Segment]:
        """Segments that stand in for frames that are not final, in timeline order."""
        return self._segments(_PROVISIONAL)

    def drop_replaced(self) -> None:
        """Delete provisional segments that have frames which are final by now."""
        final = [segment.frames for segment in self.segments()]
        for segment in self.provisional():
            if any(set(segment.frames).intersection(frames) for frames in final):
                segment.path.unlink(missing_ok=True)

    def _segments(self, pattern: re.Pattern[str]) -> list[Segment]:
        found: list[Segment] = []
        for path in self.video_folder.iterdir() if self.video_folder.is_dir() else ():
            match = pattern.fullmatch(path.name)
            if match is not None:
                section, start, stop = (int(number) for number in match.groups())
                found.append(Segment(path, section, range(start, stop)))
        return sorted(found, key=lambda segment: segment.frames.start)

    def read_json(self, name: str) -> dict[str, Any]:
        """One of the folder's JSON objects.

        Raises:
            SessionError: it is missing or not an object.
        """
        path = self.folder / name
        try:
            if path.exists() and not path.is_file():  # a named pipe would block for good
                raise SessionError(f"{path} is not a regular file")
            if path.stat().st_size > _LARGEST_JSON:
                raise SessionError(f"{path} is too large to be RecurVid's")
            values = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise SessionError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise SessionError(f"{path} is not JSON: {str(error)[:100]}") from None
        if not isinstance(values, dict):
            raise SessionError(f"{path} is not a JSON object")
        return values

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write one of the folder's JSON objects, atomically.

        Raises:
            SessionError: a folder is in the way, or the session may not be written.
        """
        try:
            durable.write_json(self.folder / name, dict(values))
        except (IsADirectoryError, PermissionError) as error:
            raise SessionError(
                f"{self.folder / name} cannot be written: {error.strerror}"
            ) from None

    def has(self, name: str) -> bool:
        """Whether a file of that name stands in the folder."""
        return (self.folder / name).is_file()

    def _find(self, stem: str) -> Path | None:
        pattern = re.compile(rf"{stem}(\.[a-z0-9]{{1,8}})?")
        found = sorted(path for path in self.folder.iterdir() if pattern.fullmatch(path.name))
        return found[0] if found else None


def refuse_used_folder(folder: Path) -> None:
    """Raise unless a session can start in ``folder``: absent, empty, or a start that was killed.

    Raises:
        SessionError: with what to do instead.
    """
    try:
        _refuse_used(folder)
    except PermissionError as error:
        raise SessionError(f"cannot start a session in {folder}: {error.strerror}") from None


def _refuse_used(folder: Path) -> None:
    if (folder / "request.json").exists():
        raise SessionError(
            f"{folder} already holds a session; continue it with: {resume_command(folder)}"
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SessionError(f"{folder} is a file, not a session folder")
    for path in folder.iterdir():
        empty = path.is_dir() and path.name in {"sections", "video"} and not any(path.iterdir())
        if not empty and not _OURS.fullmatch(path.name):
            raise SessionError(
                f"{folder} is not empty ({path.name}) and no session; choose another folder"
            )


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""


def _copy(source: Path, target: Path) -> None:
    with durable.atomic_path(target) as beside:
        shutil.copyfile(source, beside)
