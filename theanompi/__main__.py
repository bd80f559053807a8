"""``python -m theanompi`` is ``tmlauncher``."""

import sys

from theanompi.cli import main

if __name__ == "__main__":
    sys.exit(main())
