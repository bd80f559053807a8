"""``python -m theanompi`` is ``tmlauncher``."""

import signal
import sys


def main() -> int:
    """Run `theanompi.cli.main`; a Ctrl-C before it is imported is one line too."""
    try:
        from theanompi.cli import main
    except KeyboardInterrupt:
        print("tmlauncher: stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT
    return main()


if __name__ == "__main__":
    sys.exit(main())
