"""KeyMap: foreign tensor names <-> native ones, as data that reads in both directions.

A map is a list of rules; the first rule that knows a name takes it. Patterns hold fields:
``{n}`` matches a number, any other ``{field}`` the rest of a name, dots and all. Applying a map is
lazy: the result is a Checkpoint that reads from the foreign one.

    KeyMap((Rename("text_model.{rest}", "{rest}"),))                      renames
    KeyMap((Split("b.{n}.qkv.weight", ("b.{n}.q.weight", ...), (1, 1, 1)),))   splits, or fuses back
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recurvid.checkpoints.checkpoint import Checkpoint, CheckpointView, some, source_name
from recurvid.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_FIELD = re.compile(r"\{(\w+)\}")


def _matcher(pattern: str) -> re.Pattern[str]:
    """A pattern with fields as a regular expression for whole names."""
    parts, position = [], 0
    for field in _FIELD.finditer(pattern):
        parts.append(re.escape(pattern[position : field.start()]))
        parts.append(f"(?P<{field[1]}>{r'[0-9]+' if field[1] == 'n' else '.+'})")
        position = field.end()
    return re.compile("".join(parts) + re.escape(pattern[position:]))


@dataclass(frozen=True)
class Rename:
    """One foreign tensor is one native tensor.

    Attributes:
        swapped: halves along the first dimension change places (shift and scale of an adaLN that
            two code bases order differently). Its own inverse.
        ones: how many dimensions of one the foreign tensor has at its end beyond the native one (a
            convolution of size one where the other code base has a linear layer).
    """

    foreign: str
    native: str
    swapped: bool = False
    ones: int = 0

    def reversed(self) -> Rename:
        """The rule in the other direction."""
        return Rename(self.native, self.foreign, self.swapped, -self.ones)


@dataclass(frozen=True)
class Split:
    """One foreign tensor is several native ones along the first dimension.

    Attributes:
        parts: relative lengths, one a native tensor.
    """

    foreign: str
    native: tuple[str, ...]
    parts: tuple[int, ...]

    def reversed(self) -> Fuse:
        """The rule in the other direction."""
        return Fuse(self.native, self.foreign, self.parts)


@dataclass(frozen=True)
class Fuse:
    """Several foreign tensors, in this order along the first dimension, are one native tensor.

    Attributes:
        parts: relative lengths, one a foreign tensor.
    """

    foreign: tuple[str, ...]
    native: str
    parts: tuple[int, ...]

    def reversed(self) -> Split:
        """The rule in the other direction."""
        return Split(self.native, self.foreign, self.parts)


@dataclass(frozen=True)
class Drop:
    """Foreign tensors that have no native counterpart and are left aside on purpose.

    The reverse of a map cannot bring them back.
    """

    foreign: str


Rule = Rename | Split | Fuse | Drop


@dataclass(frozen=True)
class KeyMap:
    """Rules, first match first. Without rules no name is known; see IDENTITY."""

    rules: tuple[Rule, ...]

    def reversed(self) -> KeyMap:
        """The map from native to foreign names; dropped tensors stay dropped."""
        return KeyMap(tuple(rule.reversed() for rule in self.rules if not isinstance(rule, Drop)))

    def apply(
        self, foreign: Checkpoint, native: Mapping[str, tuple[int, ...]] | None = None
    ) -> Checkpoint:
        """The foreign checkpoint under native names.

        Args:
            native: names and shapes that have to come out, neither more nor less. None checks
                only that every foreign tensor has a rule.

        Raises:
            CheckpointError: with both lists, shortened: foreign tensors that no rule takes, native
                ones that nothing fills; or one whose shape cannot be had.
        """
        sources, unknown = self._assign(foreign)
        missing = sorted(set(native) - set(sources)) if native is not None else []
        extra = [name for name in sources if native is not None and name not in native]
        unknown += [part for name in extra for part in _seen(sources.pop(name))]
        incomplete = [name for name, source in sources.items() if None in source.names]
        missing += [name for name in incomplete if name not in missing]
        if unknown or missing:
            raise CheckpointError(_both_lists(foreign, unknown, missing))
        view = _Mapped(foreign, sources)
        for name, shape in (native or {}).items():
            if view.shape(name) != shape:
                origin = _origin(sources[name])
                gives = "is" if origin == name else f"gives {name}"
                raise CheckpointError(
                    f"{view.file_of(name)}: tensor {origin} {gives} {list(view.shape(name))}, "
                    f"the model needs {list(shape)}"
                )
        return view

    def _assign(self, foreign: Checkpoint) -> tuple[dict[str, _Source], list[str]]:
        """Native name -> where it comes from, and the foreign names without a rule."""
        compiled = [_Compiled(rule) for rule in self.rules]
        sources: dict[str, _Source] = {}
        unknown: list[str] = []
        for name in foreign.keys():  # noqa: SIM118 (a Checkpoint is no dict)
            for rule in compiled:
                made = rule.take(name)
                if made is not None:
                    _merge(sources, made, foreign)
                    break
            else:
                unknown.append(name)
        return sources, unknown


@dataclass(frozen=True)
class _Source:
    """How one native tensor is made.

    Foreign names in order (None while unseen), and for a split the part of the first dimension.
    """

    names: tuple[str | None, ...]
    parts: tuple[int, ...] = (1,)
    part: int | None = None
    swapped: bool = False
    ones: int = 0


class _Compiled:
    """A rule with its patterns compiled."""

    def __init__(self, rule: Rule):
        self.rule = rule
        patterns = rule.foreign if isinstance(rule, Fuse) else (rule.foreign,)
        self._matchers = [_matcher(pattern) for pattern in patterns]

    def take(self, name: str) -> dict[str, _Source] | None:
        """Native tensors that a foreign one makes, or None when the rule does not know it."""
        for position, matcher in enumerate(self._matchers):
            match = matcher.fullmatch(name)
            if match is not None:
                return self._made(name, position, match.groupdict())
        return None

    def _made(self, name: str, position: int, fields: dict[str, str]) -> dict[str, _Source]:
        rule = self.rule
        if isinstance(rule, Drop):
            return {}
        if isinstance(rule, Rename):
            source = _Source((name,), swapped=rule.swapped, ones=rule.ones)
            return {rule.native.format(**fields): source}
        if isinstance(rule, Split):
            return {
                native.format(**fields): _Source((name,), rule.parts, part)
                for part, native in enumerate(rule.native)
            }
        names = tuple(name if n == position else None for n in range(len(rule.foreign)))
        return {rule.native.format(**fields): _Source(names, rule.parts)}


def _merge(sources: dict[str, _Source], made: dict[str, _Source], foreign: Checkpoint) -> None:
    for native, source in made.items():
        other = sources.get(native)
        if other is None:
            sources[native] = source
            continue
        pairs = list(zip(other.names, source.names, strict=False))
        twice = any(a is not None and b is not None for a, b in pairs)
        if len(other.names) != len(source.names) or twice:
            raise CheckpointError(
                f"{source_name(foreign)}: tensors {_origin(other)} and {_origin(source)} "
                f"are both {native}"
            )
        names = tuple(a or b for a, b in pairs)
        sources[native] = _Source(names, source.parts)


def _origin(source: _Source) -> str:
    return " + ".join(_seen(source))


def _both_lists(foreign: Checkpoint, unknown: Sequence[str], missing: Sequence[str]) -> str:
    parts = (
        [f"not expected: {some(unknown)} ({foreign.file_of(unknown[0]).name})"] if unknown else []
    )
    parts += [f"missing: {some(missing)}"] if missing else []
    return f"{source_name(foreign)}: tensors do not match the model; {'; '.join(parts)}"


class _Mapped(CheckpointView):
    """A foreign checkpoint under native names."""

    def __init__(self, inner: Checkpoint, sources: Mapping[str, _Source]):
        super().__init__(inner)
        self._sources = dict(sources)
        for name, source in self._sources.items():
            self._check(name, source)

    def keys(self) -> tuple[str, ...]:
        """Native names."""
        return tuple(self._sources)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a native tensor."""
        source = self._sources[name]
        shapes = [self.inner.shape(part) for part in _seen(source)]
        first = sum(shape[0] for shape in shapes) if len(shapes) > 1 else None
        if source.part is not None:
            first = shapes[0][0] * source.parts[source.part] // sum(source.parts)
        shape = shapes[0] if first is None else (first, *shapes[0][1:])
        return shape[: len(shape) - source.ones] if source.ones > 0 else shape + (1,) * -source.ones

    def dtype(self, name: str) -> torch.dtype:
        """Type of a native tensor."""
        return self.inner.dtype(_seen(self._sources[name])[0])

    def tensor(self, name: str) -> torch.Tensor:
        """A native tensor; a view of the foreign one except where tensors are fused or swapped."""
        import torch

        source = self._sources[name]
        values = [self.inner.tensor(part) for part in _seen(source)]
        if len(values) > 1:
            return torch.cat(values)
        (value,) = values
        if source.ones:
            value = value.reshape(self.shape(name))
        if source.swapped:
            first, second = value.chunk(2)
            return torch.cat((second, first))
        if source.part is None:
            return value
        unit = value.shape[0] // sum(source.parts)
        start = unit * sum(source.parts[: source.part])
        return value[start : start + unit * source.parts[source.part]]

    def file_of(self, name: str) -> Path:
        """The file of (the first of) the foreign tensors."""
        return self.inner.file_of(_seen(self._sources[name])[0])

    def _check(self, native: str, source: _Source) -> None:
        """Refuse shapes that cannot be split, fused or swapped as the rule says."""
        names = _seen(source)
        shapes = [self.inner.shape(name) for name in names]
        where = f"{self.inner.file_of(names[0])}: tensor {_origin(source)}"
        if source.swapped and (not shapes[0] or shapes[0][0] % 2):
            raise CheckpointError(f"{where} {list(shapes[0])} has no two halves for {native}")
        if source.ones > 0 and shapes[0][-source.ones :] != (1,) * source.ones:
            raise CheckpointError(
                f"{where} {list(shapes[0])} does not end in {source.ones} ones for {native}"
            )
        if source.part is not None and (not shapes[0] or shapes[0][0] % sum(source.parts)):
            raise CheckpointError(
                f"{where} {list(shapes[0])} does not divide into {list(source.parts)} for {native}"
            )
        if len(names) > 1:
            units = {
                shape[0] / part if shape else 0
                for shape, part in zip(shapes, source.parts, strict=True)
            }
            tails = {shape[1:] for shape in shapes}
            kinds = {self.inner.dtype(name) for name in names}
            if len(units) > 1 or len(tails) > 1 or len(kinds) > 1:
                raise CheckpointError(
                    f"{where} {[list(shape) for shape in shapes]} do not fuse into {native}"
                )


def _seen(source: _Source) -> tuple[str, ...]:
    return tuple(name for name in source.names if name is not None)


#: Every name stays as it is.
IDENTITY = KeyMap((Rename("{name}", "{name}"),))
