"""Where a network begins."""

from collections.abc import Sequence
from typing import Any

from pytensor.tensor.type import TensorType

from theanompi.lasagne.layers.base import Layer
from theanompi.lasagne.utils import Shape, compatible, in_float32

__all__ = ["InputLayer"]


class InputLayer(Layer):
    """A symbolic input of a network.

    Parameters
    ----------
    shape : tuple of int or None
        None stands for a size that may vary, usually the number of samples.
    input_var : pytensor variable, optional
        What to feed in; a float32 variable of this shape is made by default. Of a float64 variable, which PyTensor's
        ``matrix()`` and the like are by default, the network sees the float32 values.
    name : str, optional

    Attributes
    ----------
    input_var : pytensor variable

    Raises
    ------
    ValueError
        If a size is not positive, or `input_var` cannot have the shape.

    Examples
    --------
    >>> InputLayer((None, 3, 224, 224), name="image").input_var.type
    TensorType(float32, shape=(None, 3, 224, 224))
    """

    def __init__(self, shape: Shape, input_var: Any = None, name: str | None = None):
        super().__init__(tuple(shape), name=name)
        self.shape: Shape = self.input_shape
        if input_var is None:
            variable_name = "input" if name is None else f"{name}.input"
            input_var = TensorType("float32", shape=self.shape)(variable_name)
        elif not compatible(self.shape, input_var.type.shape):
            raise ValueError(f"{self}: expected an input of shape {self.shape}, got {input_var.type}")
        self.input_var = input_var

    @property
    def input_layers(self) -> Sequence[Any]:
        """Nothing feeds into this layer."""
        return ()

    @property
    def output_shape(self) -> Shape:
        """`shape`."""
        return self.shape

    def fed(self, value: Any) -> Any:
        """What a network sees of `value` at this layer.

        Parameters
        ----------
        value : pytensor variable
            Sizes may differ from `shape`, as far as the layers above take them.

        Returns
        -------
        pytensor variable
            float32 where `value` is float64.

        Raises
        ------
        ValueError
            If `value` has another number of dimensions.
        """
        if value.type.ndim != len(self.shape):
            raise ValueError(f"{self}: expected an input of shape {self.shape}, got {value.type}")
        return in_float32(value)
