"""Components, runtime, fingerprint, plan and the pieces of decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.generation.tiny_components import tiny_components

from recurvid.errors import ComponentError, InputError, RequestError, SessionError
from recurvid.generation import runtime as runtime_module
from recurvid.generation.components import Components, Loaders
from recurvid.generation.decoding import given_beside
from recurvid.generation.defaults import spec_of
from recurvid.generation.fingerprint import file_hash, fingerprint, refuse_changes
from recurvid.generation.request import GenerationRequest
from recurvid.generation.runtime import Runtime, dtype_for, pick_device, side_dtype
from recurvid.generation.tensor_files import load_latents, save_latents
from recurvid.generation.video_plan import VideoPlan, plan_video
from recurvid.latents import LatentFrames, LatentGeometry
from recurvid.packing import PackingSchedule
from recurvid.planning import ORDERS, plan

CPU = torch.device("cpu")


class Recorder:
    """A codec that keeps what it was asked to encode."""

    geometry = LatentGeometry(3, 4, 8)
    module = torch.nn.Identity()

    def __init__(self) -> None:
        self.frames = torch.zeros(0)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        self.frames = frames
        return frames[..., ::8, ::8]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def stream(self, latent_frames: int, finished: Any = ()) -> Any:
        raise NotImplementedError


def test_a_picture_reaches_the_autoencoder_as_it_expects_it() -> None:
    codec = Recorder()
    loaders = Loaders(lambda: None, None, lambda: codec, lambda: None)  # type: ignore[arg-type, return-value]
    parts = Components(loaders, codec.geometry, {}, Runtime(CPU), torch.float32, guided=False)
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[3, 5] = (255, 128, 0)
    latent = parts.encode_picture(picture)
    assert codec.frames.shape == (1, 3, 1, 16, 24)
    assert codec.frames[0, :, 0, 3, 5].tolist() == pytest.approx(
        [1.0, 128 / 127.5 - 1, -1.0], abs=1e-6
    )
    assert codec.frames[0, :, 0, 0, 0].tolist() == [-1.0, -1.0, -1.0]
    assert (latent.shape, latent.dtype) == ((1, 3, 1, 2, 3), torch.float32)


def test_encoders_come_one_after_the_other_and_leave() -> None:
    alive: list[str] = []
    most: list[int] = []

    class Large:
        def __init__(self, name: str):
            self.name = name
            alive.append(name)
            most.append(len(alive))

        def __del__(self) -> None:
            alive.remove(self.name)

    class Text(Large):
        def __call__(self, texts: list[str]) -> Any:
            return tiny_components().loaders.text()(texts)

    class Picture(Large):
        def __call__(self, picture: np.ndarray) -> torch.Tensor:
            return torch.zeros(1, 4, 5)

    loaders = Loaders(
        lambda: Text("text"),
        lambda: Picture("picture"),
        lambda: Large("codec"),  # type: ignore[arg-type, return-value]
        lambda: Large("backbone"),  # type: ignore[arg-type, return-value]
    )
    parts = Components(loaders, LatentGeometry(), {}, Runtime(CPU), torch.float32, guided=True)
    made = parts.conditionings(["a", "b"], np.zeros((16, 16, 3), np.uint8), 6.0)
    assert (alive, max(most)) == ([], 1)
    assert len(made) == 2
    assert made[0].guidance is not None
    assert made[0].guidance.tolist() == [6.0]
    assert made[0].image is not None
    assert not torch.equal(made[0].text, made[1].text)


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        ((True, True, True), "cuda"),
        ((False, True, True), "mps"),
        ((False, False, True), "xpu"),
        ((False, False, False), "cpu"),
    ],
)
def test_auto_takes_the_best_device(
    monkeypatch: pytest.MonkeyPatch, present: tuple[bool, bool, bool], chosen: str
) -> None:
    kinds = (torch.cuda, torch.backends.mps, torch.xpu)
    for kind, there in zip(kinds, present, strict=True):
        monkeypatch.setattr(kind, "is_available", lambda there=there: there)
    assert pick_device("auto").type == chosen
    assert pick_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("cuda:7", ComponentError),
        ("mps", ComponentError),
        ("xpu", ComponentError),
        ("gpu", InputError),
        ("", InputError),
        ("cpu:x", InputError),
    ],
)
def test_a_device_that_is_not_here_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception]
) -> None:
    monkeypatch.setattr(runtime_module, "available_devices", lambda: ("cuda", "cpu"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(error, match=r"cpu|2 of cuda"):
        pick_device(name)


def test_number_types(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Runtime(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert dtype_for(cuda, small=False) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert dtype_for(cuda, small=False) == torch.float16  # RTX 20
    assert dtype_for(cuda, small=True) == torch.float32
    assert dtype_for(Runtime.of("cpu", "float32"), small=False) == torch.float32
    assert side_dtype(cuda) == torch.float16
    assert side_dtype(Runtime(CPU)) == torch.float32


def test_a_fingerprint_sees_every_byte_of_small_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"a" * 1000)
    before = fingerprint({"transformer": [path]}, CPU, torch.float32)
    assert fingerprint({"transformer": [path]}, CPU, torch.float32) == before
    path.write_bytes(b"a" * 999 + b"b")
    after = fingerprint({"transformer": [path]}, CPU, torch.float32)
    with pytest.raises(SessionError, match="weights of transformer"):
        refuse_changes(before, after, tmp_path)
    other = fingerprint({"transformer": [path]}, CPU, torch.bfloat16)
    with pytest.raises(SessionError, match=r"dtype \(float32 -> bfloat16\)"):
        refuse_changes(after, other, tmp_path)


def test_large_weights_are_sampled_from_end_to_end(tmp_path: Path) -> None:
    path = tmp_path / "large"
    size = 100 * 2**20
    with path.open("wb") as file:
        file.truncate(size)
    hashes = {file_hash(path)}
    for place in (0, size // 63 - 2, size - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        hashes.add(file_hash(path))
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("order", "text", "expected"),
    [
        ("inverted", "f1k1_x_g9_f1k1f2k2f16k4_td", {3: [0]}),
        ("forward", "f1k1_f16k4f2k2f1k1_g9", {0: [0]}),
        ("endpoint", "td_f16k4f4k2f1k1_g9_x_f1k1", {0: [0]}),
    ],
)
def test_the_picture_is_decoded_with_the_section_that_touches_it(
    order: str, text: str, expected: dict[int, list[int]]
) -> None:
    assert given_beside(plan(order, PackingSchedule.parse(text), 4)) == expected


def test_latents_come_back_bit_by_bit(tmp_path: Path) -> None:
    latents = LatentFrames.of(torch.randn(1, 4, 3, 2, 2), [7, 8, 9])
    save_latents(tmp_path / "0000.safetensors", latents)
    found = load_latents(tmp_path / "0000.safetensors")
    assert torch.equal(found.data, latents.data)
    assert torch.equal(found.index, latents.index)


@settings(deadline=None)
@given(
    seconds=st.floats(0.1, 60),
    model=st.sampled_from(["bundled", "framepack", "framepack-f1"]),
    whole=st.booleans(),
    fps=st.none() | st.floats(1, 60),
)
def test_a_plan_covers_what_was_asked(
    seconds: float, model: str, whole: bool, fps: float | None
) -> None:
    request = GenerationRequest(seconds=seconds, model=model, whole_sections=whole, fps=fps)
    made = plan_video(request, spec_of(request), (480, 640), LatentGeometry())
    assert VideoPlan.from_json(made.to_json()) == made
    generated = 36 * len(made.sections.sections) + 1
    if whole:
        assert made.frames == generated
    else:
        assert abs(made.frames - seconds * made.fps) <= 1
        assert generated - 36 < made.frames <= generated or len(made.sections.sections) == 1
    assert made.height % 16 == made.width % 16 == 0


def test_crossfade_is_for_the_originals_orders() -> None:
    request = GenerationRequest(
        crossfade=True, order="endpoint", schedule="td_f16k4f4k2f1k1_g9_x_f1k1"
    )
    with pytest.raises(RequestError, match="crossfade"):
        plan_video(request, spec_of(request), (480, 640), LatentGeometry())


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_alone_brings_a_schedule_of_its_kind(order: str) -> None:
    for model in ("bundled", "framepack", "framepack-f1"):
        request = GenerationRequest(order=order, model=model)
        made = plan_video(request, spec_of(request), (480, 640), LatentGeometry())
        assert made.sections.order == order


@pytest.mark.parametrize(
    ("schedule", "order"),
    [
        ("f1k1_x_g9_f1k1f2k2f16k4_td", "inverted"),
        ("f16k4f2k2f1k1_g9", "forward"),
        ("td_f16k4f4k2f1k1_g9_x_f1k1", "endpoint"),
    ],
)
def test_a_schedule_alone_brings_its_order(schedule: str, order: str) -> None:
    for model in ("bundled", "framepack-f1"):
        request = GenerationRequest(schedule=schedule, model=model)
        made = plan_video(request, spec_of(request), (480, 640), LatentGeometry())
        assert (made.sections.order, made.sections.schedule) == (order, schedule)


@pytest.mark.parametrize(
    ("schedule", "seconds", "why"),
    [
        ("f1k1_x_g99999_f1k1", 5.0, r"schedule: f1k1_x_g99999.* \d+ tokens .* at most 1000000"),
        ("f1k1_x_g9_f99999k1", 5.0, r"schedule: .* \d+ tokens .* at most 1000000"),
        ("f1k1_x_g300_f1k1", 5.0, r"schedule: g300 makes 1200 frames a section, .* has 60"),
    ],
)
def test_absurd_sections_are_refused(schedule: str, seconds: float, why: str) -> None:
    request = GenerationRequest(schedule=schedule, seconds=seconds, size="832x480")
    with pytest.raises(RequestError, match=why):
        plan_video(request, spec_of(request), (480, 832), LatentGeometry())


@pytest.mark.parametrize(
    ("schedule", "seconds"), [("f1k1_x_g300_f1k1", 30.0), ("f1k1_x_g33_f1k1", 0.1)]
)
def test_long_sections_are_no_fault(schedule: str, seconds: float) -> None:
    request = GenerationRequest(schedule=schedule, seconds=seconds, size="832x480")
    made = plan_video(request, spec_of(request), (480, 832), LatentGeometry())
    assert len(made.sections.sections) == 1


PLAN = plan_video(
    GenerationRequest(), spec_of(GenerationRequest()), (480, 640), LatentGeometry()
).to_json()


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": "60"},
        {"frames": 60.0},
        {"height": None},
        {"width": True},
        {"latent_frames": []},
        {"given": ["0"]},
        {"given": 0},
        {"order": ["inverted"]},
        {"order": 1},
        {"schedule": 9},
        {"schedule": "nonsense"},
        {"sections": 3},
        {"sections": [3]},
        {"sections": {"a": 1}},
        {"sections": [{**PLAN["sections"][0], "target": ["1", "9"]}]},
        {"sections": [{**PLAN["sections"][0], "history": [1.5]}]},
        {"sections": [{**PLAN["sections"][0], "gap": None}]},
        {"request": []},
        {"request": None},
        {"request": {**PLAN["request"], "fps": None}},
    ],
    ids=str,
)
def test_a_plan_of_wrong_types_is_no_plan(changes: dict[str, Any]) -> None:
    VideoPlan.from_json(PLAN)
    with pytest.raises(SessionError, match=r"plan\.json is not a plan"):
        VideoPlan.from_json(PLAN | changes)


def test_any_flipped_bit_of_a_section_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "0000.safetensors"
    latents = LatentFrames.of(torch.randn(1, 2, 3, 4, 4), [0, 1, 2])
    save_latents(path, latents)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in [*rng.integers(0, len(whole), 60), len(whole) - 1]:
        broken = bytearray(whole)
        broken[place] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(broken)
        try:
            found = load_latents(path)
        except SessionError:
            refused += 1
        else:  # a bit of the digest's own name, or of the padding
            assert torch.equal(found.data, latents.data)
            assert torch.equal(found.index, latents.index)
    assert refused > 40
    path.write_bytes(whole)
    assert torch.equal(load_latents(path).data, latents.data)
    broken = bytearray(whole)
    broken[-5] ^= 1
    path.write_bytes(broken)
    with pytest.raises(SessionError, match="contents have changed"):
        load_latents(path)
