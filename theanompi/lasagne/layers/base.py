"""What every layer is."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Union, no_type_check

from pytensor.graph.basic import Variable

from theanompi.lasagne.utils import Shape, collect_shared_vars, create_param, in_float32

__all__ = ["Layer", "MergeLayer"]

Incoming = Union["Layer", Shape]


class Layer:
    """A layer with one input: a subclass defines its output and, if it is not the input's, its shape.

    Parameters
    ----------
    incoming : Layer or tuple
        The layer that feeds into this one (any object with an ``output_shape``), or the shape of what will.
    name : str, optional
        Prefix of the parameters' names (``'conv1'`` gives ``'conv1.W'``), and for error messages.

    Attributes
    ----------
    input_layer : Layer or None
        None where only a shape was given. Another layer may be put here at any time.
    input_layers : tuple of (Layer or None)
        The same, as a tuple; the base of walks through a network.
    input_shape : tuple of int or None
        None stands for a size that may vary.
    params : OrderedDict
        From each parameter to the set of its tags.
    get_output_kwargs : list of str
        Keywords of :func:`get_output` that the layer hands on, beside those that its ``get_output_for`` names.

    Raises
    ------
    ValueError
        If a size in the input shape is not positive.

    Examples
    --------
    >>> class DoubleLayer(Layer):
    ...     def get_output_for(self, input, **kwargs):
    ...         return 2 * input
    >>> DoubleLayer((None, 3), name="double").output_shape
    (None, 3)
    """

    def __init__(self, incoming: Incoming, name: str | None = None):
        self._set_up(name)
        self.input_layer: Any
        self.input_shape: Any
        self.input_layer, self.input_shape = _layer_and_shape(self, incoming)

    def _set_up(self, name: str | None) -> None:
        self.name = name
        self.params: OrderedDict[Any, set[str]] = OrderedDict()
        self.get_output_kwargs: list[str] = []

    def __str__(self) -> str:
        return f"unnamed {type(self).__name__}" if self.name is None else f"layer {self.name!r}"

    @property
    def input_layers(self) -> Sequence[Any]:
        """What feeds into this layer, as a tuple."""
        return (self.input_layer,)

    @property
    def output_shape(self) -> Shape:
        """The shape of the output, for the input shape that the layer was made with."""
        return self._numbers(self.get_output_shape_for(self.input_shape))

    def _numbers(self, shape: Any) -> Shape:
        if any(isinstance(size, Variable) for size in shape):
            raise ValueError(f"{self}: expected get_output_shape_for() to give integers or None, got {shape}")
        return shape

    def get_params(self, unwrap_shared: bool = True, **tags: bool) -> list[Any]:
        """List this layer's parameters, in the order they were added.

        Parameters
        ----------
        unwrap_shared : bool
            Of a parameter that is an expression, give the shared variables in it instead.
        **tags : bool
            ``tag=True`` keeps the parameters that have the tag, ``tag=False`` those that have not.

        Returns
        -------
        list of pytensor variable
        """
        chosen = [
            param
            for param, own in self.params.items()
            if all((tag in own) == bool(wanted) for tag, wanted in tags.items())
        ]
        return collect_shared_vars(chosen) if unwrap_shared else chosen

    def get_output_shape_for(self, input_shape: Any) -> Shape:
        """Compute the shape of the output from that of the input; the same by default.

        Parameters
        ----------
        input_shape : tuple of int or None

        Returns
        -------
        tuple of int or None
        """
        return input_shape

    # Subclasses call the argument as Lasagne does: input or inputs.
    @no_type_check
    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Build the expression of the output.

        Parameters
        ----------
        input : pytensor variable
        **kwargs
            What :func:`get_output` was given; a layer names those that it understands.

        Returns
        -------
        pytensor variable
        """
        raise NotImplementedError(f"{type(self).__name__} does not define get_output_for()")

    def add_param(self, spec: Any, shape: Iterable[int | None], name: str | None = None, **tags: bool) -> Any:
        """Create a parameter and register it with its tags.

        Parameters
        ----------
        spec : number, numpy.ndarray, pytensor variable or callable
            See :func:`theanompi.lasagne.utils.create_param`.
        shape : iterable of int
        name : str, optional
            Without the layer's name, which is put before it.
        **tags : bool
            ``trainable`` and ``regularizable`` are True unless given.

        Returns
        -------
        pytensor variable
            What :func:`~theanompi.lasagne.utils.create_param` gives; of a float64 variable the float32 values, because
            the network computes in that.

        Raises
        ------
        ValueError
            If the value does not fit the shape.
        """
        if name is not None and self.name is not None:
            name = f"{self.name}.{name}"
        param = in_float32(create_param(spec, shape, name))
        tags = {"trainable": True, "regularizable": True} | tags
        self.params[param] = {tag for tag, present in tags.items() if present}
        return param


class MergeLayer(Layer):
    """A layer with several inputs: a subclass defines its output and its shape.

    Parameters
    ----------
    incomings : list of (Layer or tuple)
        The layers that feed into this one, or the shapes of what will.
    name : str, optional

    Attributes
    ----------
    input_layers : list of (Layer or None)
        Other layers may be put here at any time.
    input_shapes : list of tuple

    Raises
    ------
    ValueError
        If there is no input, or a size in an input shape is not positive.

    Examples
    --------
    >>> from theanompi.lasagne.layers import InputLayer
    >>> inputs = [InputLayer((None, 3)), InputLayer((None, 5))]
    >>> MergeLayer(inputs).input_shapes
    [(None, 3), (None, 5)]
    """

    input_layers: list[Any] = []

    def __init__(self, incomings: Sequence[Incoming], name: str | None = None):
        self._set_up(name)
        if not incomings:
            raise ValueError(f"{self}: expected one or more incoming layers, got none")
        pairs = [_layer_and_shape(self, incoming) for incoming in incomings]
        self.input_layers = [layer for layer, _ in pairs]
        self.input_shapes = [shape for _, shape in pairs]

    @property
    def output_shape(self) -> Shape:
        """The shape of the output, for the input shapes that the layer was made with."""
        return self._numbers(self.get_output_shape_for(self.input_shapes))

    def get_output_shape_for(self, input_shapes: Any) -> Shape:
        """Compute the shape of the output from those of the inputs.

        Parameters
        ----------
        input_shapes : list of tuple

        Returns
        -------
        tuple of int or None
        """
        raise NotImplementedError(f"{type(self).__name__} does not define get_output_shape_for()")

    @no_type_check
    def get_output_for(self, inputs: Any, **kwargs: Any) -> Any:
        """Build the expression of the output.

        Parameters
        ----------
        inputs : list of pytensor variable
        **kwargs
            What :func:`get_output` was given; a layer names those that it understands.

        Returns
        -------
        pytensor variable
        """
        raise NotImplementedError(f"{type(self).__name__} does not define get_output_for()")


def _layer_and_shape(layer: Layer, incoming: Any) -> tuple[Any, Shape]:
    source, shape = (None, incoming) if isinstance(incoming, tuple) else (incoming, None)
    if source is not None:
        shape = getattr(source, "output_shape", None)
    if not isinstance(shape, tuple):
        raise ValueError(f"{layer}: expected a layer or a shape tuple as incoming, got {incoming!r}")
    if any(size is not None and size <= 0 for size in shape):
        raise ValueError(f"{layer}: expected an input shape of positive sizes, got {shape}")
    return source, shape
