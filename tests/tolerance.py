"""How far a result may be from its reference, for each dtype and device: the one place that says so."""

from typing import Any

import numpy as np
import torch

RELATIVE = {
    ("float64", "cpu"): 1e-10,
    ("float64", "cuda"): 1e-10,
    ("float32", "cpu"): 2e-5,
    ("float32", "cuda"): 1e-4,
    ("tf32", "cpu"): 2e-5,
    ("tf32", "cuda"): 4e-3,
    ("bf16", "cpu"): 6e-2,
    ("bf16", "cuda"): 6e-2,
}
"""(dtype or precision, kind of device) → error relative to the largest element of the reference."""


def assert_close(
    got: Any, expected: Any, what: str = "", device: str = "cpu", precision: str | None = None
) -> None:
    """Fail unless `got` has the dtype and shape of `expected` and its values within the tolerance.

    Parameters
    ----------
    got, expected : array_like or torch.Tensor
    what : str
        Names the comparison in the message.
    device : str
        Where `got` was computed.
    precision : str, optional
        A key of `RELATIVE`, if not the dtype of `expected`.
    """
    got, expected = (
        v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else np.asarray(v) for v in (got, expected)
    )
    assert got.dtype == expected.dtype, f"{what}: expected dtype {expected.dtype}, got {got.dtype}"
    assert got.shape == expected.shape, f"{what}: expected shape {expected.shape}, got {got.shape}"
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(got, expected, err_msg=what)
        return
    relative = RELATIVE[precision or str(expected.dtype), device.partition(":")[0]]
    finite = np.abs(expected[np.isfinite(expected)])
    scale = float(finite.max()) if finite.size else 0.0
    np.testing.assert_allclose(got, expected, rtol=relative, atol=relative * scale, err_msg=what)
