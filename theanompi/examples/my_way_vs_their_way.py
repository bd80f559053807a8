"""The slides' experiment: averaging weights ("my way") against Goyal et al. 2017 ("their way"), side by side.

    python examples/my_way_vs_their_way.py
    python examples/my_way_vs_their_way.py --workers 4 8 --seeds 5

It is ``tmlauncher compare slides`` and takes the same flags.
"""

import sys

from theanompi.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", "slides", *sys.argv[1:]]))
