"""Pooling of images."""

from typing import Any

from theanompi.lasagne.layers import pool

__all__ = ["pool_2d"]


def pool_2d(
    input: Any,
    ws: Any = None,
    ignore_border: bool | None = None,
    stride: Any = None,
    pad: Any = (0, 0),
    mode: str = "max",
    ds: Any = None,
    st: Any = None,
    padding: Any = None,
) -> Any:
    """Pool over windows of the last two axes: :func:`theanompi.lasagne.layers.pool.pool_2d`.

    As in Theano, windows that reach over the border count unless `ignore_border` is true. `ds`, `st` and `padding` are
    former names of `ws`, `stride` and `pad`.
    """
    ws, stride, pad = (
        new if former is None else former for new, former in ((ws, ds), (stride, st), (pad, padding))
    )
    images = input if input.ndim == 4 else input.reshape((-1, 1, *input.shape[-2:]))
    pooled = pool.pool_2d(images, ws, bool(ignore_border), stride, pad, mode)
    return pooled if input.ndim == 4 else pooled.reshape((*input.shape[:-2], *pooled.shape[-2:]))
