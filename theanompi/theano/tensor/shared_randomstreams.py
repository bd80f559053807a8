"""Random variables that every call of a compiled function draws anew, on the device."""

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from theanompi.device import ops
from theanompi.lasagne.random import fresh_state, keys_of

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
        self._states: list[Any] = []

    @property
    def state_updates(self) -> list[tuple[Any, Any]]:
        """What each of the draws so far continues by: a compiled function does it without being told, too."""
        return [(state, state.default_update) for state in self._states]

    def updates(self) -> list[tuple[Any, Any]]:
        """Give :attr:`state_updates`."""
        return self.state_updates

    def seed(self, seed: Any = 12345) -> None:
        """Begin anew, in functions that are compiled already too."""
        self._rng = np.random.default_rng(seed)
        for state in self._states:
            state.set_value(np.int64(self._rng.integers(2**62)))

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
        prob: Any = None,
    ) -> Any:
        """Draw 1 with probability p, else 0; or count the ones of `n` such draws; `prob` is a former name of p."""
        p = p if prob is None else prob
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
        # A last end below 1, by rounding, leaves no number over; nor does a product that is rounded up to it.
        drawn = [self._draw(ops.uniform, (pvals.shape[0],)) * ends[:, -1] for _ in range(n)]
        columns = [pt.sum(u[:, None] >= ends[:, :-1], axis=1, keepdims=True) for u in drawn]
        return sum(pt.eq(column, pt.arange(pvals.shape[1])).astype(dtype) for column in columns)

    def truncated_normal(
        self,
        size: Any,
        avg: Any = 0.0,
        std: Any = 1.0,
        ndim: Any = None,
        dtype: str | None = None,
        nstreams: Any = None,
    ) -> Any:
        """Draw from a normal distribution what is at most two standard deviations from the mean."""
        # Of the distribution function, scaled to (−1, 1), what lies between -2 and 2: erf(√2).
        drawn = avg + std * np.sqrt(2) * pt.erfinv(
            np.float32(0.9544997) * self.uniform(size, -1, 1, dtype="float32")
        )
        return drawn.astype(dtype or pytensor.config.floatX)

    def random_integers(
        self, size: Any = None, low: Any = 0, high: Any = 1, ndim: Any = None, dtype: str = "int64"
    ) -> Any:
        """Draw whole numbers from `low` up to and including `high`, all of them as often."""
        count = high - low + 1
        # The product may be rounded up to the count.
        drawn = pt.minimum(pt.floor(self._draw(ops.uniform, size, low, high) * count), count - 1)
        return low + drawn.astype(dtype)

    def choice(
        self,
        size: Any = None,
        a: Any = 2,
        replace: bool = True,
        p: Any = None,
        ndim: Any = None,
        dtype: str = "int64",
    ) -> Any:
        """Draw from the vector `a`, or the numbers below `a`, each with the probability that the vector `p` says.

        Raises
        ------
        ValueError
            If `replace` is false: :meth:`permutation` draws each number once.
        """
        if not replace:
            raise ValueError(
                "RandomStreams.choice: expected replace=True; permutation draws each number once"
            )
        values = pt.as_tensor_variable(a)
        if p is None:
            drawn = self.random_integers(size, 0, (values.shape[0] if values.ndim else values) - 1)
        else:
            ends = pt.cumsum(p)
            u = pt.shape_padright(self._draw(ops.uniform, () if size is None else size)) * ends[-1]
            drawn = pt.sum(u >= ends[:-1], axis=-1)
        return (values[drawn] if values.ndim else drawn).astype(dtype)

    def permutation(self, size: Any = None, n: Any = 1, ndim: Any = None, dtype: str = "int64") -> Any:
        """Draw the numbers below `n` in some order: along the last axis, after those of `size`."""
        drawn = self._draw(ops.uniform, (*(() if size is None else size), n))
        return pt.argsort(drawn, axis=-1).astype(dtype)

    def shuffle_row_elements(self, input: Any) -> Any:
        """Put what lies along the last axis into another order, for each row one of its own."""
        sizes = [input.shape[axis] for axis in range(input.ndim)]
        return pt.take_along_axis(input, self.permutation(sizes[:-1], sizes[-1]), -1)

    def _draw(self, draw: Any, size: Any, *parameters: Any) -> Any:
        if size is None:
            size = sum(map(pt.as_tensor_variable, parameters)).shape
        sizes = [size[i] for i in range(size.type.shape[0])] if isinstance(size, Variable) else list(size)
        first, *others = sizes or [1]
        state = fresh_state(self._rng)
        self._states.append(state)
        drawn = draw(keys_of(state, first), others, salt=0)
        return drawn if sizes else drawn[0]
