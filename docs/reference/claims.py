"""The README's table: what was measured beside others, the floor, and what was aimed at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from measurements import HEAD, RESULTS, results, tables

from recurvid.ops.attention.registry import ATTENTION

REFERENCE = "reference-h100"
#: FlashAttention 4's kernel without its library; and kernels that do not ship.
SAVED_EXACT = "saved:t128x128"
EXPERIMENTS = ("saved:f8_128x224", "saved:qk8_128x176", "simulated", "reference")


@dataclass(frozen=True)
class Target:
    """What was aimed at.

    Attributes:
        limit: that must be kept.
        least: whether more is better.
        aim: that would be better still; None for none.
    """

    limit: float
    least: bool = False
    aim: float | None = None

    def judged(self, value: float, unit: str = "") -> str:
        """Whether it is met, by the digits that are shown; else by how much it is missed."""
        sign = "≥" if self.least else "≤"
        off = self.limit - value if self.least else value - self.limit
        met = "met" if off < 0.0005 else f"**missed by {off:.2g}{unit}**"
        said = f"{sign} {self.limit:g}{unit}: {met}"
        if self.aim is not None and (value < self.aim if self.least else value > self.aim):
            said += f" ({self.aim:g} was hoped for)"
        return said


def reference() -> dict[str, Any]:
    """Figures that came with the task."""
    return json.loads((RESULTS / f"{REFERENCE}.json").read_text(encoding="utf-8"))


def floors() -> dict[str, float]:
    """Milliseconds that a step cannot go below: by arithmetic at the best rates; by the bus."""
    known = reference()
    work, rate = known["step_tflop"], known["tflops"]
    attention = work["attention"] / rate["attention_bf16"]
    return {
        "bf16": 1000 * (work["linear"] / rate["linear_bf16"] + attention),
        "8-bit": 1000 * (work["linear"] / rate["linear_8bit"] + attention),
        "8-bit attention": 1000
        * (work["linear"] / rate["linear_8bit"] + work["attention"] / rate["attention_8bit"]),
        "bus": 1000 * known["weights_gb"] / known["bus_gb_s"],
    }


def row(*cells: str, file: str, result: dict[str, Any]) -> str:
    """A row of the table, with the day, the card and the file that it is made from."""
    card = str(result.get("card") or result.get("device")).split()[1]
    day = result["date"] if result.get("date") else file[-10:]
    return f"| {' | '.join(cells)} | [{day}, {card}](benchmarks/results/{file}.json) |"


def fastest(forms: tuple[str, ...], *, exact: bool) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The fastest step of some forms in the newest file that has one: name, all of it, the step.

    Raises:
        LookupError: no file has one.
    """
    for name, result in reversed(results("step-speed-*.json")):
        steps = [
            {**facts, "form": variant.partition("@")[0]}
            for variant, facts in result["variants"].items()
            if "ms" in facts
            and variant.partition("@")[0] in forms
            and _is_exact(facts["attention"]) == exact
            and facts["attention"] not in EXPERIMENTS
        ]
        if steps:
            return name, result, min(steps, key=lambda step: step["ms"])
    raise LookupError(f"{forms} with exact={exact}")


def measured() -> str:
    """The page of everything that was measured: first what was aimed at, then all tables."""
    floor = floors()
    words = [
        "What was aimed at, and what was reached, each with its day and card. Floors are what the",
        "products and attention of a step take at the best rates that such a card was measured to",
        f"reach ([given](../../benchmarks/results/{REFERENCE}.json)): {floor['bf16']:.0f} ms in 16",
        f"bits, {floor['8-bit']:.0f} with 8-bit linears, {floor['8-bit attention']:.0f} with 8-bit",
        f"attention too; and {floor['bus']:.0f} ms for all weights over its bus.",
    ]
    table = fast_and_small().replace("](benchmarks/", "](../../benchmarks/")
    lines = [HEAD, "# Measured", "", "## Aimed at and reached", "", *words, "", table, ""]
    return "\n".join([*lines, *tables()]).rstrip() + "\n"


def _is_exact(attention: str) -> bool:
    """Whether a kernel rounds to no less than its inputs' 16 bits."""
    known = ATTENTION.get(attention)
    if known is None:
        return attention == SAVED_EXACT or attention.startswith("own:bf16:")
    return known.exact


def fast_and_small() -> str:
    """The table."""
    floor, known = floors(), reference()["ms"]
    eight = ("int8", "int8-fused", "int8-eager", "int8-graph", "int8-kept")
    others = (
        f"diffusers streaming {known['diffusers, streamed, 6 GiB']:,} ms, the original "
        f"{known['the original, 6 GiB']:,} ms ([given]"
        f"(benchmarks/results/{REFERENCE}.json))"
    )
    lines = [
        "| 13B model, 832x480 | took | beside it | floor | aimed at | when, where |",
        "|---|---|---|---|---|---|",
        _step("a step, 16 bits, compiled", ("compiled-fused", "compiled"), floor["bf16"],
              Target(1.45, least=True)),
        _step("a step, int8 linears", eight, floor["8-bit"], Target(1.7, True, 1.9), error=3),
        _step("a step, 8-bit linears, 8-bit attention", (*eight, "fp8-fused"),
              floor["8-bit attention"], Target(2.0, True, 2.3), exact=False),
        _streamed("pinned memory", "bf16-pinned-compiled", Target(1.05), others),
        _streamed("the file in page cache", "bf16-mapped-compiled", Target(1.3), ""),
        _decode("whole frames", "lean", "18 latents whole"),
        _decode("windows of the 6 GB plan", "lean-windows", "18 latents tiled"),
        *_capped(),
    ]  # fmt: skip
    return "\n".join(lines)


def _step(
    what: str,
    forms: tuple[str, ...],
    floor: float,
    target: Target,
    *,
    exact: bool = True,
    error: float | None = None,
) -> str:
    name, result, step = fastest(forms, exact=exact)
    ratio, off = round(step["ratio"], 2), round(100 * step["error_bf16"], 1)
    aimed = target.judged(ratio, "×")
    if error is not None:
        aimed += f"; error {Target(error).judged(off, ' %')}"
    how = ", not compiled" if "eager" in step["form"] and "not" not in what else ""
    return row(
        f"{what}{how}",
        f"{step['ms']:.0f} ms, {off:.1f} % from plain bf16",
        f"{ratio:.2f}× diffusers ({result['ms_diffusers']:.0f} ms)",
        f"{floor:.0f} ms",
        aimed,
        file=name,
        result=result,
    )


def _newest(pattern: str, group: str, key: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    for name, result in reversed(results(pattern)):
        found = result.get(group, {}).get(key, {})
        if "ms" in found:
            return name, result, found
    raise LookupError(f"{pattern} with {group}, {key}")


def _streamed(where: str, variant: str, target: Target, others: str) -> str:
    name, result, facts = _newest("streaming-step-832x480-*.json", "variants", variant)
    of = round(facts["of_resident"], 3)
    bits = "" if facts["equal"] else "; **not the same bits**"
    return row(
        f"a step under {result['cap_gib']:g} GiB, 16 bits, weights from {where}",
        f"{facts['ms']:.0f} ms",
        f"{of:.3f} of the same, resident{'; ' if others else ''}{others}",
        f"{floors()['bus']:.0f} ms of bus",
        target.judged(of) + bits,
        file=name,
        result=result,
    )


def _decode(what: str, variant: str, beside: str) -> str:
    name, result, facts = _newest("vae-decode-832x480-*.json", "ours", variant)
    theirs = result["peer"][beside]["ms"]
    off, of = facts["difference"]["worst_levels"], round(facts["ms"] / theirs, 2)
    return row(
        f"decode of a section, {what}",
        f"{facts['ms']:,.0f} ms, at worst {off:.0f} of 255 levels from a whole fp32 decode",
        f"{of:.2f} of diffusers as the original calls it ({theirs:,.0f} ms)",
        "",
        Target(0.5).judged(of),
        file=name,
        result=result,
    )


def _capped() -> list[str]:
    """Rows of the whole runs under 6 GiB of the newest file."""
    file, result = results("whole-run-[0-9]*.json")[-1]
    told = {
        "device_gib": "of the card",
        "reserved_gib": "reserved by torch",
        "process_gib": "of memory",
    }
    rows: list[str] = []
    for name in ("vram6-bf16", "vram6-int8"):
        run = result["runs"][name]
        took = ", ".join(f"{run['peaks'][key]:.2f} GiB {words}" for key, words in told.items())
        aimed = "; ".join(
            Target(run["limits"][key]).judged(round(run["peaks"][key], 2), " GiB") for key in told
        )
        weights = run["run"]["weights"]
        rows.append(
            row(
                f"a run of {len(run['sections'])} sections, `--vram 6 --weights {weights}`, "
                "6 GiB free on the card",
                f"{took}; {run['step_seconds_median']:.2f} s a step, "
                f"{run['seconds_a_frame']:.2f} s a frame",
                f"{run['times_peer']:.2f}× diffusers streaming",
                "",
                aimed,
                file=file,
                result=result,
            )
        )
    return rows
