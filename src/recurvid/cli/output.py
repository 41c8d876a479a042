"""Where a command's words go: results to stdout, everything about the way there to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console


@dataclass(frozen=True)
class Output:
    """One command's output.

    With ``as_json`` stdout carries JSON objects, one a line, and nothing else; without it, text
    for people.
    """

    as_json: bool = False
    quiet: bool = False

    @property
    def result(self) -> Console:
        """Console of the results (stdout)."""
        return Console(file=sys.stdout, soft_wrap=True, highlight=False)

    @property
    def notes(self) -> Console:
        """Console of everything else (stderr)."""
        return Console(file=sys.stderr, soft_wrap=True, highlight=False, quiet=self.quiet)

    def record(self, values: Mapping[str, Any]) -> None:
        """One JSON object on one line of stdout, flushed at once."""
        # ASCII, because a pipe on Windows may speak any old code page.
        sys.stdout.write(json.dumps(dict(values)) + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """A line for people, left out under ``--json`` and ``--quiet``."""
        if not self.as_json:
            self.notes.print(text, markup=False)
