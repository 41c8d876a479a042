"""MemoryBudget and Placement: what may be used, what will lie where. Arithmetic only.

A run is a row of phases that follow one another on the device (text encoding, ... , decode). Each
needs some weights throughout, some room to work in, and may have blocks that can be streamed. All
sizes are bytes; GiB stand only where people read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recurvid.errors import ComponentError, InputError, Line
from recurvid.memory.staying import staying

GIB = 2**30
#: What a process takes on the card beside torch's allocator: CUDA's context, kernels, libraries'
#: own workspaces. 0.51 GiB before a run's first kernel on an H100, 0.75 after all of its phases
#: (benchmarks/results/memory-cap-*.json), and a little for kernels that were not run there.
CONTEXT = int(0.8 * GIB)
#: Process memory of Python, torch and CUDA's libraries before anything is loaded.
PROCESS = 3 * GIB
#: Pinned buffers through which blocks are read when they are not kept in memory.
RING = 3
#: System memory that is left to others when blocks are kept pinned.
LEFT_TO_OTHERS = 4 * GIB


@dataclass(frozen=True)
class MemoryBudget:
    """What a run may use.

    Attributes:
        vram: the card's memory that counts for us, bytes: what ``--vram`` says, or what is free.
        ram: system memory that is available, page cache included; None if unknown.
        swap: free swap, which backs memory that is asked for and not touched.
        disk: free where the session lies; None if unknown.
        home: free where weights in another form are kept; None if unknown.
    """

    vram: int
    ram: int | None = None
    swap: int = 0
    disk: int | None = None
    home: int | None = None

    @staticmethod
    def of(
        vram: int | float,
        *,
        ram: int | None = None,
        swap: int = 0,
        disk: int | None = None,
        home: int | None = None,
    ) -> MemoryBudget:
        """From GiB of device memory.

        Raises:
            InputError: not a size that a device can have.
        """
        if not 1 <= vram <= 4096:
            raise InputError(f"vram: {vram:g} GiB; give the size of a card, 1 to 4096")
        return MemoryBudget(int(vram * GIB), ram, swap, disk, home)

    @property
    def margin(self) -> int:
        """Left free: the screen's share, other programs, what the driver rounds up.

        0.7 GiB from a 6 GiB card on, down to 0.3 on one of 4.
        """
        return int(min(max(0.2 * self.vram - 0.5 * GIB, 0.3 * GIB), 0.7 * GIB))

    @property
    def process(self) -> int:
        """Most that the process may take on the card in all."""
        return self.vram - self.margin

    @property
    def allocator(self) -> int:
        """Most that torch's allocator may reserve."""
        return max(0, self.process - CONTEXT)


@dataclass(frozen=True)
class PhaseNeed:
    """What a phase of a run asks of the device.

    Attributes:
        name: for people.
        weights: there throughout.
        work: activations and what they need, at the worst moment.
        blocks: sizes of the blocks that can be streamed, in the order in which they run.
        kept: whether the blocks are used again and again, so that keeping them pinned pays.
        at_once: tokens that a block works on at one time; 0 for all of them.
    """

    name: str
    weights: int
    work: int
    blocks: tuple[int, ...] = ()
    kept: bool = False
    at_once: int = 0


@dataclass(frozen=True)
class PhasePlan:
    """Where the parts of a phase lie.

    Attributes:
        resident: numbers of the blocks that stay on the device.
        slots: buffers on the device for the others.
        limit: what the allocator may reserve.
    """

    need: PhaseNeed
    resident: tuple[int, ...]
    slots: int
    limit: int

    @property
    def resident_bytes(self) -> int:
        """Blocks that stay."""
        return sum(self.need.blocks[i] for i in self.resident)

    @property
    def streamed(self) -> tuple[int, ...]:
        """Sizes of the blocks that come and go."""
        here = set(self.resident)
        return tuple(size for i, size in enumerate(self.need.blocks) if i not in here)

    @property
    def slot_bytes(self) -> int:
        """Buffers for streamed blocks on the device."""
        return self.slots * max(self.streamed, default=0)

    @property
    def device(self) -> int:
        """All that the phase takes of the allocator's memory."""
        return self.need.weights + self.need.work + self.resident_bytes + self.slot_bytes

    @property
    def shortage(self) -> int:
        """Bytes too many; 0 where it fits."""
        return max(0, self.device - self.limit)


@dataclass(frozen=True)
class Placement:
    """The whole plan.

    Attributes:
        phases: in order.
        source: where streamed blocks of the longest phase wait: "device" (nothing is streamed),
            "pinned" or "mapped".
        ram: process memory at its peak; the page cache is not counted.
        cache: bytes of model files that are read again in every step, which the page cache holds
            if it can; else the disk is read that often.
        disk: what the run writes.
        kept: bytes of weights in another form that are written once, for all runs.
        together: whether backbone and decoder stay on the device side by side.
    """

    budget: MemoryBudget
    phases: tuple[PhasePlan, ...]
    source: str
    ram: int
    cache: int
    disk: int
    kept: int = 0
    together: bool = False

    @property
    def fits(self) -> bool:
        """Whether nothing is short."""
        return not self.shortages()

    def phase(self, name: str) -> PhasePlan:
        """A phase by its name. KeyError where there is none."""
        for plan in self.phases:
            if plan.need.name == name:
                return plan
        raise KeyError(name)

    def shortages(self) -> list[Line]:
        """What cannot fit, one line each, with numbers."""
        found = [
            Line(
                f"{plan.need.name} takes {gib(plan.device)} on the device even with one block at a "
                f"time, {gib(plan.limit)} of {gib(self.budget.vram)} can be used for it "
                f"(CUDA itself takes {gib(CONTEXT)}, {gib(self.budget.margin)} stay free)",
                "plan.phase",
                plan=plan.need.name,
                needed=gib(plan.device),
                free=gib(plan.limit),
            )
            for plan in self.phases
            if plan.shortage
        ]
        budget = self.budget
        if budget.ram is not None and self.ram > budget.ram + budget.swap:
            swap = f" and {gib(budget.swap)} of swap" if budget.swap else " and no swap"
            found.append(
                Line(
                    f"the process takes {gib(self.ram)} of system memory, {gib(budget.ram)} are "
                    f"free{swap}",
                    "plan.ram",
                    needed=gib(self.ram),
                    free=gib(budget.ram + budget.swap),
                )
            )
        if budget.disk is not None and self.disk > budget.disk:
            found.append(
                Line(
                    f"the run writes {gib(self.disk)}, {gib(budget.disk)} of disk are free",
                    "plan.disk",
                    needed=gib(self.disk),
                    free=gib(budget.disk),
                )
            )
        if budget.home is not None and self.kept > budget.home:
            found.append(
                Line(
                    f"weights in this form are kept in a file of {gib(self.kept)}, "
                    f"{gib(budget.home)} of disk are free for it "
                    "(RECURVID_HOME names another folder)",
                    "plan.kept",
                    needed=gib(self.kept),
                    free=gib(budget.home),
                )
            )
        return found

    def refuse(self, what: str) -> None:
        """Raise unless it fits, before anything is loaded.

        Raises:
            ComponentError: with numbers, and what to do.
        """
        short = self.shortages()
        if short:
            raise ComponentError(
                f"{what} does not fit: {'; '.join(short)}; try a smaller --size or close other "
                "programs"
            )


def place_phase(need: PhaseNeed, limit: int) -> PhasePlan:
    """As many blocks resident as fit into ``limit`` bytes, by ``staying``; two slots, else one."""
    sizes, room = need.blocks, limit - need.weights - need.work
    if sum(sizes) <= room:
        return PhasePlan(need, tuple(range(len(sizes))), 0, limit)
    choices = [staying(sizes, count) for count in range(len(sizes))]
    for slots in (2, 1):
        for resident in reversed(choices):
            plan = PhasePlan(need, resident, slots, limit)
            if plan.shortage == 0:
                return plan
    return PhasePlan(need, (), 1 if sizes else 0, limit)


def place(
    budget: MemoryBudget,
    needs: Sequence[PhaseNeed],
    disk: int = 0,
    *,
    kept: int = 0,
    together: bool = False,
) -> Placement:
    """Decide for each phase, and where the blocks that are streamed again and again wait.

    They are kept pinned where system memory has room for all of them and then some; else they are
    read through a small ring from their memory-mapped file.
    """
    phases = tuple(place_phase(need, budget.allocator) for need in needs)
    # Blocks that stay come through the ring too, once.
    ring = RING * max((size for need in needs for size in need.blocks), default=0)
    again = sum(sum(plan.streamed) for plan in phases if plan.need.kept)
    source, ram, cache = "mapped", PROCESS + ring, again
    if not again:
        source = "device"
    elif budget.ram is not None and PROCESS + again + ring + LEFT_TO_OTHERS <= budget.ram:
        source, ram, cache = "pinned", PROCESS + again + ring, 0
    return Placement(budget, phases, source, ram, cache, disk, kept, together)


def gib(size: int) -> str:
    """Bytes for people: ``4.7 GiB``."""
    return f"{size / GIB:.1f} GiB"
