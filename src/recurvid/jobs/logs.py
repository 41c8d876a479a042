"""Logs as JSON, one object a line: facts by name, no bodies, no keys, no query strings."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from io import TextIOBase
from typing import Any, cast

_USUAL = set(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime"}
_LOUD = ("uvicorn.access", "python_multipart", "multipart", "PIL")


class JsonLines(logging.Formatter):
    """A record with its ``extra`` facts as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, ASCII only, so that nothing in it can steer a terminal or fake a line."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:2000],
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _USUAL}
        line.pop("color_message", None)
        if record.exc_info and record.exc_info[1] is not None:
            line["trace"] = "".join(traceback.format_exception(record.exc_info[1]))[-8000:]
        return json.dumps(line, default=str)


def log_to(stream: TextIOBase | None = None, level: int = logging.INFO) -> None:
    """Send the logs of this process to a stream (stderr) as JSON lines. Only a program calls it."""
    handler = logging.StreamHandler(cast(Any, stream or sys.stderr))
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)
