"""The command that users of the original FramePack type: the page, with the same options."""

import sys

from recurvid.cli.main import run

run(["gui", *sys.argv[1:]])
