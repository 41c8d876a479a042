"""``python -m recurvid`` and the command ``recurvid``: Ctrl-C is one line from the start on."""

import sys


def run() -> None:
    """Import the command line and run it."""
    try:
        from recurvid.cli.main import run as run_command_line
    except KeyboardInterrupt:
        sys.stderr.write("recurvid: stopped\n")
        sys.exit(130)
    run_command_line()


if __name__ == "__main__":
    run()
