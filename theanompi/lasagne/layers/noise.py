"""Layers that disturb their input during training."""

import zlib
from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from theanompi.device import ops
from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.layers.dense import known_or_symbolic_size
from theanompi.lasagne.layers.helper import get_all_layers
from theanompi.lasagne.random import fresh_keys
from theanompi.lasagne.utils import as_floats

__all__ = [
    "DropoutLayer",
    "GaussianNoiseLayer",
    "dropout",
    "dropout_channels",
    "dropout_locations",
    "spatial_dropout",
]


def identity_of(layer: Layer) -> str:
    """What tells a layer from others, where random numbers depend on it: its name, or else its place."""
    return f"after {len(get_all_layers(layer)) - 1} layers" if layer.name is None else layer.name


def salt_of(layer: Layer) -> int:
    """What tells the random numbers of a layer from those of others: a hash of its identity."""
    return zlib.crc32(identity_of(layer).encode())


def keys_of(input: Any, sample_keys: Any, shared_axes: Sequence[int] = ()) -> Any:
    """The keys that the random numbers for a minibatch are functions of.

    Parameters
    ----------
    input : pytensor variable
        The minibatch.
    sample_keys : pytensor vector of int64, or None
        What :func:`get_output` was given; without any there are new ones at every call of a compiled function.
    shared_axes : sequence of int
        Axes along which everything draws the same.

    Returns
    -------
    pytensor vector of int64
        (n,), one for each sample; (1,) where axis 0 is shared.

    Raises
    ------
    ValueError
        If there are keys and samples share what is drawn: it would depend on which of them are in the minibatch.
    """
    if sample_keys is None:
        return fresh_keys(1 if 0 in shared_axes else known_or_symbolic_size(input, 0))
    if 0 in shared_axes:
        raise ValueError("expected shared_axes without axis 0 where there are sample_keys, got both")
    return sample_keys


def drawn_shape(input: Any, shared_axes: Sequence[int] = ()) -> list[Any]:
    """The shape of what is drawn for each sample: that of the input after the first axis, 1 where it is shared.

    Sizes that are not known are symbols.
    """
    return [
        1 if axis in shared_axes else known_or_symbolic_size(input, axis) for axis in range(1, input.ndim)
    ]


class DropoutLayer(Layer):
    """Dropout [1]_: set elements to zero with probability p, unless ``deterministic=True``.

    Without further keywords new elements are dropped at every call of a compiled function; their random state starts
    from :func:`theanompi.lasagne.random.get_rng`. With ``sample_keys``, as a trainer asks for it, the mask of a sample
    is a pure function of its key and of the layer's name: it does not depend on how a minibatch is split.

    Parameters
    ----------
    incoming : Layer or tuple
    p : float or pytensor scalar
        Probability of a zero, in [0, 1); a shared variable may be changed between calls.
    rescale : bool
        Divide what is left by 1 − p, so that the mean stays the same.
    shared_axes : tuple of int
        Axes along which elements are dropped together: (2, 3) drops whole channels, (0,) the same elements of all
        samples.
    name : str, optional
        Without a name, the number of layers up to this one takes its place.

    Attributes
    ----------
    salt : int
        What tells this layer's masks from those of others.

    Raises
    ------
    ValueError
        If p or `shared_axes` is out of range.

    References
    ----------
    .. [1] N. Srivastava et al. (2014): Dropout, a simple way to prevent neural networks from overfitting.
       JMLR 15.

    Examples
    --------
    >>> DropoutLayer((None, 64, 8, 8), p=0.2, shared_axes=(2, 3), name="drop").output_shape
    (None, 64, 8, 8)
    """

    def __init__(
        self,
        incoming: Incoming,
        p: Any = 0.5,
        rescale: bool = True,
        shared_axes: Sequence[int] = (),
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.p = p
        self.rescale = rescale
        dimensions = len(self.input_shape)
        self.shared_axes = tuple(axis % dimensions for axis in shared_axes)
        if not isinstance(p, Variable) and not 0 <= p < 1:
            raise ValueError(f"{self}: expected p in [0, 1), got {p}")
        if any(not -dimensions <= axis < dimensions for axis in shared_axes):
            raise ValueError(
                f"{self}: expected shared_axes in [{-dimensions}, {dimensions}), got {tuple(shared_axes)}"
            )
        self.salt = salt_of(self)

    def get_output_for(
        self, input: Any, deterministic: bool = False, sample_keys: Any = None, **kwargs: Any
    ) -> Any:
        """Drop elements.

        Parameters
        ----------
        input : pytensor variable
        deterministic : bool
            Return the input as it is.
        sample_keys : pytensor vector of int64, optional
            (n,), a random key for each sample.

        Returns
        -------
        pytensor variable

        Raises
        ------
        ValueError
            If there are keys and samples share one mask: it would depend on which of them are in the minibatch.
        """
        symbolic = isinstance(self.p, Variable)
        if deterministic or (not symbolic and self.p == 0):
            return input
        keys, shape = keys_of(input, sample_keys, self.shared_axes), drawn_shape(input, self.shared_axes)
        if symbolic:
            p = pt.cast(self.p, "float32")
            kept: Any = pt.gt(ops.uniform(keys, shape, self.salt), p)
            return input * (kept / (1 - p) if self.rescale else kept)
        mask: Any = ops.dropout_mask(keys, shape, self.p, self.salt)
        return input * (mask if self.rescale else mask * pt.cast(1 - self.p, mask.dtype))


dropout = DropoutLayer


def dropout_channels(incoming: Incoming, *args: Any, **kwargs: Any) -> DropoutLayer:
    """Drop whole channels of images [1]_: a :class:`DropoutLayer` whose axes after the second are shared.

    Parameters
    ----------
    incoming : Layer or tuple
    *args, **kwargs
        For :class:`DropoutLayer`.

    Returns
    -------
    DropoutLayer

    References
    ----------
    .. [1] J. Tompson et al. (2015): Efficient object localization using convolutional networks. arXiv:1411.4280.

    Examples
    --------
    >>> dropout_channels((None, 64, 8, 8), p=0.2).shared_axes
    (2, 3)
    """
    shape: Any = getattr(incoming, "output_shape", incoming)
    return DropoutLayer(incoming, *args, **kwargs | {"shared_axes": tuple(range(2, len(shape)))})


spatial_dropout = dropout_channels


def dropout_locations(incoming: Incoming, *args: Any, **kwargs: Any) -> DropoutLayer:
    """Drop pixels of images, in all channels alike: a :class:`DropoutLayer` whose second axis is shared.

    Parameters
    ----------
    incoming : Layer or tuple
    *args, **kwargs
        For :class:`DropoutLayer`.

    Returns
    -------
    DropoutLayer

    Examples
    --------
    >>> dropout_locations((None, 64, 8, 8), p=0.2).shared_axes
    (1,)
    """
    return DropoutLayer(incoming, *args, **kwargs | {"shared_axes": (1,)})


class GaussianNoiseLayer(Layer):
    """Add normally distributed noise of mean 0 [1]_, unless ``deterministic=True``.

    It is drawn as the mask of a :class:`DropoutLayer` is.

    Parameters
    ----------
    incoming : Layer or tuple
    sigma : float or scalar variable
        The standard deviation.
    name : str, optional

    Attributes
    ----------
    salt : int
        What tells this layer's noise from that of others.

    References
    ----------
    .. [1] K.-C. Jim, C. L. Giles and B. G. Horne (1996): An analysis of noise in recurrent neural networks.
       IEEE Transactions on Neural Networks 7(6).

    Examples
    --------
    >>> GaussianNoiseLayer((None, 64, 8, 8), sigma=0.1, name="noise").output_shape
    (None, 64, 8, 8)
    """

    def __init__(self, incoming: Incoming, sigma: Any = 0.1, name: str | None = None):
        super().__init__(incoming, name=name)
        self.sigma = sigma
        self.salt = salt_of(self)

    def get_output_for(
        self, input: Any, deterministic: bool = False, sample_keys: Any = None, **kwargs: Any
    ) -> Any:
        """Add noise.

        Parameters
        ----------
        input : pytensor variable
        deterministic : bool
            Return the input as it is.
        sample_keys : pytensor vector of int64, optional
            (n,), a random key for each sample.

        Returns
        -------
        pytensor variable
        """
        if deterministic or (isinstance(self.sigma, int | float) and self.sigma == 0):
            return input
        keys, input = keys_of(input, sample_keys), as_floats(input)
        noise: Any = ops.normal(keys, drawn_shape(input), self.salt)
        return input + pt.cast(self.sigma, input.dtype) * noise.astype(input.dtype)
