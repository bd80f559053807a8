"""What pytest is not to look for doctests in: modules of a package that is not installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("triton") else ["theanompi/device/triton/[a-z]*.py"]
