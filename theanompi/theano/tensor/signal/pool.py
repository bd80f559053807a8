"""Pooling of images."""

from typing import Any

from theanompi.lasagne.layers import pool

__all__ = ["pool_2d"]


def pool_2d(
    input: Any,
    ws: Any = None,
    ignore_border: bool = True,
    stride: Any = None,
    pad: Any = (0, 0),
    mode: str = "max",
    ds: Any = None,
    st: Any = None,
    padding: Any = None,
) -> Any:
    """Pool images over windows: :func:`theanompi.lasagne.layers.pool.pool_2d`.

    `ds`, `st` and `padding` are former names of `ws`, `stride` and `pad`.
    """
    return pool.pool_2d(input, ws or ds, ignore_border, stride or st, padding or pad, mode)
