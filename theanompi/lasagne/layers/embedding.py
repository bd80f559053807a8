"""Vectors for tokens."""

from typing import Any

from theanompi.lasagne import init
from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.utils import Shape

__all__ = ["EmbeddingLayer"]


class EmbeddingLayer(Layer):
    """Look up a vector for each integer of the input.

    Parameters
    ----------
    incoming : Layer or tuple
        Of any shape, of integers from 0 to input_size − 1.
    input_size : int
        How many different integers there are.
    output_size : int
        The length of the vectors.
    W : initialiser, number, array or variable
        Of shape (input_size, output_size).
    name : str, optional

    Examples
    --------
    >>> layer = EmbeddingLayer((None, 20), input_size=1000, output_size=64, name="words")
    >>> layer.output_shape, layer.W.name
    ((None, 20, 64), 'words.W')
    """

    def __init__(
        self,
        incoming: Incoming,
        input_size: int,
        output_size: int,
        W: Any = init.Normal(),  # noqa: B008 - holds no state
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.input_size = input_size
        self.output_size = output_size
        self.W = self.add_param(W, (input_size, output_size), name="W")

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Add an axis for the vectors."""
        return (*input_shape, self.output_size)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Look up."""
        if "int" not in input.dtype:
            raise ValueError(
                f"expected integers, got {input.type}; give the InputLayer an input_var of integers"
            )
        return self.W[input]
