"""Random variables that every call of a compiled function draws anew, on the device."""

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from theanompi.device import ops
from theanompi.lasagne.random import fresh_keys

__all__ = ["RandomStreams"]


class RandomStreams:
    """Theano's random streams: the same seed draws the same numbers, but not Theano's.

    In all of the methods `size` is the shape, a sequence or a vector of known length, and by default that of the
    parameters together; a `dtype` of None is ``floatX``; `ndim` and `nstreams` have no effect.

    Parameters
    ----------
    seed : int or sequence of int
    use_cuda : bool
        Without effect.

    Examples
    --------
    >>> import pytensor
    >>> draw = pytensor.function([], RandomStreams(seed=1).normal((2,), avg=100))
    >>> first, second = draw(), draw()
    >>> bool((first != second).all() and (first > 90).all())
    True
    """

    def __init__(self, seed: Any = 12345, use_cuda: Any = None):
        self._rng = np.random.default_rng(seed)

    def uniform(
        self,
        size: Any = None,
        low: Any = 0.0,
        high: Any = 1.0,
        ndim: Any = None,
        dtype: str | None = None,
        nstreams: Any = None,
    ) -> Any:
        """Draw from the uniform distribution over (low, high)."""
        drawn = low + (high - low) * self._draw(ops.uniform, size, low, high)
        return drawn.astype(dtype or pytensor.config.floatX)

    def normal(
        self,
        size: Any = None,
        avg: Any = 0.0,
        std: Any = 1.0,
        ndim: Any = None,
        dtype: str | None = None,
        nstreams: Any = None,
    ) -> Any:
        """Draw from the normal distribution of mean `avg` and standard deviation `std`."""
        drawn = avg + std * self._draw(ops.normal, size, avg, std)
        return drawn.astype(dtype or pytensor.config.floatX)

    def binomial(
        self,
        size: Any = None,
        n: int = 1,
        p: Any = 0.5,
        ndim: Any = None,
        dtype: str = "int64",
        nstreams: Any = None,
    ) -> Any:
        """Draw 1 with probability p, else 0; or count the ones of `n` such draws."""
        return sum(pt.lt(self._draw(ops.uniform, size, p), p).astype(dtype) for _ in range(n))

    def multinomial(
        self,
        size: Any = None,
        n: int = 1,
        pvals: Any = None,
        ndim: Any = None,
        dtype: str = "int64",
        nstreams: Any = None,
    ) -> Any:
        """Draw for each row of the matrix `pvals` one of its columns, `n` times: counts, of the shape of `pvals`."""
        ends = pt.cumsum(pvals, axis=1)
        # A last end below 1, by rounding, leaves no number over.
        drawn = [self._draw(ops.uniform, (pvals.shape[0],)) * ends[:, -1] for _ in range(n)]
        columns = [pt.sum(u[:, None] >= ends, axis=1, keepdims=True) for u in drawn]
        return sum(pt.eq(column, pt.arange(pvals.shape[1])).astype(dtype) for column in columns)

    def _draw(self, draw: Any, size: Any, *parameters: Any) -> Any:
        if size is None:
            size = sum(map(pt.as_tensor_variable, parameters)).shape
        sizes = [size[i] for i in range(size.type.shape[0])] if isinstance(size, Variable) else list(size)
        first, *others = sizes or [1]
        drawn = draw(fresh_keys(first, self._rng), others, salt=0)
        return drawn if sizes else drawn[0]
