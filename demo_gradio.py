"""The command that users of the original FramePack type. The page itself is still to come."""

import sys

sys.exit(
    "The page is not there yet; the command line is: "
    'recurvid generate PICTURE --prompt "..." --seconds 5 --out video.mp4'
)
