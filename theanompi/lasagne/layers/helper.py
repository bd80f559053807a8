"""Functions on whole networks, given by their output layers."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import signature
from typing import Any

import numpy as np
import pytensor

from theanompi.config import ConfigError, closest
from theanompi.lasagne.layers.base import Layer, MergeLayer
from theanompi.lasagne.layers.input import InputLayer
from theanompi.lasagne.utils import Shape, as_theano_expression, in_float32, inspect_kwargs, unique

__all__ = [
    "count_params",
    "get_all_layers",
    "get_all_param_values",
    "get_all_params",
    "get_output",
    "get_output_shape",
    "set_all_param_values",
    "output_keywords",
]

_KEYWORDS: ContextVar[Mapping[str, Any] | None] = ContextVar("keywords of get_output", default=None)

# Keywords of get_output that mean something to every network, also to one in which no layer reads them.
COMMON_KEYWORDS = frozenset(
    {
        "batch_norm_statistics",
        "batch_norm_update_averages",
        "batch_norm_use_averages",
        "deterministic",
        "sample_keys",
    }
)


def get_all_layers(
    layer: Layer | Iterable[Layer], treat_as_input: Iterable[Layer] | None = None
) -> list[Layer]:
    """List all layers of a network, each after those that feed into it.

    Parameters
    ----------
    layer : Layer or iterable of Layer
        The output layer(s).
    treat_as_input : iterable of Layer, optional
        Layers whose own inputs are left out.

    Returns
    -------
    list of Layer

    Examples
    --------
    >>> from theanompi.lasagne.layers import DenseLayer
    >>> network = DenseLayer(InputLayer((None, 2), name="data"), 3, name="fc")
    >>> [layer.name for layer in get_all_layers(network)]
    ['data', 'fc']
    """
    stop = set(treat_as_input or ())
    result: list[Layer] = []
    seen: set[Layer] = set()
    # Depth first with a stack of its own, because deep networks exceed Python's recursion limit.
    stack = [(one, False) for one in reversed(_as_list(layer))]
    while stack:
        current, inputs_done = stack.pop()
        if inputs_done:
            result.append(current)
        elif current not in seen:
            seen.add(current)
            stack.append((current, True))
            if current not in stop:
                stack.extend((source, False) for source in reversed(_sources(current)) if source is not None)
    return result


@contextmanager
def output_keywords(**keywords: Any) -> Iterator[None]:
    """Let `get_output` have these keywords in the block, unless it is given others.

    A trainer puts its own around what it calls of a model, so that a model need not know of them.

    Parameters
    ----------
    **keywords
        ``deterministic``, ``sample_keys``, ``batch_norm_statistics``, …
    """
    before = _KEYWORDS.set(keywords)
    try:
        yield
    finally:
        _KEYWORDS.reset(before)


def get_output(layer_or_layers: Any, inputs: Any = None, **kwargs: Any) -> Any:
    """Build the expressions of the outputs of one or more layers.

    Parameters
    ----------
    layer_or_layers : Layer or list of Layer
    inputs : pytensor variable, numpy.ndarray or mapping, optional
        What to feed in, instead of the input layer's own variable; or a mapping from any layers to what to
        use instead of their outputs. None in its place stands for what feeds into layers that were made with a shape.
    **kwargs
        For the layers. ``deterministic=True`` is for validation: no dropout, running averages in batch
        normalisation. Trainers ask for noise by ``sample_keys`` (:class:`~theanompi.lasagne.layers.DropoutLayer`)
        and for ``batch_norm_statistics`` (:class:`~theanompi.lasagne.layers.BatchNormLayer`). A keyword that no layer
        knows is a warning, which names the closest known one.

    Returns
    -------
    pytensor variable or list of them

    Raises
    ------
    ValueError
        If an input is missing, has another number of dimensions than its layer, or one variable is given for
        several input layers; if a layer cannot work with its input (the message names the layer); if two dropout
        layers that are active would draw the same masks.
    ConfigError
        If a layer makes float64 of something else. Python's floats do not: they are taken for float32 here.

    Examples
    --------
    >>> from theanompi.lasagne.layers import DenseLayer
    >>> network = DenseLayer(InputLayer((None, 2)), 3, name="fc")
    >>> get_output(network, np.ones((5, 2), "float32")).type
    TensorType(float32, shape=(5, 3))
    """
    given = inputs if isinstance(inputs, Mapping) else {}
    layers = get_all_layers(layer_or_layers, given)
    asked, kwargs = kwargs, {**(_KEYWORDS.get() or {}), **kwargs}
    _check_keywords(layers, kwargs)
    if "sample_keys" in kwargs and not kwargs.get("deterministic"):
        _check_salts(layers)
    outputs = {layer: in_float32(as_theano_expression(value)) for layer, value in given.items()}
    if inputs is not None and not isinstance(inputs, Mapping):
        outputs[_only_input(layers, "get_output")] = as_theano_expression(inputs)
    for layer in layers:
        if isinstance(layer, InputLayer):
            outputs[layer] = layer.fed(outputs.get(layer, layer.input_var))

    def step(layer: Layer, x: Any) -> Any:
        try:
            # Or PyTensor takes a Python 1e-4 for a float64, and makes one of all that follows.
            with pytensor.config.change_flags(floatX="float32"):
                y = layer.get_output_for(x, **_taken(layer, kwargs, asked))
        except ValueError as error:
            raise ValueError(f"{layer}: {error}") from error
        if getattr(y, "dtype", None) == "float64":
            before = [value.dtype for value in (x if isinstance(x, list) else [x])]
            raise ConfigError(
                f"{layer}: expected a float32 output, got float64 from {', '.join(before)}: a float64 array, or "
                "whole numbers of 32 or 64 bits with float32, make one, and so does what goes by "
                "floatX, unless PYTENSOR_FLAGS has floatX=float32"
            )
        return y

    return _propagate(layer_or_layers, layers, outputs, step)


def get_output_shape(layer_or_layers: Any, input_shapes: Any = None) -> Any:
    """Compute the shapes of the outputs of one or more layers.

    Parameters
    ----------
    layer_or_layers : Layer or list of Layer
    input_shapes : tuple or mapping, optional
        The input's shape, instead of the input layer's own; or a mapping from any layers to shapes to use
        instead of those of their outputs.

    Returns
    -------
    tuple or list of tuple
        Of int or None, which stands for a size that may vary.

    Raises
    ------
    ValueError
        If an input is missing or one shape is given for several input layers.

    Examples
    --------
    >>> from theanompi.lasagne.layers import DenseLayer
    >>> network = DenseLayer(InputLayer((None, 2)), 3)
    >>> get_output_shape(network), get_output_shape(network, (7, 2))
    ((None, 3), (7, 3))
    """
    if input_shapes is None or input_shapes == {}:
        wanted = _as_list(layer_or_layers)
        return (
            [layer.output_shape for layer in wanted]
            if wanted != [layer_or_layers]
            else wanted[0].output_shape
        )
    shapes: dict[Layer, Shape] = dict(input_shapes) if isinstance(input_shapes, Mapping) else {}
    layers = get_all_layers(layer_or_layers, shapes)
    if not isinstance(input_shapes, Mapping):
        shapes[_only_input(layers, "get_output_shape")] = input_shapes
    for layer in layers:
        if isinstance(layer, InputLayer):
            shapes.setdefault(layer, layer.shape)
    return _propagate(layer_or_layers, layers, shapes, lambda layer, shape: layer.get_output_shape_for(shape))


def get_all_params(layer: Layer | Iterable[Layer], unwrap_shared: bool = True, **tags: bool) -> list[Any]:
    """List the parameters of a network.

    Parameters
    ----------
    layer : Layer or iterable of Layer
        The output layer(s).
    unwrap_shared : bool
        Of a parameter that is an expression, give the shared variables in it instead.
    **tags : bool
        ``tag=True`` keeps the parameters that have the tag, ``tag=False`` those that have not.

    Returns
    -------
    list of pytensor variable
        Each once, in the order of :func:`get_all_layers`.

    Examples
    --------
    >>> from theanompi.lasagne.layers import DenseLayer
    >>> network = DenseLayer(InputLayer((None, 2)), 3, name="fc")
    >>> get_all_params(network, regularizable=True)
    [fc.W]
    """
    layers = get_all_layers(layer)
    return unique(param for one in layers for param in one.get_params(unwrap_shared=unwrap_shared, **tags))


def count_params(layer: Layer | Iterable[Layer], **tags: bool) -> int:
    """Count the numbers in the parameters of a network.

    Parameters
    ----------
    layer : Layer or iterable of Layer
        The output layer(s).
    **tags : bool
        Which parameters; see :func:`get_all_params`.

    Returns
    -------
    int

    Examples
    --------
    >>> from theanompi.lasagne.layers import DenseLayer
    >>> count_params(DenseLayer(InputLayer((None, 2)), 3), trainable=True)
    9
    """
    return sum(param.get_value(borrow=True).size for param in get_all_params(layer, **tags))


def get_all_param_values(layer: Layer | Iterable[Layer], **tags: bool) -> list[np.ndarray]:
    """Copy the values of the parameters of a network.

    Parameters
    ----------
    layer : Layer or iterable of Layer
        The output layer(s).
    **tags : bool
        Which parameters; see :func:`get_all_params`.

    Returns
    -------
    list of numpy.ndarray
        In the order of :func:`get_all_params`.

    Examples
    --------
    >>> from theanompi.lasagne.layers import DenseLayer
    >>> [value.shape for value in get_all_param_values(DenseLayer(InputLayer((None, 2)), 3))]
    [(2, 3), (3,)]
    """
    return [param.get_value() for param in get_all_params(layer, **tags)]


def set_all_param_values(layer: Layer | Iterable[Layer], values: Sequence[np.ndarray], **tags: bool) -> None:
    """Set the values of the parameters of a network.

    Parameters
    ----------
    layer : Layer or iterable of Layer
        The output layer(s).
    values : sequence of numpy.ndarray
        In the order of :func:`get_all_params`.
    **tags : bool
        Which parameters; see :func:`get_all_params`.

    Raises
    ------
    ValueError
        If the number of values or a shape differs. Nothing is set then.

    Examples
    --------
    >>> from theanompi.lasagne.layers import DenseLayer
    >>> network = DenseLayer(InputLayer((None, 2)), 3)
    >>> set_all_param_values(network, [np.ones((2, 3)), np.zeros(3)])
    >>> float(network.W.get_value().sum())
    6.0
    """
    params = get_all_params(layer, **tags)
    if len(values) != len(params):
        raise ValueError(f"set_all_param_values: expected {len(params)} values, got {len(values)}")
    for param, value in zip(params, values, strict=True):
        expected, got = param.get_value(borrow=True).shape, np.shape(value)
        if got != expected:
            raise ValueError(f"parameter {str(param)!r}: expected a value of shape {expected}, got {got}")
    for param, value in zip(params, values, strict=True):
        param.set_value(np.asarray(value, dtype=param.type.dtype))


def _as_list(layer: Any) -> list[Any]:
    return list(layer) if isinstance(layer, Iterable) else [layer]


def _sources(layer: Any) -> list[Any]:
    """What feeds into a layer; nothing into an object that only has an output shape."""
    return list(getattr(layer, "input_layers", ()))


def _only_input(layers: Sequence[Layer], caller: str) -> Layer:
    inputs = [layer for layer in layers if isinstance(layer, InputLayer)]
    if len(inputs) != 1:
        raise ValueError(
            f"{caller}: a single input expects a network of one input layer, got {len(inputs)} "
            f"({', '.join(map(str, inputs)) or 'none'}): give a mapping from layers to inputs"
        )
    return inputs[0]


def _propagate(
    wanted: Any, layers: Sequence[Layer], known: dict[Layer, Any], step: Callable[[Layer, Any], Any]
) -> Any:
    """Apply `step` to each layer in turn, from the layers in `known` on; return what it gave for `wanted`."""
    for layer in layers:
        if layer in known:
            continue
        sources = _sources(layer)
        if any(source not in known for source in sources) or not hasattr(layer, "get_output_for"):
            cause = "feeds into it" if None in sources else "of the network feeds into it first"
            raise ValueError(f"{layer}: no layer {cause}: expected an input for it in a mapping, got none")
        incoming = [known[source] for source in sources]
        known[layer] = step(layer, incoming if isinstance(layer, MergeLayer) else incoming[0])
    return [known[layer] for layer in wanted] if isinstance(wanted, Iterable) else known[wanted]


# Which would have its default always, in validation too.
_DETERMINISTIC_ELSEWHERE = ("training", "train", "is_training")


def _taken(layer: Layer, kwargs: Mapping[str, Any], asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keywords for a layer: those that only `output_keywords` gave where it takes them."""
    if len(kwargs) == len(asked):
        return kwargs
    parameters = signature(layer.get_output_for).parameters
    for theirs in _DETERMINISTIC_ELSEWHERE:
        if theirs in parameters and theirs not in kwargs and "deterministic" not in parameters:
            raise ValueError(
                "get_output_for: expected deterministic, which is True in validation, "
                f"got {theirs}, which is never given"
            )
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return kwargs
    return {name: value for name, value in kwargs.items() if name in asked or name in parameters}


def _check_keywords(layers: Iterable[Layer], kwargs: Mapping[str, Any]) -> None:
    accepted = set(COMMON_KEYWORDS)
    for layer in layers:
        accepted.update(inspect_kwargs(layer.get_output_for) if hasattr(layer, "get_output_for") else ())
        accepted.update(getattr(layer, "get_output_kwargs", ()))
    for keyword in sorted(kwargs.keys() - accepted):
        close = closest(keyword, accepted)
        known = close or f"; known are {', '.join(sorted(accepted))}"
        warnings.warn(f"get_output: no layer knows the keyword {keyword!r}{known}"[:300], stacklevel=3)


def _check_salts(layers: Iterable[Layer]) -> None:
    owners: dict[int, Layer] = {}
    for layer in layers:
        salt = getattr(layer, "salt", None)
        if salt is not None and owners.setdefault(salt, layer) is not layer:
            raise ValueError(
                f"dropout: expected names that differ, got {layer} and {owners[salt]}, of the same masks"
            )
