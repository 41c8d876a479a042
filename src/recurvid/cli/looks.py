"""A moving look at the section in the making, beside the session."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from recurvid import durable
from recurvid.events import Event, Preview
from recurvid.generation.session import GenerationSession
from recurvid.jobs.session_executor import Looks

NAME = "preview.webp"


def kept(session: GenerationSession, events: Iterable[Event]) -> Generator[Event, None, None]:
    """The same events; every look that comes not too soon after the last is written."""
    looks = Looks(session)
    for event in events:
        if isinstance(event, Preview) and (look := looks.of(event)) is not None:
            durable.write_passing(session.journal.folder / NAME, look.picture)
        yield event
