"""What whole_run.py found beside diffusers, as ratios and as plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import charts
from whole_video import PHASES, SECTIONS, STEPS


def peer_seconds(found: dict[str, Any], way: str, sections: int = SECTIONS) -> dict[str, float]:
    """A video of diffusers: a step's time by 25 and by the sections, one decode of 9, then 18s."""
    step = found.get(way, {}).get("ms")
    decodes = found.get("vae", {})
    kind = "whole" if way == "resident" else "tiled"
    if step is None or f"18 {kind}" not in decodes:
        return {}
    decode = decodes[f"9 {kind}"]["ms"] + (sections - 1) * decodes[f"18 {kind}"]["ms"]
    return {"denoise": STEPS * sections * step / 1000, "decode": decode / 1000}


def beside(found: dict[str, Any]) -> None:
    """Notes diffusers' seconds a frame by way, and each run's as a ratio to its way's."""
    frames = 1 + 36 * SECTIONS
    ways = {way: peer_seconds(found.get("peer", {}), way) for way in ("resident", "offload")}
    found["peer_seconds_a_frame"] = {
        way: sum(seconds.values()) / frames for way, seconds in ways.items() if seconds
    }
    for run in found["runs"].values():
        theirs = found["peer_seconds_a_frame"].get(run.get("run", {}).get("peer"))
        ours = run.get("extrapolated_seconds_a_frame", run.get("seconds_a_frame"))
        if theirs and ours:
            run["times_peer"] = theirs / ours


def draw(found: dict[str, Any], place: Path) -> None:
    """The stacked bars, and the minute's lines."""
    runs = {
        n: r
        for n, r in found["runs"].items()
        if r.get("frames") and n != "minute" and "failed" not in r
    }
    rows: list[tuple[str, dict[str, float]]] = []
    for name, run in runs.items():
        rows.append((name, {p: run["seconds"][p] / run["frames"] for p in PHASES}))
    frames = 1 + 36 * SECTIONS
    for way in ("resident", "offload"):
        seconds = peer_seconds(found.get("peer", {}), way)
        if seconds:
            rows.append((f"diffusers, {way}", {k: v / frames for k, v in seconds.items()}))
    steps = {run["steps"] for run in runs.values()}
    said = "/".join(map(str, sorted(steps)))
    title = f"Three sections of {found['size']}, {said} steps, on {found['card']}"
    note = (
        f"{found['date']}. diffusers is computed from its step and its decodes, measured in the "
        "same command; encoding and loading are not in it."
    )
    if steps - {STEPS}:
        note = f"diffusers with {STEPS} steps. {note}"
    if rows:
        place.with_suffix(".svg").write_text(charts.bars(title, rows, "seconds a frame", note))
    minute = found["runs"].get("minute", {})
    if minute.get("sections"):
        rows_of = minute["sections"]
        panels = [
            ("seconds of a section", {p: [s[p] for s in rows_of] for p in ("denoise", "decode")}),
            ("memory, GiB", {n.removesuffix("_gib"): [s.get(n, 0.0) for s in rows_of]
                             for n in ("reserved_gib", "device_gib", "process_gib")}),
        ]  # fmt: skip
        title = f"{len(rows_of)} sections of {found['size']} under --vram 6, {found['card']}"
        note = f"{found['date']}; {minute['steps']} steps a section, {minute['frames']} frames"
        path = place.with_name(place.stem + "-minute.svg")
        path.write_text(charts.lines(title, panels, "section, first to last", note))
