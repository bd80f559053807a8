"""The slides' experiment: averaging weights ("my way") against Goyal et al. 2017 ("their way"), side by side.

    python examples/my_way_vs_their_way.py
    python examples/my_way_vs_their_way.py --workers 4 8 --seeds 5

It is ``tmlauncher compare examples/experiments/slides.toml`` and takes the same flags.
"""

import sys
from pathlib import Path

from theanompi.cli import main

if __name__ == "__main__":
    slides = Path(__file__).parent / "experiments" / "slides.toml"
    sys.exit(main(["compare", str(slides), *sys.argv[1:]]))
