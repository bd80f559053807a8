"""Small helpers that the layers and the update rules share."""

import inspect
import numbers
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import graph_inputs

from theanompi import device

Shape = tuple[int | None, ...]

int_types = (numbers.Integral, np.integer)
"""What counts as a whole number, for `isinstance` and :func:`as_tuple`."""


def floatX(arr: Any) -> np.ndarray:  # noqa: N802 - Lasagne's name
    """Convert to a float32 array, the format of all parameters here.

    Parameters
    ----------
    arr : array_like

    Returns
    -------
    numpy.ndarray
        float32, the shape of `arr`; the array itself if it is float32.

    Examples
    --------
    >>> floatX(0.5)
    array(0.5, dtype=float32)
    """
    return np.asarray(arr, dtype="float32")


def shared_empty(dim: int = 2, dtype: Any = None) -> SharedVariable:
    """Create a shared variable whose shape is not settled: PyTensor's own, in host memory.

    Parameters
    ----------
    dim : int
        The number of dimensions.
    dtype : dtype, optional
        float32 by default.

    Returns
    -------
    shared variable
        Zeros, of size 1 along each axis; ``set_value`` takes any shape of that many dimensions.

    Examples
    --------
    >>> shared_empty(3).get_value().shape
    (1, 1, 1)
    """
    return pytensor.shared(np.zeros((1,) * dim, dtype=dtype or "float32"))


def as_theano_expression(input: Any) -> Variable:
    """Make a constant of what is not an expression yet.

    Parameters
    ----------
    input : pytensor variable, number or array_like

    Returns
    -------
    pytensor variable
        `input` itself if it is one.

    Raises
    ------
    TypeError
        If no constant can be made of it.

    Examples
    --------
    >>> as_theano_expression(np.zeros((2, 3), "float32")).type
    TensorType(float32, shape=(2, 3))
    """
    if isinstance(input, Variable):
        return input
    try:
        return pt.constant(np.asarray(input))
    except Exception as error:
        raise TypeError(f"expected an expression, a number or an array, got {input!r}"[:300]) from error


def in_float32(x: Any) -> Any:
    """The float32 values of a float64 variable, which networks compute in; any other as it is.

    Examples
    --------
    >>> in_float32(pt.vector(dtype="float64")).dtype, in_float32(pt.vector(dtype="int64")).dtype
    ('float32', 'int64')
    """
    return pt.cast(x, "float32") if getattr(x, "dtype", None) == "float64" else x


def as_floats(x: Any) -> Any:
    """A variable itself if it holds floats, and float32 of whole numbers, which cannot hold what becomes of them.

    Examples
    --------
    >>> as_floats(pt.vector(dtype="uint8")).dtype, as_floats(pt.vector(dtype="float64")).dtype
    ('float32', 'float64')
    """
    return x if x.dtype.startswith("float") else pt.cast(x, "float32")


def one_hot(x: Any, m: Any = None) -> Any:
    """Represent integers by rows of zeros with a single one.

    Parameters
    ----------
    x : integer vector
        In [0, m).
    m : int, optional
        The number of columns; by default one more than the largest integer.

    Returns
    -------
    float32 matrix, shape (n, m)

    Examples
    --------
    >>> one_hot(np.array([2, 0])).eval(mode=device.mode()).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    x = pt.as_tensor_variable(x)
    columns = pt.arange(x.max() + 1 if m is None else m)
    return pt.eq(x[:, None], columns[None, :]).astype("float32")


def as_tuple(x: Any, N: int, t: Any = None) -> tuple:  # noqa: N803 - Lasagne's name
    """Turn a value, or an iterable of `N` values, into a tuple of `N` values.

    Parameters
    ----------
    x : object or iterable
        One value, to be repeated, or `N` of them.
    N : int
    t : type or tuple of types, optional
        What each value must be an instance of. NumPy's integers count as ``int``, and become it.

    Returns
    -------
    tuple

    Raises
    ------
    TypeError
        If a value is of another type.
    ValueError
        If an iterable has another length.

    Examples
    --------
    >>> as_tuple(3, 2), as_tuple([np.int64(3), 5], 2, int)
    ((3, 3), (3, 5))
    """
    values = tuple(x) if isinstance(x, Iterable) else (x,) * N
    whole = t is int or t == int_types
    kinds = int_types if whole else t if isinstance(t, tuple) else (t,)
    what = "value" if t is None else "int" if whole else " or ".join(kind.__name__ for kind in kinds)
    message = f"expected one {what} or {N} of them, got {x!r}"
    if t is not None and not all(isinstance(value, kinds) for value in values):
        raise TypeError(message)
    if len(values) != N:
        raise ValueError(message)
    return tuple(int(value) for value in values) if whole else values


def inspect_kwargs(func: Callable[..., Any]) -> list[str]:
    """List the optional arguments of a callable.

    Parameters
    ----------
    func : callable

    Returns
    -------
    list of str
        In the order of its signature.

    Raises
    ------
    TypeError, ValueError
        If it has no signature.

    Examples
    --------
    >>> inspect_kwargs(lambda x, p=0.5, **kwargs: x)
    ['p']
    """
    parameters = inspect.signature(func).parameters.values()
    return [p.name for p in parameters if p.default is not p.empty]


def compute_norms(array: Any, norm_axes: Iterable[int] | None = None) -> Any:
    """Compute the norms of the weights that come in at each unit or filter.

    Parameters
    ----------
    array : numpy.ndarray or pytensor variable
    norm_axes : iterable of int, optional
        The axes that one norm sums over: by default none for a vector, the first for a matrix (dense weights), all
        but the first for 3 to 5 dimensions (convolutions).

    Returns
    -------
    numpy.ndarray or pytensor variable
        Of the shape of `array` without these axes.

    Raises
    ------
    TypeError
        If `array` is neither of the two.
    ValueError
        If there is no default for the number of dimensions and `norm_axes` is not given.

    Examples
    --------
    >>> compute_norms(np.array([[3.0, 1.0], [4.0, 0.0]]))
    array([5., 1.])
    """
    if not isinstance(array, np.ndarray | Variable):
        raise TypeError(f"compute_norms: expected an array or an expression, got {type(array).__name__}")
    values: Any = array
    axes = (
        ()
        if norm_axes is None and values.ndim == 1
        else default_norm_axes(values, norm_axes, "compute_norms")
    )
    sqrt = pt.sqrt if isinstance(array, Variable) else np.sqrt
    return sqrt((values**2).sum(axis=axes)) if axes else abs(values)


def default_norm_axes(values: Any, norm_axes: Iterable[int] | None, where: str) -> tuple[int, ...]:
    """Which axes the norm of one unit or filter sums over: the given ones, or what the dimensions suggest."""
    if norm_axes is not None:
        return tuple(norm_axes)
    if values.ndim == 2:
        return (0,)
    if values.ndim in (3, 4, 5):
        return tuple(range(1, values.ndim))
    raise ValueError(f"{where}: a {values.ndim}-D tensor needs norm_axes, got None")


def unique(l: Iterable[Hashable]) -> list:  # noqa: E741 - Lasagne's name
    """Drop repeated items, keeping the first of each and the order.

    Parameters
    ----------
    l : iterable of hashable

    Returns
    -------
    list

    Examples
    --------
    >>> unique([2, 1, 2, 3, 1])
    [2, 1, 3]
    """
    return list(dict.fromkeys(l))


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
        float32 if created here; the given variable otherwise, which gets the name if it has none.

    Raises
    ------
    ValueError
        If the shape has a dimension that is not a positive integer, or the value another shape.
    TypeError
        If the specification is none of the above.

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
        if not spec.name:
            spec.name = name
        return spec
    if not isinstance(spec, int | float | np.number | np.ndarray):
        raise TypeError(
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
