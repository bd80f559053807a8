"""Where a network begins."""

from typing import Any

from pytensor.tensor.type import TensorType

from theanompi.lasagne.layers.base import Layer
from theanompi.lasagne.utils import Shape, compatible

__all__ = ["InputLayer"]


class InputLayer(Layer):
    """A symbolic input of a network.

    Parameters
    ----------
    shape : tuple of int or None
        None stands for a size that may vary, usually the number of samples.
    input_var : pytensor variable, optional
        What to feed in; a float32 variable of this shape is made by default.
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
        self.input_layers = []
        self.shape: Shape = self.input_shape
        if input_var is None:
            variable_name = "input" if name is None else f"{name}.input"
            input_var = TensorType("float32", shape=self.shape)(variable_name)
        self.input_var = input_var
        self.check(input_var)

    def check(self, expression: Any) -> None:
        """Raise a ValueError if `expression` cannot have this layer's shape."""
        if not compatible(self.shape, expression.type.shape):
            raise ValueError(f"{self}: expected an input of shape {self.shape}, got {expression.type}")
