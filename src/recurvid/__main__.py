"""``python -m recurvid`` is ``recurvid``."""

from recurvid.cli.main import run

if __name__ == "__main__":
    run()
