"""Writes the reference pages from the code: commands and options, exit codes, errors, settings.

And the tables of other pages that are made from results or plans.

.venv/bin/python docs/reference/write.py          writes the pages here
.venv/bin/python docs/reference/write.py --check  fails if a page is not what would be written
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import typer
from claims import measured
from parts import PARTS, ROOT, replaced

import recurvid.errors
import recurvid.settings
from recurvid.checkpoints.known import KNOWN
from recurvid.cli.exits import EXIT_CODES
from recurvid.cli.main import app
from recurvid.ops.attention.registry import ATTENTION, AUTO
from recurvid.ops.attention.requirements import Requirements
from recurvid.ops.linear.forms import FORMS

HERE = Path(__file__).parent
HEAD = "<!-- Written by docs/reference/write.py out of the code; changes here are lost. -->\n"

AUTO_WORDS = """`flash4` on Hopper only, where it was measured: 1.14 times as fast as `cudnn` on an
H100, with kernels that its compiler made for this card ([measured steps](measured.md)). It is
installed with `pip install "flash-attn-4[cu13]"`. On other cards `flash4` runs when it is named
(the library has code for compute capability 8.0 to 12.x) and is *untested*. `auto` never takes
8 bits."""
PRODUCTS_WORDS = """What multiplies, on the card that a layer finds itself on: `int8` our Triton
kernel with tiles from the copy engine on Hopper and newer, without it from Ampere on, torch's
product on Turing; `fp8` torch's product with scales by row on Hopper and newer, with scales applied
after it on Ada. GELU, joining and rounding of a hidden layer are one kernel, so are norm and phases
of queries and keys (`--compile`, or 8 bits). Triton comes with torch on Linux; without it torch's
products serve. Run so far on an H100 only: all other cards are *untested*."""


def cell(text: str) -> str:
    """Text for one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def spelling(parameter: Any) -> str:
    """How an option is typed."""
    names = [*parameter.opts, *parameter.secondary_opts]
    return ", ".join(f"`{name}`" for name in names)


def commands(command: Any, path: str) -> list[str]:
    """A section for a command and each command below it."""
    lines = [f"## {path}", "", " ".join((command.help or "").split("\f")[0].split()), ""]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    if arguments or options:
        lines += ["| | |", "|---|---|"]
        lines += [
            f"| `{(a.metavar or a.name)}` | {cell(getattr(a, 'help', '') or '')} |"
            for a in arguments
        ]
        lines += [f"| {spelling(o)} | {cell(o.help or '')} |" for o in options]
        lines.append("")
    for name, child in sorted(getattr(command, "commands", {}).items()):
        lines += commands(child, f"{path} {name}")
    return lines


def cli() -> str:
    """The command line, and what its exit codes mean."""
    lines = [HEAD, "# The command line", ""]
    lines += commands(typer.main.get_command(app), "recurvid")
    lines += ["## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code} | {cell(meaning)} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(lines) + "\n"


def settings() -> str:
    """Environment variables and errors, as their modules document them."""

    def doc(module: Any) -> list[str]:
        return ["```text", inspect.getdoc(module) or "", "```", ""]

    lines = [HEAD, "# Environment and errors", "", "## Environment", "", *doc(recurvid.settings)]
    return "\n".join([*lines, "## Errors", "", *doc(recurvid.errors)]).rstrip() + "\n"


def models() -> str:
    """Known models: parts, repositories, terms."""
    lines = [HEAD, "# Known models", ""]
    licences = {}
    for spec in KNOWN.values():
        lines += [f"## {spec.name}", "", spec.title, ""]
        made = spec.defaults
        lines += [
            f"Order `{made.order}`, schedule `{made.schedule}`, {made.fps:g} frames a second, "
            f"base size {made.base}, {made.steps} steps.",
            "",
            "| part | from | size | terms |",
            "|---|---|---|---|",
        ]
        for part in spec.components:
            where = f"{part.repo} {part.folder}".strip() or "this package"
            size = f"{part.size / 1e9:.1f} GB" if part.size >= 1e8 else f"{part.size / 1e6:.0f} MB"
            lines.append(
                f"| {part.role} | {where} | {size if part.repo else ''} | {part.licence.name} |"
            )
            licences[part.licence.name] = part.licence
        lines.append("")
    lines += ["## Terms", "", "In our words; the text itself is what counts.", ""]
    lines += [f"- **{name}**: {terms.summary}" for name, terms in sorted(licences.items())]
    return "\n".join(lines) + "\n"


def kernels() -> str:
    """Attention kernels and forms of weights, as their registries have them."""
    auto = ", ".join(f"`{backend.name}`" for backend in AUTO)
    lines = [HEAD, "# Kernels and forms", "", "## Attention", ""]
    lines += [f"`auto` takes the first of {auto} that can serve a call;", AUTO_WORDS, ""]
    lines += ["| name | what it is | needs | |", "|---|---|---|---|"]
    for backend in ATTENTION.values():
        said = (inspect.getdoc(backend.function) or "").split("\n\n")[0].rstrip(".")
        notes = ["8 bits"] * (not backend.exact) + ["*untested*"] * backend.untested
        needs = _needs(backend.why_not)
        lines.append(f"| `{backend.name}` | {cell(said)} | {needs} | {', '.join(notes)} |")
    lines += [
        "",
        "*untested*: no version of the library has run with this code; the call was checked",
    ]
    lines += ["against the library's documented signature.", "", "## Forms of weights", ""]
    lines += ["| name | bits a weight | for |", "|---|---|---|"]
    lines += [f"| `{name}` | {form.bits:g} | {form.helps} |" for name, form in FORMS.items()]
    lines += ["", PRODUCTS_WORDS]
    return "\n".join(lines) + "\n"


def _needs(limits: Any) -> str:
    """A kernel's requirements in words."""
    if not isinstance(limits, Requirements):
        return "nothing"
    needs = [" or ".join(name.upper() for name in limits.devices)]
    if limits.capability > (0, 0):
        newest = "" if limits.most_capability is None else " to below {}.{}"
        card = "compute capability {}.{}".format(*limits.capability)
        needs.append(card + newest.format(*(limits.most_capability or ())))
    needs.append("or ".join(str(t).removeprefix("torch.") + " " for t in limits.dtypes).strip())
    needs.append(f"heads of up to {limits.head_dim}" if limits.head_dim < 2**16 else "")
    needs.append(f"`{limits.library}`" if limits.library else "")
    return ", ".join(filter(None, needs))


def main() -> int:
    """Write or check all pages."""
    check = "--check" in sys.argv
    for page in (cli, settings, models, kernels, measured):
        file, made = HERE / f"{page.__name__}.md", page()
        if not check:
            file.write_text(made, encoding="utf-8", newline="\n")
        elif not file.is_file() or file.read_text(encoding="utf-8") != made:
            print(f"{file.name} is out of date; run docs/reference/write.py")
            return 1
    for page, name, make in PARTS:
        file = ROOT / page
        text = file.read_text(encoding="utf-8")
        made = replaced(text, name, make())
        if made != text and check:
            print(f"{page}: the part {name!r} is out of date; run docs/reference/write.py")
            return 1
        file.write_text(made, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
