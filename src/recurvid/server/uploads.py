"""Forms with pictures, read within bounds. A user's file name is a title and never a path."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from recurvid.server.problems import Problem

_LARGEST_TEXT = 262_144
_LARGEST_JSON = 16_000_000
_MOST_FIELDS = 64
_MOST_FILES = 2


class Upload:
    """A file as it came. A large one lies in a nameless file on disk until it is read.

    Args:
        name: as the user called it.
        content: the bytes, or what holds them.
    """

    def __init__(self, name: str, content: bytes | UploadFile):
        self.name, self._content = name, content

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._content) if isinstance(self._content, bytes) else self._content.size or 0

    async def read(self) -> bytes:
        """The whole of it; once, and within the block of its form."""
        return self._content if isinstance(self._content, bytes) else await self._content.read()


@dataclass(frozen=True)
class Form:
    """Texts and files of one form, each name once."""

    texts: Mapping[str, str]
    files: Mapping[str, Upload]

    def only(self, texts: Iterable[str], files: Iterable[str]) -> Form:
        """The same form; Problem when it has anything else."""
        for name in self.texts:
            if name not in texts:
                what = "needs a file" if name in files else "is not a field"
                raise Problem(400, f"{name[:60]}: {what}", parameter=name[:60])
        for name in self.files:
            if name not in files:
                what = "takes no file" if name in texts else "is not a field"
                raise Problem(400, f"{name[:60]}: {what}", parameter=name[:60])
        return self


def kind_of_body(request: Request) -> str:
    """The media type of a body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def read_form(request: Request) -> AsyncGenerator[Form]:
    """The form in a body; its files are there until the block ends.

    Raises:
        Problem: not a form, malformed, a name twice, too many parts.
    """
    if kind_of_body(request) != "multipart/form-data":
        raise Problem(415, "the body must be multipart/form-data")
    texts: dict[str, str] = {}
    files: dict[str, Upload] = {}
    form = request.form(max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_LARGEST_TEXT)
    async with form as parts:
        for name, value in parts.multi_items():
            if name in texts or name in files:
                raise Problem(400, f"{name[:60]}: is given twice", parameter=name[:60])
            if isinstance(value, UploadFile):
                files[name] = Upload(value.filename or "", value)
            else:
                texts[name] = value
        yield Form(texts, files)


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object in a body; Problem for anything else, and for more than 16 MB."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _LARGEST_JSON:
            raise Problem(413, "the body is too large for JSON; upload the picture in a form")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise Problem(400, "the body is not JSON") from None
    if not isinstance(values, dict):
        raise Problem(400, "the body must be a JSON object")
    return values


def from_json_text(text: str, name: str) -> object:
    """A JSON value out of one text of a form; Problem when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Problem(400, f"{name}: is not JSON", parameter=name) from None


def from_data_url(text: object, name: str) -> Upload:
    """The bytes of a ``data:`` address. Others are refused: this server fetches nothing."""
    head, comma, body = text.partition(",") if isinstance(text, str) else ("", "", "")
    if not (head.lower().startswith("data:") and head.lower().endswith(";base64") and comma):
        message = f"{name}: only data:...;base64, addresses are read; upload the file instead"
        raise Problem(400, message, parameter=name)
    try:
        return Upload("", base64.b64decode(body, validate=True))
    except (binascii.Error, ValueError):
        raise Problem(400, f"{name}: is not base64", parameter=name) from None
