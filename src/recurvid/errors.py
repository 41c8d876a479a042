"""Every error that RecurVid raises on purpose.

RecurVidError
├── InputError            what the user gave cannot be used; one line says which, and what to do
│   ├── ScheduleError     a packing schedule does not parse; points at the character
│   ├── PictureError      a picture cannot be read or has an impossible size
│   ├── RequestError      a field of a generation request is wrong
│   ├── OutputError       the result cannot be written where it was asked for
│   └── LimitError        more than this queue takes: size, length, jobs, disk
├── CheckpointError       a model file is missing, truncated, mismatched or of a refused kind
├── ComponentError        a piece of the machine (device, kernel, extra) is not there
├── SessionError          a session folder cannot be used or resumed
├── JobError              a job cannot do what it was asked
│   ├── UnknownJobError   there is no such job, or it belongs to somebody else
│   ├── JobStateError     the job is in a state in which that is not possible
│   └── StaleClaimError   a worker writes to a job that is no longer its own
└── NumericsError         NaN or infinity where a picture should be
"""

from __future__ import annotations

from typing import Any


class Line(str):
    """One line for a user in English, with what is needed to say it in another language.

    Whoever knows no better treats it as the text that it is.

    Args:
        text: the line.
        key: names what it says, "" for a line that is said in English only.
        values: what it names, as JSON has it: names of fields, sizes, what somebody typed.
    """

    key: str
    values: dict[str, Any]

    def __new__(cls, text: str, key: str = "", /, **values: Any) -> Line:
        """See the class."""
        made = super().__new__(cls, text)
        made.key, made.values = key, values
        return made

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"text": str(self), "key": self.key, "values": self.values}

    @staticmethod
    def from_json(said: object) -> Line:
        """Read what :meth:`to_json` made; a plain text stays one, anything else is as text."""
        match said:
            case {"text": str(text), "key": str(key), "values": dict(values)}:
                return Line(text, key, **{str(name): value for name, value in values.items()})
            case _:
                return Line(str(said))


class RecurVidError(Exception):
    """Base class. ``str(error)`` is one line for a user; the command line prints it and exits.

    Args:
        message: the line, in English.
        key, values: as of a :class:`Line`.
    """

    exit_code = 1

    def __init__(self, message: str = "", key: str = "", /, **values: Any):
        super().__init__(Line(message, key, **values) if key else message)

    @property
    def line(self) -> Line:
        """The same line, with its key where it was raised with one."""
        said = self.args[0] if self.args else ""
        return said if isinstance(said, Line) else Line(str(self))


class InputError(RecurVidError, ValueError):
    """What the user gave cannot be used."""

    exit_code = 2


class ScheduleError(InputError):
    """A packing schedule is malformed.

    Args:
        reason: what is wrong, without the text itself.
        text: the schedule as given.
        position: 0-based index of the offending character.
    """

    def __init__(self, reason: str, text: str, position: int):
        self.reason, self.text, self.position = reason, text, position
        super().__init__(
            f"packing schedule {text!r}: {reason} (character {position + 1})",
            "schedule",
            text=text,
            reason=reason,
            position=position + 1,
        )

    def pointer(self) -> str:
        """The schedule with a caret under the offending character, two lines."""
        return f"{self.text}\n{' ' * self.position}^"


class PictureError(InputError):
    """A picture cannot be read or used."""


class RequestError(InputError):
    """A field of a generation request is wrong or unknown."""


class OutputError(InputError):
    """The result cannot be written where it was asked for."""

    exit_code = 3


class LimitError(InputError):
    """More than a queue takes.

    Args:
        code: a word for programs, such as "queue_full"; the key of the line too.
        message: one line for people.
        values: what the line names.
    """

    def __init__(self, code: str, message: str, /, **values: Any):
        self.code = code
        super().__init__(message, code, **values)


class CheckpointError(RecurVidError):
    """A model file is missing, truncated, mismatched, or of a kind that is never opened."""

    exit_code = 4


class ComponentError(RecurVidError):
    """A device, kernel library or optional extra that was asked for is not there."""

    exit_code = 5


class SessionError(RecurVidError):
    """A session folder cannot be used or resumed."""

    exit_code = 6


class JobError(RecurVidError):
    """A job cannot do what it was asked."""

    exit_code = 2


class UnknownJobError(JobError):
    """There is no such job, or it belongs to somebody else."""


class JobStateError(JobError):
    """The job is in a state in which that is not possible."""


class StaleClaimError(JobError):
    """A worker writes to a job that another one may have taken meanwhile."""


class NumericsError(RecurVidError):
    """NaN or infinity appeared where a picture should be."""

    exit_code = 7
