"""Names of devices, with a stand-in for the cards."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from recurvid.errors import ComponentError, InputError
from recurvid.jobs.hardware import hardware_of


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cards by the numbers that this process knows them by."""
    cards = ["GPU-aaaa", "GPU-bbbb"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    found = lambda number: SimpleNamespace(uuid=cards[number])  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", found)
    return cards


def test_every_name_of_a_card_means_the_same(two_cards: list[str]):
    assert hardware_of("auto") == hardware_of("cuda") == hardware_of("cuda:0") == "cuda GPU-aaaa"
    assert hardware_of("cuda:1") == "cuda GPU-bbbb"
    assert hardware_of("cpu") == "cpu"
    del two_cards[0]  # a process that was shown one card only
    assert hardware_of("cuda:0") == "cuda GPU-bbbb"


def test_cards_without_a_name_of_their_own_go_by_number(
    two_cards: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace())
    assert hardware_of("auto") == hardware_of("cuda:0") == "cuda 0"
    assert hardware_of("cuda:1") == "cuda 1"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cuda:2", ComponentError),
        ("xpu", ComponentError),
        ("gpu", InputError),
        # torch keeps an index in 8 bits: it makes cpu, cuda:-128 and cuda:0 of these
        ("cpu:255", ComponentError),
        ("cuda:128", ComponentError),
        ("cuda:256", ComponentError),
    ],
)
def test_no_such_device(two_cards: list[str], name: str, kind: type[Exception]):
    assert len(two_cards) == 2
    with pytest.raises(kind):
        hardware_of(name)
