"""Layers that disturb their input during training."""

import zlib
from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt

from theanompi.device import ops
from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.layers.helper import get_all_layers

__all__ = ["DropoutLayer", "dropout"]


class DropoutLayer(Layer):
    """Dropout [1]_: set elements to zero with probability p, unless ``deterministic=True``.

    The mask of a sample is a pure function of its key in ``sample_keys``, which :func:`get_output` must be
    given, and of the layer's name. So the masks do not depend on how a minibatch is split.

    Parameters
    ----------
    incoming : Layer or tuple
    p : float
        Probability of a zero, in [0, 1).
    rescale : bool
        Divide what is left by 1 − p, so that the mean stays the same.
    shared_axes : tuple of int
        Axes along which elements are dropped together: (2, 3) drops whole channels. Not the first.
    name : str, optional
        Without a name, the number of layers up to this one takes its place.

    Attributes
    ----------
    salt : int
        What tells this layer's masks from those of others.

    Raises
    ------
    ValueError
        If p or `shared_axes` is out of range, or a size after the first is not known.

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
        p: float = 0.5,
        rescale: bool = True,
        shared_axes: Sequence[int] = (),
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.p = p
        self.rescale = rescale
        dimensions = len(self.input_shape)
        self.shared_axes = tuple(axis % dimensions for axis in shared_axes)
        if not 0 <= p < 1:
            raise ValueError(f"{self}: expected p in [0, 1), got {p}")
        if 0 in self.shared_axes or any(axis >= dimensions for axis in shared_axes):
            raise ValueError(f"{self}: expected shared_axes in [1, {dimensions}), got {tuple(shared_axes)}")
        if None in self.input_shape[1:]:
            raise ValueError(f"{self}: expected known sizes after the first axis, got {self.input_shape}")
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
        sample_keys : pytensor vector of int64
            (n,), a random key for each sample.

        Returns
        -------
        pytensor variable

        Raises
        ------
        ValueError
            If elements are to be dropped and there are no keys.
        """
        if deterministic or self.p == 0:
            return input
        if sample_keys is None:
            raise ValueError(
                "dropout expects deterministic=True or sample_keys=<int64 vector of a key for each sample>, "
                "got neither"
            )
        shape = [1 if axis in self.shared_axes else size for axis, size in enumerate(self.input_shape)][1:]
        mask: Any = ops.dropout_mask(sample_keys, shape, self.p, self.salt)
        return input * (mask if self.rescale else mask * pt.cast(1 - self.p, mask.dtype))


dropout = DropoutLayer
