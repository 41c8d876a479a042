"""The ``recurvid`` command: mounts the commands, turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from recurvid import __version__
from recurvid.cli import exits
from recurvid.cli.bench import bench
from recurvid.cli.doctor import doctor
from recurvid.cli.generate import generate
from recurvid.cli.gui import gui
from recurvid.cli.info import info
from recurvid.cli.models import app as models
from recurvid.cli.output import Output
from recurvid.cli.resume import resume
from recurvid.cli.selfcheck import selfcheck
from recurvid.cli.serve import serve
from recurvid.cli.stopping import Stopped
from recurvid.cli.tables import printable
from recurvid.errors import ComponentError, InputError, OutputError, RecurVidError
from recurvid.settings import settings

# typer bundles click since 0.20 or so; the class is reached through what typer itself exports.
_UsageError = cast(type[Exception], typer.BadParameter.__mro__[2])

_DISK_FULL = OutputError.exit_code
_LONGEST = 1000
#: What torch raises while it compiles.
_COMPILING = ("BackendCompilerFailed", "InductorError", "InternalTorchDynamoError", "Unsupported")

app = typer.Typer(
    name="recurvid",
    help="One picture and a prompt become a long video, section by section.",
    epilog=exits.epilog(),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(generate)
app.command()(resume)
app.command()(info)
app.command()(doctor)
app.command()(bench)
app.command()(gui)
app.command()(selfcheck)
app.command()(serve)
app.add_typer(models, name="models")


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"recurvid {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """One picture and a prompt become a long video, section by section."""


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with a documented exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a picture's name may be no text at all
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_exit_code(given))


def _exit_code(arguments: list[str]) -> int:
    output = Output(as_json="--json" in arguments)
    try:
        # typer's own stand-alone mode would print a box of many lines for a usage error.
        code = app(args=arguments, prog_name="recurvid", standalone_mode=False)
        return code if isinstance(code, int) else exits.OK
    except _UsageError as error:
        message = str(getattr(error, "format_message", error.__str__)()) or str(error)
        if message:
            _report(output, error, message.replace("\n", " "), 2)
        return 2
    except RecurVidError as error:
        _report(output, error, str(error), error.exit_code)
        return error.exit_code
    except Stopped as stop:
        _report(output, stop, str(stop), stop.exit_code)
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort) as error:
        _report(output, error, "stopped", exits.INTERRUPTED)
        return exits.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output went away; keep the interpreter from complaining as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.UNEXPECTED
    except Exception as error:  # noqa: BLE001 - the last line of defence before a stack trace
        code, message = _unforeseen(error)
        _report(output, error, message, code)
        return code


def _unforeseen(error: Exception) -> tuple[int, str]:
    text = " ".join(str(error).split())[:300]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return exits.OUT_OF_MEMORY, f"out of memory; try a smaller --size ({text})"
    if type(error).__name__ in _COMPILING:
        from recurvid.models.compiler import told

        return ComponentError.exit_code, f"compiling failed: {told(error)}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _DISK_FULL, f"the disk is full ({error.filename or text}); make room and resume"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return InputError.exit_code, f"{error.filename}: this name is too long; take a shorter one"
    if isinstance(error, PermissionError) and error.filename:
        return InputError.exit_code, f"{error.filename}: {error.strerror}; change who may use it"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return exits.UNEXPECTED, f"{where}{error.strerror}"
    return exits.UNEXPECTED, f"unexpected {type(error).__name__}: {text}"


def _report(output: Output, error: BaseException, message: str, code: int) -> None:
    # Names out of files may end up in a message; none may steer the terminal or fake a second line.
    message = " ".join(printable(message).splitlines())
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    if settings().debug:
        traceback.print_exception(error)
    if output.as_json:
        told = {"event": "error", "error": type(error).__name__, "message": message}
        if isinstance(error, RecurVidError) and error.line.key:
            told |= {"said": error.line.to_json()}
        output.record({**told, "exit_code": code})
    else:
        Output().notes.print(f"recurvid: {message}", markup=False)
