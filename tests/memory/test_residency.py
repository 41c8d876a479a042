"""Who is on the device, one at a time or side by side."""

from __future__ import annotations

import pytest
import torch

from recurvid.memory.residency import Turns, is_out_of_memory

CPU = torch.device("cpu")


class Guests:
    def __init__(self, turns: Turns):
        self.turns, self.log = turns, list[str]()

    def take(self, name: str, *, fails: bool = False) -> None:
        def arrive() -> None:
            self.log.append(f"+{name}")
            if fails:
                raise torch.OutOfMemoryError("full")

        self.turns.take(name, arrive, lambda: self.log.append(f"-{name}"))


def test_one_at_a_time():
    guests = Guests(Turns(CPU))
    for name in ("a", "a", "b", "a"):
        guests.take(name)
    guests.turns.end()
    assert guests.log == ["+a", "-a", "+b", "-b", "+a", "-a"]
    assert guests.turns.current is None


def test_side_by_side_until_somebody_needs_it_alone():
    guests = Guests(Turns(CPU, together=True))
    for name in ("a", "b", "a", "b"):
        guests.take(name)
    assert guests.log == ["+a", "+b"]
    assert guests.turns.alone("a")
    assert guests.log[2:] == ["-b"]
    assert not guests.turns.alone("a")
    guests.take("b")
    assert guests.log[3:] == ["-a", "+b"]


def test_who_came_half_way_is_not_there():
    guests = Guests(Turns(CPU))
    with pytest.raises(torch.OutOfMemoryError):
        guests.take("a", fails=True)
    assert guests.log == ["+a", "-a"]
    assert guests.turns.current is None
    guests.take("a")
    assert guests.log[2:] == ["+a"]


def test_how_a_full_device_is_known():
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert is_out_of_memory(RuntimeError("cuBLAS: CUBLAS_STATUS_NOT_INITIALIZED"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(KeyboardInterrupt("CUDA error: out of memory"))
