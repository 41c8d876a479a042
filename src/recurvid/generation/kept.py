"""KeptModel: what one session has loaded, for the next one that would load the same.

Loading 13 billion weights takes minutes, lending them takes none, and the bits are those of a fresh
load: same files, same runtime, same place. Encoders are not kept, as they come and go within a
session.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch

from recurvid.generation.components import Components
from recurvid.memory.machine import available_memory
from recurvid.memory.residency import free

#: Encoders on a CPU are cast to twice the bytes of their files.
_CAST = 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Origin:
    """What a loaded model was made from, and for; only the very same is served by it."""

    files: tuple[tuple[str, int, int, int], ...]
    runtime: Hashable
    dtype: Hashable
    layout: Hashable

    @staticmethod
    def of(components: Components) -> _Origin | None:
        """None where a file is gone: loading will say so."""
        paths = [path for role in sorted(components.weights) for path in components.weights[role]]
        try:
            stats = [path.stat() for path in paths]
        except OSError:
            return None
        layout = components.layout
        return _Origin(
            tuple(
                (str(path), found.st_size, found.st_mtime_ns, found.st_ino)
                for path, found in zip(paths, stats, strict=True)
            ),
            components.runtime,
            components.dtype,
            None if layout is None else layout.plan,
        )


@dataclass(frozen=True)
class _Kept:
    origin: _Origin
    parts: dict[str, Any]
    device: torch.device
    held: int


class KeptModel:
    """At most one model, of one thread. What it lends is the borrower's until given back."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None
        self._asked: _Origin | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to lend."""
        return self._kept is None

    @property
    def held(self) -> int:
        """Bytes of system memory that a plan may count as free: they are given up if it differs."""
        return 0 if self._kept is None else self._kept.held

    def lend(self, components: Components) -> bool:
        """Give new components what they would load anew; free it if that is something else.

        Returns:
            Whether they have a backbone now.
        """
        self._asked = _Origin.of(components)
        kept = self._kept
        if kept is None:
            return False
        if kept.origin != self._asked or not _has_room(components):
            del kept
            self.drop()
            return False
        self._kept = None
        if components.layout is not None:
            components.layout.join(kept.parts["backbone"])
        vars(components).update(kept.parts)
        logger.info("the model is there already")
        return True

    def keep(self, components: Components) -> None:
        """Take what components have loaded, when their session has ended in good order."""
        origin, self._asked = self._asked, None
        layout = components.layout
        # A codec under a budget belongs to its session's turns, and is small.
        names = ("backbone", "codec") if layout is None else ("backbone",)
        parts = {name: vars(components)[name] for name in names if name in vars(components)}
        if "backbone" not in parts or origin is None or origin != _Origin.of(components):
            return
        held = 0 if layout is None else layout.held(parts["backbone"])
        self._kept = _Kept(origin, parts, components.device, held)

    def drop(self) -> None:
        """Free it."""
        kept, self._kept = self._kept, None
        if kept is not None:
            device = kept.device
            del kept
            free(device)


def _has_room(components: Components) -> bool:
    """Whether the encoders can come beside a model that stays where it is."""
    if components.loaders.picture is None or components.layout is not None:
        return True  # small, or it makes room itself
    if components.device.type != "cpu":
        return False  # nobody can say
    there, _ = available_memory()
    encoders = [
        path.stat().st_size
        for role, paths in components.weights.items()
        if role not in ("transformer", "vae")
        for path in paths
    ]
    return there is not None and there > _CAST * sum(encoders)
