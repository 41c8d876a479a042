"""``python -m recurvid.gui.fetching NAME``: fetch a known model, telling progress in JSON lines.

A process of its own, so that a download can be stopped at any moment; what is fetched is kept, and
the next one goes on with it. The page starts it only after somebody has accepted the licences.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence

from recurvid.checkpoints.fetch import fetch, plan_fetch
from recurvid.checkpoints.known import KNOWN
from recurvid.errors import Line, RecurVidError

_EVERY = 0.5


def main(arguments: Sequence[str], say: Callable[[str], object] = sys.stdout.write) -> int:
    """Fetch the model that is named; the exit code is 0 when it is complete."""
    lock = threading.Lock()
    done: dict[str, int] = {}
    said_at = 0.0

    def tell(**values: object) -> None:
        say(json.dumps(values) + "\n")
        sys.stdout.flush()

    def progress(name: str, have: int, total: int) -> None:
        nonlocal said_at
        with lock:
            done[name] = have
            if time.monotonic() - said_at >= _EVERY:
                said_at = time.monotonic()
                tell(done=sum(done.values()))

    try:
        if len(arguments) != 1 or arguments[0] not in KNOWN:
            nothing = Line(f"no such model; one of {', '.join(KNOWN)}", "fetch.nothing")
            tell(error=nothing.to_json())
            return 2
        plan = plan_fetch(KNOWN[arguments[0]])
        tell(size=plan.size)
        fetch(plan, progress=progress)
    except RecurVidError as error:
        tell(error=error.line.to_json())
        return error.exit_code
    tell(complete=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
