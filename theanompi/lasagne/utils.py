"""Small helpers that the layers and the update rules share."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import graph_inputs

from theanompi import device

Shape = tuple[int | None, ...]


def floatX(value: Any) -> np.ndarray:  # noqa: N802 - Lasagne's name
    """Convert to a float32 array, the format of all parameters here.

    Parameters
    ----------
    value : array_like

    Returns
    -------
    numpy.ndarray
        float32, the shape of `value`.

    Examples
    --------
    >>> floatX(0.5)
    array(0.5, dtype=float32)
    """
    return np.asarray(value, dtype="float32")


def as_tuple(value: Any, length: int, kind: type | None = None) -> tuple:
    """Turn a value, or an iterable of `length` values, into a tuple of `length` values.

    Parameters
    ----------
    value : object or iterable
        One value, to be repeated, or `length` of them.
    length : int
    kind : type, optional
        What each value must be an instance of.

    Returns
    -------
    tuple

    Raises
    ------
    ValueError
        If an iterable has another length, or a value is of another type.

    Examples
    --------
    >>> as_tuple(3, 2), as_tuple([3, 5], 2, int)
    ((3, 3), (3, 5))
    """
    values = tuple(value) if isinstance(value, Iterable) else (value,) * length
    if len(values) != length or (kind is not None and not all(isinstance(v, kind) for v in values)):
        what = "value" if kind is None else kind.__name__
        raise ValueError(f"expected one {what} or {length} of them, got {value!r}")
    return values


def unique(items: Iterable[Hashable]) -> list:
    """Drop repeated items, keeping the first of each and the order.

    Parameters
    ----------
    items : iterable of hashable

    Returns
    -------
    list

    Examples
    --------
    >>> unique([2, 1, 2, 3, 1])
    [2, 1, 3]
    """
    return list(dict.fromkeys(items))


def collect_shared_vars(expressions: Variable | Iterable[Variable]) -> list[SharedVariable]:
    """List the shared variables that one or more expressions depend on.

    Parameters
    ----------
    expressions : pytensor variable or iterable of them

    Returns
    -------
    list of shared variable
        Each once, expression by expression, from left to right.

    Examples
    --------
    >>> w, b = device.shared(floatX([1, 2]), name="w"), device.shared(floatX(3), name="b")
    >>> collect_shared_vars([w * 2 + b, b])
    [w, b]
    """
    if isinstance(expressions, Variable):
        expressions = [expressions]
    # PyTensor walks a graph from right to left.
    inputs = [variable for expression in expressions for variable in reversed([*graph_inputs([expression])])]
    return unique(variable for variable in inputs if isinstance(variable, SharedVariable))


def create_param(
    spec: float | np.ndarray | Variable | Callable[[tuple[int, ...]], Any],
    shape: Iterable[int | None],
    name: str | None = None,
) -> Variable:
    """Create a shared variable on the device from a specification of its value.

    Parameters
    ----------
    spec : number, numpy.ndarray, pytensor variable or callable
        A number (fills the shape), an array, a shared variable or expression (used as it is), or a
        callable, such as an :class:`~theanompi.lasagne.init.Initializer`, that takes the shape and
        returns any of these.
    shape : iterable of int
        The shape that the parameter must have.
    name : str, optional
        For the new variable, and for error messages.

    Returns
    -------
    pytensor variable
        float32 if created here; the given variable otherwise.

    Raises
    ------
    ValueError
        If the shape has a dimension that is not a positive integer, the value another shape, or the
        specification is none of the above.

    Examples
    --------
    >>> create_param(np.ones, (2, 3), name="fc.W").type
    TensorType(float32, shape=(2, 3))
    """
    sizes = tuple(shape)
    label = "parameter" if name is None else f"parameter {name!r}"
    dimensions = tuple(int(size) for size in sizes if isinstance(size, int | np.integer) and size > 0)
    if len(dimensions) != len(sizes):
        raise ValueError(f"{label}: expected a shape of positive integers, got {sizes}")
    if callable(spec):
        spec = spec(dimensions)
    if isinstance(spec, Variable):
        # A plain shared variable of PyTensor does not know its shape statically, but its value does.
        got = spec.get_value(borrow=True).shape if isinstance(spec, SharedVariable) else spec.type.shape
        if not compatible(dimensions, got):
            raise ValueError(f"{label}: expected shape {dimensions}, got {spec} of shape {got}")
        return spec
    if not isinstance(spec, int | float | np.number | np.ndarray):
        raise ValueError(
            f"{label}: expected a number, an array, a variable or a callable that returns one, got {spec!r}"
        )
    value = floatX(spec)
    if value.ndim == 0:
        value = np.full(dimensions, value)
    if value.shape != dimensions:
        raise ValueError(f"{label}: expected shape {dimensions}, got an array of shape {value.shape}")
    return device.shared(value, name=name)


def compatible(expected: Shape, got: Shape) -> bool:
    """Tell whether two shapes can be of the same array; None stands for any size.

    Parameters
    ----------
    expected, got : tuple of int or None

    Returns
    -------
    bool

    Examples
    --------
    >>> compatible((None, 3), (16, 3)), compatible((None, 3), (16, 4)), compatible((None,), (1, 1))
    (True, False, False)
    """
    pairs = zip(expected, got, strict=False)
    return len(expected) == len(got) and all(None in (a, b) or a == b for a, b in pairs)


def unroll_scan(
    fn: Callable[..., Any],
    sequences: Any,
    outputs_info: Sequence[Variable],
    non_sequences: Sequence[Any],
    n_steps: int,
    go_backwards: bool = False,
) -> list[Any]:
    """Write out the steps that `pytensor.scan` would loop over.

    Parameters
    ----------
    fn : callable
        Of the sequences' rows, the results of the step before and the non-sequences, in this order; to one result or a
        list of them.
    sequences : pytensor variable or sequence of them
        Their first axis is the step.
    outputs_info : sequence of pytensor variable
        What takes the place of a step before the first, one for each result.
    non_sequences : sequence
        What every step is given.
    n_steps : int
    go_backwards : bool
        Begin at the last of the `n_steps` rows.

    Returns
    -------
    list of pytensor variable
        For each result of a step those of all steps, in the order in which they are computed, along a new first axis.

    Raises
    ------
    ValueError
        Without steps.

    Examples
    --------
    >>> (sums,) = unroll_scan(lambda v, total: total + v, pt.arange(1, 5), [pt.constant(0)], [], 4)
    >>> sums.eval(mode=device.mode("cpu"))
    array([ 1,  3,  6, 10])
    """
    if n_steps < 1:
        raise ValueError(f"unroll_scan: n_steps: expected at least 1, got {n_steps}")
    rows = [sequences] if isinstance(sequences, Variable) else list(sequences)
    before = list(outputs_info)
    steps = []
    for i in reversed(range(n_steps)) if go_backwards else range(n_steps):
        results = fn(*(sequence[i] for sequence in rows), *before, *non_sequences)
        before = [results] if isinstance(results, Variable) else list(results)
        steps.append(before)
    return [pt.stack(results) for results in zip(*steps, strict=True)]
