"""Initial values of parameters.

An initialiser is called with a shape and gives a float32 array, drawn from
:func:`theanompi.lasagne.random.get_rng`.

>>> from theanompi.lasagne.layers import DenseLayer
>>> layer = DenseLayer((100, 20), num_units=50, W=HeNormal(gain="relu"), b=Constant(0.0))
>>> layer.W.get_value().shape
(20, 50)
"""

from collections.abc import Callable, Iterable

import numpy as np

from theanompi.lasagne.random import get_rng
from theanompi.lasagne.utils import floatX

__all__ = [
    "Constant",
    "Glorot",
    "GlorotNormal",
    "GlorotUniform",
    "He",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "Normal",
    "Orthogonal",
    "Sparse",
    "Uniform",
]


class Initializer:
    """Base of the initialisers: a subclass defines :meth:`sample`."""

    def __call__(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draw an array; see :meth:`sample`."""
        return self.sample(shape)

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draw an array.

        Parameters
        ----------
        shape : tuple of int

        Returns
        -------
        numpy.ndarray
            float32, of that shape.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define sample()")


class Normal(Initializer):
    """Draw from the normal distribution N(mean, std²).

    Parameters
    ----------
    std, mean : float

    Examples
    --------
    >>> Normal(std=0.01)((2, 3)).dtype
    dtype('float32')
    """

    def __init__(self, std: float = 0.01, mean: float = 0.0):
        self.std, self.mean = std, mean

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draw an array; see :meth:`Initializer.sample`."""
        return floatX(get_rng().normal(self.mean, self.std, size=shape))


class Uniform(Initializer):
    """Draw from the uniform distribution over an interval.

    Parameters
    ----------
    range : float or tuple of two floats
        The interval, or r for (−r, r). Without effect if `std` is given.
    std : float, optional
        Standard deviation, instead of the interval.
    mean : float
        Used with `std` only.

    Examples
    --------
    >>> Uniform(0.5).range, Uniform((0, 1)).range
    ((-0.5, 0.5), (0, 1))
    """

    def __init__(
        self, range: float | tuple[float, float] = 0.01, std: float | None = None, mean: float = 0.0
    ):
        if std is not None:
            half_width = np.sqrt(3) * std
            self.range = (mean - half_width, mean + half_width)
        else:
            low, high = range if isinstance(range, Iterable) else (-range, range)
            self.range = (low, high)

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draw an array; see :meth:`Initializer.sample`."""
        return floatX(get_rng().uniform(*self.range, size=shape))


class Constant(Initializer):
    """Fill with one value.

    Parameters
    ----------
    val : float

    Examples
    --------
    >>> Constant(0.5)((2,))
    array([0.5, 0.5], dtype=float32)
    """

    def __init__(self, val: float = 0.0):
        self.val = val

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Fill an array; see :meth:`Initializer.sample`."""
        return floatX(np.full(shape, self.val))


class _Scaled(Initializer):
    """Weights whose standard deviation follows from the shape of a dense or a convolutional layer."""

    def __init__(self, initializer: Callable[..., Initializer], gain: float | str = 1.0, c01b: bool = False):
        self.initializer = initializer
        self.gain = _gain(gain)
        self.c01b = c01b

    def _std(self, shape: tuple[int, ...]) -> float:
        raise NotImplementedError

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draw an array of two or more dimensions (`c01b`: four); see :meth:`Initializer.sample`."""
        if self.c01b and len(shape) != 4:
            raise RuntimeError(f"{type(self).__name__}: c01b expects a shape of 4 dimensions, got {shape}")
        _require_matrix(self, shape)
        out_first = (shape[3], *shape[:3]) if self.c01b else shape
        return self.initializer(std=self.gain * self._std(out_first)).sample(shape)


class Glorot(_Scaled):
    """Draw with the standard deviation gain · √(2 / (fan_in + fan_out)) [1]_.

    The fans of a convolution's (out, in, rows, columns) count every tap of the filter.

    Parameters
    ----------
    initializer : callable
        A distribution that takes ``std``: :class:`Normal` or :class:`Uniform`.
    gain : float or 'relu'
        1 for linear and sigmoid units; ``'relu'`` stands for √2.
    c01b : bool
        The shape is that of filters in cuda-convnet's order, (in, rows, columns, out).

    References
    ----------
    .. [1] X. Glorot and Y. Bengio (2010): Understanding the difficulty of training deep feedforward
       neural networks. AISTATS, equation 12.

    Examples
    --------
    >>> Glorot(Normal)((300, 100)).shape
    (300, 100)
    """

    def _std(self, shape: tuple[int, ...]) -> float:
        return float(np.sqrt(2 / ((shape[0] + shape[1]) * np.prod(shape[2:]))))


class GlorotNormal(Glorot):
    """:class:`Glorot` with a normal distribution.

    Parameters
    ----------
    gain, c01b
        As there.

    Examples
    --------
    >>> GlorotNormal()((300, 100)).shape
    (300, 100)
    """

    def __init__(self, gain: float | str = 1.0, c01b: bool = False):
        super().__init__(Normal, gain, c01b)


class GlorotUniform(Glorot):
    """:class:`Glorot` with a uniform distribution: the default of the layers' weights.

    Parameters
    ----------
    gain, c01b
        As there.

    Examples
    --------
    >>> bool(abs(GlorotUniform()((30, 20))).max() <= np.sqrt(6 / 50))
    True
    """

    def __init__(self, gain: float | str = 1.0, c01b: bool = False):
        super().__init__(Uniform, gain, c01b)


class He(_Scaled):
    """Draw with the standard deviation gain · √(1 / fan_in) [1]_.

    Parameters
    ----------
    initializer : callable
        A distribution that takes ``std``: :class:`Normal` or :class:`Uniform`.
    gain : float or 'relu'
        1 for linear and sigmoid units; ``'relu'`` stands for √2, which is He's own choice.
    c01b : bool
        The shape is that of filters in cuda-convnet's order, (in, rows, columns, out).

    References
    ----------
    .. [1] K. He et al. (2015): Delving deep into rectifiers. arXiv:1502.01852, equation 10.

    Examples
    --------
    >>> He(Normal, gain="relu")((64, 3, 7, 7)).shape
    (64, 3, 7, 7)
    """

    def _std(self, shape: tuple[int, ...]) -> float:
        # A dense layer's weights are (in, out), a convolution's (out, in, rows, columns).
        fan_in = shape[0] if len(shape) == 2 else np.prod(shape[1:])
        return float(np.sqrt(1 / fan_in))


class HeNormal(He):
    """:class:`He` with a normal distribution.

    Parameters
    ----------
    gain, c01b
        As there.

    Examples
    --------
    >>> HeNormal("relu")((64, 3, 7, 7)).shape
    (64, 3, 7, 7)
    """

    def __init__(self, gain: float | str = 1.0, c01b: bool = False):
        super().__init__(Normal, gain, c01b)


class HeUniform(He):
    """:class:`He` with a uniform distribution.

    Parameters
    ----------
    gain, c01b
        As there.

    Examples
    --------
    >>> bool(abs(HeUniform()((30, 20))).max() <= np.sqrt(3 / 30))
    True
    """

    def __init__(self, gain: float | str = 1.0, c01b: bool = False):
        super().__init__(Uniform, gain, c01b)


class Sparse(Initializer):
    """Draw a matrix whose columns have a given number of weights that are not zero [1]_, from N(0, std²).

    Parameters
    ----------
    sparsity : float
        The share of weights in a column that are not zero, rounded down to whole weights.
    std : float

    References
    ----------
    .. [1] J. Martens (2010): Deep learning via Hessian-free optimization. ICML, section 5.
    """

    def __init__(self, sparsity: float = 0.1, std: float = 0.01):
        self.sparsity, self.std = sparsity, std

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draw an array of two dimensions; see :meth:`Initializer.sample`."""
        if len(shape) != 2:
            raise RuntimeError(f"Sparse: expected a shape of 2 dimensions, got {shape}")
        rows, columns = shape
        rng, drawn = get_rng(), int(self.sparsity * rows)
        weights = np.zeros(shape)
        for column in range(columns):
            weights[rng.permutation(rows)[:drawn], column] = rng.normal(0, self.std, size=drawn)
        return floatX(weights)


class Orthogonal(Initializer):
    """Draw a random orthogonal matrix, times `gain` [1]_.

    Axes after the first count as one, so that a convolution's filters are orthogonal to each other.

    Parameters
    ----------
    gain : float or 'relu'
        ``'relu'`` stands for √2.

    References
    ----------
    .. [1] A. Saxe et al. (2013): Exact solutions to the nonlinear dynamics of learning in deep linear
       neural networks. arXiv:1312.6120.

    Examples
    --------
    >>> w = Orthogonal()((4, 4))
    >>> bool(np.allclose(w @ w.T, np.eye(4), atol=1e-6))
    True
    """

    def __init__(self, gain: float | str = 1.0):
        self.gain = _gain(gain)

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draw an array of two or more dimensions; see :meth:`Initializer.sample`."""
        _require_matrix(self, shape)
        flat_shape = (shape[0], int(np.prod(shape[1:])))
        u, _, v = np.linalg.svd(get_rng().normal(size=flat_shape), full_matrices=False)
        q = u if u.shape == flat_shape else v
        return floatX(self.gain * q.reshape(shape))


def _gain(gain: float | str) -> float:
    if gain == "relu":
        return float(np.sqrt(2))
    if isinstance(gain, str):
        raise ValueError(f"gain: expected a number or 'relu', got {gain!r}")
    return gain


def _require_matrix(initializer: Initializer, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        what = type(initializer).__name__
        raise RuntimeError(f"{what}: expected a shape of 2 or more dimensions, got {shape}")
