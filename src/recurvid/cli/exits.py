"""Exit codes: one table for the help page, the reference and the tests."""

from __future__ import annotations

OK = 0
UNEXPECTED = 1
OUT_OF_MEMORY = 8
INTERRUPTED = 130
TERMINATED = 143

EXIT_CODES: dict[int, str] = {
    OK: "done",
    UNEXPECTED: "an error nobody foresaw (RECURVID_DEBUG=1 shows its trace)",
    2: "wrong input: option, request, schedule or picture",
    3: "the result cannot be written where it was asked for",
    4: "a model file is missing, damaged or refused",
    5: "a device, kernel library or extra is not there, or the self check failed",
    6: "a session folder cannot be used or resumed",
    7: "NaN or infinity where a picture should be",
    OUT_OF_MEMORY: "out of memory",
    INTERRUPTED: "stopped with Ctrl-C; the session can be resumed",
    TERMINATED: "stopped by SIGTERM; the session can be resumed",
}


def epilog() -> str:
    """The table as the last paragraph of ``recurvid --help``."""
    rows = "  \n".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items())
    return f"Exit codes  \n{rows}"
