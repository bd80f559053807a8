"""docs/ops.md says what is registered."""

from pathlib import Path

import pytensor
import pytest

from theanompi.device.ops_page import page

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_of_ops_is_what_is_registered() -> None:
    if f"pytensor=={pytensor.__version__}\n" not in (ROOT / "constraints.txt").read_text(encoding="utf-8"):
        pytest.skip("other versions of PyTensor have other names for some ops than that of constraints.txt")
    written = (ROOT / "docs" / "ops.md").read_text(encoding="utf-8")
    assert written == page(), "python -m theanompi.device.ops_page > docs/ops.md"
