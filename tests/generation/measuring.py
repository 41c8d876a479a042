"""Peak memory of a session by section. A program: ROOT REQUEST -> a line of JSON a section."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import psutil
import torch
from tests.generation.sessions import opened, start

from recurvid.events import SectionDone


def main() -> None:
    torch.set_num_threads(1)
    journal = start(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    process = psutil.Process()
    for event in opened(journal).run():
        if isinstance(event, SectionDone):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            values = {"section": event.section, "now": process.memory_info().rss, "peak": peak}
            sys.stdout.write(json.dumps(values) + "\n")


if __name__ == "__main__":
    main()
