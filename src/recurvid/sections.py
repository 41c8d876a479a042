"""Section and SectionPlan: what is generated, in which order, from what.

Timeline positions are absolute latent frame numbers; 0 is the start picture.
"""

from __future__ import annotations

from dataclasses import dataclass

ABSENT = -(2**31)
"""A timeline position that never exists. Plans put it where a slot must stay a zero latent: nothing
that is still to be made, or lies behind the end, may be seen, not even in a training clip."""


@dataclass(frozen=True)
class Section:
    """One denoising run.

    Attributes:
        index: 0-based number in the order of generation (names the noise and the journal entry).
        target: timeline latent frames that it makes, contiguous.
        gap: latent frames that the layout leaves unfilled at ``x`` (not padding; 0 without ``x``).
        history: timeline position of every history slot in *timeline order*, the slots of the
            schedule's history groups; a position that does not exist yet, or never will, stands
            for a zero latent.
        anchors: timeline position of every anchor slot in timeline order.
        prompt: which of the request's prompts conditions it.
        lead: frames of the same run that are made together but lie elsewhere on the timeline
            (endpoint order makes frame 1 *and* the end in its first run); empty otherwise.
    """

    index: int
    target: range
    gap: int
    history: tuple[int, ...]
    anchors: tuple[int, ...]
    prompt: int = 0
    lead: tuple[int, ...] = ()

    @property
    def frames(self) -> tuple[int, ...]:
        """Timeline position of every frame that it makes, in the order of the latent tensor."""
        return (*self.lead, *self.target)


@dataclass(frozen=True)
class SectionPlan:
    """The ordered whole.

    Attributes:
        order: name of the order that made it.
        schedule: the packing schedule as a string.
        sections: in order of generation.
        latent_frames: length of the finished timeline, start picture included.
        given: timeline positions that exist before anything is generated (the start picture at 0,
            an end picture one past the last frame, ...).
    """

    order: str
    schedule: str
    sections: tuple[Section, ...]
    latent_frames: int
    given: tuple[int, ...] = (0,)
