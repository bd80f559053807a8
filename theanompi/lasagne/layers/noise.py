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

__all__ = ["DropoutLayer", "dropout"]


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
        identity = f"after {len(get_all_layers(self)) - 1} layers" if name is None else name
        self.salt = zlib.crc32(identity.encode())

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
        if sample_keys is not None and 0 in self.shared_axes:
            raise ValueError(
                "dropout expects shared_axes without axis 0 where there are sample_keys, got both"
            )
        samples, *shape = (
            1 if axis in self.shared_axes else known_or_symbolic_size(input, axis)
            for axis in range(input.ndim)
        )
        keys = fresh_keys(samples) if sample_keys is None else sample_keys
        if symbolic:
            p = pt.cast(self.p, "float32")
            kept: Any = pt.gt(ops.uniform(keys, shape, self.salt), p)
            return input * (kept / (1 - p) if self.rescale else kept)
        mask: Any = ops.dropout_mask(keys, shape, self.p, self.salt)
        return input * (mask if self.rescale else mask * pt.cast(1 - self.p, mask.dtype))


dropout = DropoutLayer
