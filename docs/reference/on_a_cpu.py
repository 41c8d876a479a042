"""What was measured with the bundled model on a CPU: step caches, and the first video."""

from __future__ import annotations

from typing import Any

from measurements import results


def caches(up: str = "../..") -> str:
    """Each cache at its default, by numbers of steps, and the curve.

    Args:
        up: way from the page to the repository.
    """
    newest: dict[int, tuple[str, dict[str, Any]]] = {}
    for name, result in results("cache-curve-*.json"):
        newest[result["steps"]] = (name, result)
    lines: list[str] = []
    for steps in sorted(newest, reverse=True):
        name, result = newest[steps]
        plain = result["points"][0]
        lines += [
            f"{steps} steps, {len(result['cases'])} videos, {result['date']}, "
            f"[{name}.json]({up}/benchmarks/results/{name}.json):",
            "",
            "| cache | threshold | blocks run | denoising | PSNR | of the worst video | SSIM |",
            "|---|---|---|---|---|---|---|",
            *(
                f"| `{p['cache']}` | {p['threshold']:g} | {100 * p['work']:.0f} % | "
                f"{plain['seconds'] / p['seconds']:.2f}× | {_db(p['psnr'])} | {_db(p['worst'])} | "
                f"{p['ssim']:.4f} |"
                for p in result["points"]
                if p["default"]
            ),
            "",
        ]
    most = max(newest)
    return "\n".join(
        [
            "The bundled model, each cache at its default threshold; likeness to the video without",
            "a cache, before any video codec, on photographs that training never saw. Denoising is",
            "timed in seconds of one core.",
            "",
            *lines,
            f"![the curves]({up}/benchmarks/results/{newest[most][0]}.svg)",
        ]
    )


def caches_in_short() -> str:
    """One sentence of the default number of steps."""
    known = results("cache-curve-*.json")
    name, result = max(known, key=lambda found: (found[1]["steps"], found[1]["date"]))
    plain = result["points"][0]["seconds"]
    points = [point for point in result["points"] if point["default"]]
    fast = sorted(plain / point["seconds"] for point in points)
    like = sorted(point["psnr"] for point in points)
    return (
        f"A step cache (`--step-cache`, off by default) makes the bundled model denoise "
        f"{fast[0]:.2f} to {fast[-1]:.2f} times as fast, as another picture: {like[0]:.1f} to "
        f"{like[-1]:.1f} dB from the one without ([{result['date']}, {result['device'].upper()}]"
        f"(benchmarks/results/{name}.json), [curves](docs/concepts/caches.md#what-it-costs))."
    )


def _db(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f} dB"


def first_video() -> str:
    """What the README's first command takes."""
    name, result = results("demo-run-2*.json")[-1]
    machine, clock = result["machine"], min(run["seconds"] for run in result["runs"])
    idle = machine["load"] < 0.5
    took = f"{clock:.0f} s, " if idle else ""
    busy = "" if idle else ", on a machine that was busy with other things"
    return (
        f"`{result['command']}` takes {took}{result['core_seconds']:.0f} s of one core "
        f"({machine['processor']}) and {result['peak_gib']:.2f} GiB of memory, loading included "
        f"([{result['date']}](benchmarks/results/{name}.json){busy})."
    )
