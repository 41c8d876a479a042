"""Captions of camera moves, in many words, so that a user's wording is understood."""

from __future__ import annotations

import numpy as np

_DIRECTION = {
    "pan left": ("pan", "left"),
    "pan right": ("pan", "right"),
    "tilt up": ("tilt", "up"),
    "tilt down": ("tilt", "down"),
}
_VERBS = {
    "pan": ("pans", "pans", "pans", "moves", "turns", "slides", "sweeps", "glides", "drifts"),
    "tilt": ("tilts", "tilts", "tilts", "moves", "pans", "rises|descends", "looks"),
}
_ZOOM = {
    "zoom in": (
        "zooms in", "zooms in", "zooms in", "pushes in", "moves in", "moves closer", "dollies in",
        "moves forward", "comes closer",
    ),
    "zoom out": (
        "zooms out", "zooms out", "zooms out", "pulls out", "pulls back", "moves out",
        "dollies out", "moves back", "backs away", "moves away",
    ),
}  # fmt: skip
_STILL = ("does not move", "stays still", "is static", "is locked", "rests")
_SLOW = ("slowly", "gently", "softly", "a little")
_FAST = ("quickly", "fast", "rapidly", "swiftly")
_FILLER = "abcdefghijklmnopqrstuvwxyz"
_SCENES = (
    "a photograph", "a landscape", "a picture of something", "a place", "a person", "a woman",
    "a man", "a cat", "a dog", "a room", "a street", "a house", "a city", "the sea", "a forest",
    "mountains", "a close-up", "a portrait", "an object on a table", "a beautiful view", "",
)  # fmt: skip


def caption(move: str, speed: float, rng: np.random.Generator) -> str:
    """One caption of a move of `recurvid.training.camera.MOVES`; speed 0 = slowest, 1 = fastest."""
    phrase = f"the camera {_pick(_STILL, rng)}" if move == "still" else _moving(move, rng)
    pace = ""
    if move != "still" and speed < 0.3 and rng.random() < 0.6:
        pace = _pick(_SLOW, rng)
    elif move != "still" and speed > 0.7 and rng.random() < 0.6:
        pace = _pick(_FAST, rng)
    words = [w for w in (phrase, pace) if w]
    if rng.random() < 0.3:
        words.reverse()
    text = " ".join(words)
    scene = _scene(rng)
    if scene:
        text = f"{scene}, {text}" if rng.random() < 0.7 else f"{text}, {scene}"
    return text


def _moving(move: str, rng: np.random.Generator) -> str:
    style = rng.random()
    if move in _ZOOM:
        if style < 0.4:
            return move
        subject = "the camera " if style < 0.8 else "camera "
        return subject + _pick(_ZOOM[move], rng)
    kind, way = _DIRECTION[move]
    if style < 0.35:
        return move
    if style < 0.45:
        return f"{kind} to the {way}" if kind == "pan" else f"{kind}ing {way}"
    verb = _pick(_VERBS[kind], rng)
    if "|" in verb:
        return f"the camera {verb.split('|')[0 if way == 'up' else 1]}"
    to = "to the " if kind == "pan" and rng.random() < 0.5 else ""
    return f"{'the ' if style < 0.9 else ''}camera {verb} {to}{way}"


def _scene(rng: np.random.Generator) -> str:
    """Words that say nothing of the camera, invented ones among them: they are to be ignored."""
    if rng.random() < 0.4:
        return ""
    if rng.random() < 0.5:
        return _pick(_SCENES, rng)
    made = [
        "".join(rng.choice(list(_FILLER), int(rng.integers(3, 9))))
        for _ in range(int(rng.integers(1, 7)))
    ]
    return " ".join(made)


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
