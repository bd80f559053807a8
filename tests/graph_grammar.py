"""Random graphs over PyTensor's tensor API, as programs in Python that run with any compiler of graphs.

A program is a few lines of text, each of which a user could have written: inputs with their values, then one line
for each op, its gradient and updates. So what differs can be printed, cut down and tried by hand. A rule writes one
line: it draws its operands among the variables that are there, whose values it knows, or asks for new inputs.
"""

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytensor
import pytensor.gradient as gradient
import pytensor.tensor as pt
from pytensor.compile.builders import OpFromGraph
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.traversal import toposort
from pytensor.raise_op import Assert
from pytensor.scan import until
from pytensor.tensor import blas, fft, interpolate, signal, special, subtensor

from theanompi.device.versions import ifelse

FLOATS = ("float32", "float64")
SIGNED, UNSIGNED = ("int8", "int16", "int32", "int64"), ("uint8", "uint16", "uint32", "uint64")
DTYPES = {"b": ("bool",), "i": SIGNED, "u": UNSIGNED, "f": FLOATS}
LARGEST = 200
"""Elements of a variable."""
NAMES: dict[str, Any] = {
    "np": np,
    "pt": pt,
    "nan": np.nan,
    "inf": np.inf,
    "pytensor": pytensor,
    "gradient": gradient,
    "OpFromGraph": OpFromGraph,
    "ifelse": ifelse,
    "Assert": Assert,
    "blas": blas,
    "fft": fft,
    "interpolate": interpolate,
    "linalg": pt.linalg,
    "signal": signal,
    "special": special,
    "subtensor": subtensor,
    "until": until,
}
"""What the lines of a program may name."""


@dataclass(frozen=True)
class Input:
    """An input of a program: `value` is the text of a NumPy array, `kind` argument, shared or constant."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    value: str
    kind: str = "argument"

    @property
    def line(self) -> str:
        """The line that makes it."""
        if self.kind == "argument":
            return f"{self.name} = pt.tensor({self.name!r}, dtype={self.dtype!r}, shape={self.shape})"
        if self.kind == "shared":
            return f"{self.name} = shared({self.value}, {self.name!r})"
        return f"{self.name} = pt.as_tensor({self.value})"


@dataclass(frozen=True)
class Line:
    """What a rule wrote: an expression of the variables `reads`, and the names of its values."""

    rule: str
    names: tuple[str, ...]
    text: str
    reads: tuple[str, ...]

    @property
    def line(self) -> str:
        """As Python."""
        return f"{', '.join(self.names)} = {self.text}"


@dataclass(frozen=True)
class Program:
    """A graph: what is computed of what.

    Attributes
    ----------
    inputs : tuple of Input
    lines : tuple of Line
    outputs : tuple of str
        Variables.
    cost : tuple of (str, str)
        Variables whose weighted sum is derived, and the text of each one's weights.
    wrt : tuple of str
        The inputs that it is derived by.
    updates : tuple of (str, str)
        Shared variable, new value.
    """

    inputs: tuple[Input, ...] = ()
    lines: tuple[Line, ...] = ()
    outputs: tuple[str, ...] = ()
    cost: tuple[tuple[str, str], ...] = ()
    wrt: tuple[str, ...] = ()
    updates: tuple[tuple[str, str], ...] = ()

    @property
    def derived(self) -> str:
        """The expression of the gradients."""
        cost = " + ".join(
            f"({name} * {weights}).sum()" if weights else f"{name}.sum()" for name, weights in self.cost
        )
        return f"pt.grad({cost}, [{', '.join(self.wrt)}], disconnected_inputs='ignore')"

    def text(self) -> str:
        """The program in one line, which ends with a compiled function and its call."""
        parts = [*(x.line for x in self.inputs), *(x.line for x in self.lines)]
        parts = [p.replace("= shared(", "= device.shared(") for p in parts]
        outputs = f"[{', '.join(self.outputs)}]"
        if self.cost:
            outputs += f" + {self.derived}"
        arguments = [x for x in self.inputs if x.kind == "argument"]
        updates = f", updates=[{', '.join(f'({w}, {v})' for w, v in self.updates)}]" if self.updates else ""
        call = (
            f"pytensor.function([{', '.join(x.name for x in arguments)}], {outputs}{updates}, mode=mode)"
            f"({', '.join(x.value for x in arguments)})"
        )
        return "; ".join([*parts, call])

    def needed(self) -> "Program":
        """The same without lines and inputs that nothing reads."""
        wanted = {*self.outputs, *(name for name, _ in self.cost), *(v for _, v in self.updates)}
        lines = []
        for line in reversed(self.lines):
            if wanted & set(line.names):
                wanted |= set(line.reads)
                lines.append(line)
        wanted |= {w for w, _ in self.updates}
        inputs = tuple(x for x in self.inputs if x.name in wanted)
        kept = {x.name for x in inputs}
        wrt = tuple(w for w in self.wrt if w in kept)
        return replace(
            self, inputs=inputs, lines=tuple(reversed(lines)), wrt=wrt, cost=self.cost if wrt else ()
        )

    def without(self, names: Sequence[str]) -> "Program":
        """The same without the lines that make `names`, and without all that reads them."""
        gone, lines = set(names), []
        for line in self.lines:
            if gone & {*line.names, *line.reads}:
                gone |= set(line.names)
            else:
                lines.append(line)
        cost = tuple(c for c in self.cost if c[0] not in gone)
        return replace(
            self,
            lines=tuple(lines),
            outputs=tuple(v for v in self.outputs if v not in gone),
            cost=cost,
            wrt=self.wrt if cost else (),
            updates=tuple(u for u in self.updates if not gone & set(u)),
        ).needed()


@dataclass
class Built:
    """A program's variables."""

    arguments: list[Variable]
    values: list[np.ndarray]
    outputs: list[Variable]
    updates: list[tuple[Any, Variable]]
    shared: list[Any] = field(default_factory=list)


def build(program: Program, shared: Callable[[Any, str], Any]) -> Built:
    """Run a program's lines.

    Parameters
    ----------
    program : Program
    shared : callable
        Makes a shared variable of a value and a name.
    """
    scope = {**NAMES, "shared": shared}
    exec("\n".join([*(x.line for x in program.inputs), *(x.line for x in program.lines)]), scope)
    outputs = [scope[name] for name in program.outputs]
    if program.cost:
        outputs += eval(program.derived, scope)
    arguments = [x for x in program.inputs if x.kind == "argument"]
    return Built(
        [scope[x.name] for x in arguments],
        [eval(x.value, scope) for x in arguments],
        outputs,
        [(scope[w], scope[v]) for w, v in program.updates],
        [scope[x.name] for x in program.inputs if x.kind == "shared"],
    )


def host_shared(value: Any, name: str) -> Any:
    """A shared variable of PyTensor's with the static shape that ours has."""
    return pytensor.shared(np.array(value), name, shape=np.shape(value))


class Unfit(Exception):
    """No operand is at hand that a rule can write about."""


class Undefined(Exception):
    """No value is right: C leaves it open, as a cast of NaN to an integer, or PyTensor's does not fit its type."""


def as_typed(value: Any, variable: Variable) -> Any:
    """A value in the dtype that the variable's type has: some ops compute in another, as cumsum of small integers."""
    if np.ndim(value) != getattr(variable.type, "ndim", np.ndim(value)):
        raise Undefined(f"expected {variable.type.ndim} axes, got a value of shape {np.shape(value)}")
    dtype = getattr(variable.type, "dtype", None)
    if dtype is None or not isinstance(value, np.ndarray | np.number | np.bool_) or value.dtype == dtype:
        return value
    return np.asarray(value).astype(dtype)


def compute(
    variables: Sequence[Variable],
    known: dict[Variable, Any],
    changed: Callable[[Apply, list[Any], list[Any]], list[Any]] | None = None,
    before: Callable[[Apply, list[Any]], list[Any]] | None = None,
) -> None:
    """Compute variables by PyTensor's interpreter, node by node as they stand, without rewrites.

    Parameters
    ----------
    variables : sequence of Variable
    known : dict of Variable to value
        What is known already; what is computed is put into it.
    changed : callable, optional
        From a node, the values of its inputs and of its outputs to those that its outputs get.
    before : callable, optional
        From a node and the values of its inputs to those that it is computed of.
    """
    for node in toposort(variables, blockers=known):
        if all(v in known for v in node.outputs):
            continue
        for v in node.inputs:
            if v not in known:
                known[v] = v.data if isinstance(v, Constant) else v.get_value(borrow=True)
        inputs = [known[v] for v in node.inputs]
        if before is not None:
            inputs = before(node, inputs)
        storage = {v: [None] for v in node.outputs} | {
            v: [x] for v, x in zip(node.inputs, inputs, strict=True)
        }
        ready = {v: [v in known] for v in storage}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", "invalid value encountered in cast", RuntimeWarning)
            try:
                node.op.make_thunk(node, storage, ready, [], impl="py")()
            except RuntimeWarning as warning:
                raise Undefined(str(warning)) from None
        outputs = [as_typed(storage[v][0], v) for v in node.outputs]
        if changed is not None:
            outputs = changed(node, inputs, outputs)
        known.update(zip(node.outputs, outputs, strict=True))
    for v in variables:
        if v not in known:
            known[v] = v.data if isinstance(v, Constant) else v.get_value(borrow=True)


def array_text(value: np.ndarray) -> str:
    """An array as Python, in as few characters as need be."""
    if value.size == 0:
        return f"np.zeros({value.shape}, {str(value.dtype)!r})"
    nested = [float(f"{x:.17g}") if value.dtype == "float64" else x for x in value.ravel().tolist()]
    if value.dtype == "float32":
        nested = [float(str(np.float32(x))) for x in nested]
    listed = np.array(nested, dtype=object).reshape(value.shape).tolist()
    return f"np.array({listed}, {str(value.dtype)!r})"


@dataclass(frozen=True)
class Rule:
    """What writes a line: `write` gives its expression, which has so many `values`."""

    name: str
    values: int
    write: Callable[["Drawing"], str]


class Drawing:
    """A program while it is drawn: its variables and their values.

    Parameters
    ----------
    rng : random.Random
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.inputs: list[Input] = []
        self.lines: list[Line] = []
        self.scope: dict[str, Any] = {**NAMES, "shared": host_shared}
        self.known: dict[Variable, Any] = {}
        self.pool: list[str] = []
        self.reads: list[str] = []
        self.count = 0
        self.refused = ""
        self.failed = False
        self.special = rng.random() < 0.25
        self.extreme = rng.random() < 0.15
        self.ties = rng.random() < 0.4
        self.shares = rng.random() < 0.3

    # Values and names

    def of(self, name: str) -> np.ndarray:
        """A variable's value."""
        return self.known[self.scope[name]]

    def value_of(self, text: str) -> np.ndarray:
        """The value of an expression, or NumPy's error."""
        variable = eval(text, self.scope)
        compute([variable], self.known)
        return self.known[variable]

    def shape(self, name: str) -> tuple[int, ...]:
        """A variable's shape."""
        return np.shape(self.of(name))

    def ndim(self, name: str) -> int:
        """A variable's number of axes."""
        return len(self.shape(name))

    def dtype(self, name: str) -> str:
        """A variable's dtype."""
        return str(self.scope[name].dtype)

    def maybe(self, chance: float) -> bool:
        """True as often as that."""
        return self.rng.random() < chance

    def any_of(self, *choices: Any) -> Any:
        """One of them."""
        return self.rng.choice(choices)

    def lengths(self, ndim: tuple[int, int], empty: bool = True) -> tuple[int, ...]:
        """A shape."""
        choices = (1, 2, 2, 3, 3, 4) + ((0,) if empty and self.maybe(0.2) else ())
        return tuple(self.rng.choice(choices) for _ in range(self.rng.randint(*ndim)))

    def numbers(
        self, dtype: str, shape: tuple[int, ...], low: int | None = None, high: int | None = None
    ) -> np.ndarray:
        """Random values of few digits, so that they are short as text; at times NaN, infinities, limits of a dtype."""
        rng, n = self.rng, int(np.prod(shape, dtype=int))
        kind = np.dtype(dtype).kind
        if kind == "b":
            drawn: list[Any] = [rng.random() < 0.5 for _ in range(n)]
        elif kind in "iu":
            first = low if low is not None else (-9 if kind == "i" else 0)
            drawn = [rng.randint(first, 9 if high is None else high) for _ in range(n)]
            if self.extreme and low is None:
                info = np.iinfo(dtype)
                drawn = [rng.choice((info.min, info.max, 0, x)) for x in drawn]
        else:
            drawn = [round(rng.gauss(0, 2), 0 if self.ties and rng.random() < 0.5 else 2) for _ in range(n)]
            if low is not None:
                drawn = [abs(x) + low for x in drawn]
            elif self.special:
                odd = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0)
                drawn = [rng.choice(odd) if rng.random() < 0.25 else x for x in drawn]
        return np.array(drawn, dtype=dtype).reshape(shape)

    def view(self, value: np.ndarray) -> str:
        """The text of an array with these values: as it is, or a view of another one."""
        text, rng = array_text(value), self.rng
        if value.ndim == 0 or value.size == 0 or not self.maybe(0.35):
            return text
        kind = rng.randrange(4)
        if kind == 0 and value.ndim > 1:
            return f"{array_text(value.T)}.T"
        axis = rng.randrange(value.ndim)
        before = ":, " * axis
        if kind == 1:
            return f"{text}.repeat(2, {axis})[{before}::2]"
        if kind == 2:
            return f"{array_text(np.flip(value, axis))}[{before}::-1]"
        return f"np.broadcast_to({text}, {value.shape})"

    def new(self, value: np.ndarray, kind: str | None = None) -> str:
        """A new input of that value."""
        name = f"x{self.count}"
        self.count += 1
        rng = self.rng
        if kind is None:
            kind = (
                "shared"
                if self.shares and self.maybe(0.5)
                else "constant"
                if self.maybe(0.08)
                else "argument"
            )
        # An axis of length 1 can be repeated only if the type says so.
        static = tuple(
            length if rng.random() < (0.93 if length == 1 else 0.4) else None for length in value.shape
        )
        text = self.view(value) if kind == "argument" else array_text(value)
        drawn = Input(name, str(value.dtype), static, text, kind)
        exec(drawn.line, self.scope)
        variable = self.scope[name]
        self.known[variable] = eval(text, self.scope)
        self.inputs.append(drawn)
        self.pool.append(name)
        self.reads.append(name)
        return name

    # Operands

    def dtypes(self, kinds: str) -> str:
        """A dtype of these kinds."""
        rng = self.rng
        kind = rng.choice(kinds + "f" * (2 if "f" in kinds and len(kinds) > 1 else 0))
        return rng.choice(DTYPES[kind])

    def x(
        self,
        kinds: str = "biuf",
        ndim: int | tuple[int, int] = (0, 3),
        fits: Callable[[np.ndarray], bool] | None = None,
        shape: tuple[int, ...] | None = None,
        low: int | None = None,
        high: int | None = None,
        empty: bool = True,
        dtype: str | None = None,
        fresh: float = 0.3,
    ) -> str:
        """A variable of that sort: one of the program's, or a new input."""
        ndim = (ndim, ndim) if isinstance(ndim, int) else ndim
        wanted = [dtype] if dtype else [d for kind in kinds for d in DTYPES[kind]]
        found = []
        for name in self.pool:
            value = self.of(name)
            if (
                self.scope[name].dtype in wanted
                and ndim[0] <= np.ndim(value) <= ndim[1]
                and (shape is None or np.shape(value) == shape)
                and (fits is None or fits(value))
                and (low is None or (np.size(value) == 0 or np.min(value) >= low))
                and (high is None or (np.size(value) == 0 or np.max(value) <= high))
                and (empty or np.size(value))
            ):
                found.append(name)
        if found and not self.maybe(fresh):
            # The newest most, so that graphs become deep.
            name = found[max(self.rng.randrange(len(found)), self.rng.randrange(len(found)))]
        else:
            for _ in range(20):
                lengths = self.lengths(ndim, empty) if shape is None else shape
                value = self.numbers(dtype or self.dtypes(kinds), lengths, low, high)
                if fits is None or fits(value):
                    return self.new(value)
            raise Unfit("of 20 values none was of the sort that is wanted")
        self.reads.append(name)
        return name

    def like(self, name: str, kinds: str = "biuf", **more: Any) -> str:
        """A variable that broadcasts with another."""
        shape, rng = self.shape(name), self.rng
        if self.maybe(0.03):
            # Most of these do not fit.
            return self.x(kinds, **more)
        if self.maybe(0.5):
            start = rng.randrange(len(shape) + 1) if self.maybe(0.6) else 0
            shape = tuple(1 if rng.random() < 0.3 else length for length in shape[start:])
        return self.x(kinds, len(shape), shape=shape, **more)

    def axis(self, name: str) -> int:
        """An axis of a variable, from the front or from the end."""
        ndim = self.ndim(name)
        axis = self.rng.randrange(ndim)
        return axis - ndim if self.maybe(0.4) else axis

    def axes(self, name: str) -> Any:
        """What a reduction may get as its axis."""
        ndim = self.ndim(name)
        if ndim == 0 or self.maybe(0.25):
            return None
        if ndim > 1 and self.maybe(0.35):
            return tuple(self.rng.sample(range(ndim), self.rng.randint(1, ndim)))
        return self.axis(name)

    def indices(self, length: int, shape: tuple[int, ...] | None = None, kinds: str = "iu") -> str:
        """A variable of integers that index an axis of that length."""
        low = 0 if length == 0 or self.maybe(0.4) else -length
        dtype = self.dtypes(kinds)
        low = 0 if dtype.startswith("u") else low
        high = max(length - 1, 0)
        if self.maybe(0.03):
            high = length
        if shape is None:
            shape = self.lengths((1, 2))
        value = self.numbers(dtype, shape, low, high)
        if self.maybe(0.35):
            return self.x(dtype=dtype, ndim=len(shape), shape=shape, low=low, high=high)
        return self.new(value)

    def square(self, kinds: str = "f", ndim: tuple[int, int] = (2, 3)) -> str:
        """Square matrices, most of them far from singular."""

        def fits(value: np.ndarray) -> bool:
            return (
                value.ndim >= 2 and value.shape[-1] == value.shape[-2] > 0 and bool(np.isfinite(value).all())
            )

        if self.maybe(0.15):
            return self.x(kinds, ndim, fits, fresh=0.1)
        side = self.rng.choice((1, 2, 3, 3))
        batch = (self.rng.choice((1, 2)),) if ndim[1] > 2 and self.maybe(0.3) else ()
        value = self.numbers(self.dtypes(kinds), (*batch, side, side), None if kinds != "f" else 0)
        value = (value - 1 + 4 * np.eye(side)).round(2).astype(value.dtype)
        return self.new(value)

    def positive(self, ndim: tuple[int, int] = (2, 3)) -> str:
        """The expression of positive definite matrices."""
        a = self.square(ndim=ndim)
        return f"({a} @ {a}.mT + np.eye({self.shape(a)[-1]}, dtype={self.dtype(a)!r}))"

    # Lines

    def add(self, rule: Rule, kept: bool) -> bool:
        """Let a rule write its line.

        Parameters
        ----------
        rule : Rule
        kept : bool
            Whether a line that fails when it is computed stays.

        Returns
        -------
        bool
            Whether there is a new line.
        """
        inputs, pool, count = list(self.inputs), list(self.pool), self.count
        self.reads = []
        try:
            text = rule.write(self)
        except Unfit as error:
            self.inputs, self.pool, self.count = inputs, pool, count
            self.refused = str(error)
            return False
        stem = f"v{len(self.lines)}"
        names = (stem,) if rule.values == 1 else tuple(f"{stem}{'abcdefgh'[k]}" for k in range(rule.values))
        line = Line(rule.name, names, text, tuple(dict.fromkeys(self.reads)))
        try:
            exec(line.line, self.scope)
            variables = [self.scope[name] for name in names]
            if not all(isinstance(v, Variable) for v in variables):
                raise TypeError(f"{rule.name}: expected variables, got {variables}")
        except Exception as error:
            self.inputs, self.pool, self.count = inputs, pool, count
            self.refused = f"{type(error).__name__}: {error}"
            return False
        fails = False
        try:
            compute(variables, self.known)
            large = any(np.size(self.known[v]) > LARGEST for v in variables)
        except Undefined:
            fails, kept, large = True, False, False
        except Exception as error:
            fails, large = True, False
            self.refused = f"{type(error).__name__}: {error}"
        if large or (fails and not kept):
            self.inputs, self.pool, self.count = inputs, pool, count
            return False
        self.lines.append(line)
        if not fails:
            self.pool += [n for n, v in zip(names, variables, strict=True) if hasattr(v, "dtype")]
        self.failed = fails
        return True

    def program(self) -> Program:
        """The program, with outputs, gradients and updates drawn."""
        rng = self.rng
        read = {name for line in self.lines for name in line.reads}
        made = [name for line in self.lines for name in line.names]
        outputs = [name for name in made if name not in read]
        outputs += [name for name in made if name in read and rng.random() < 0.15]
        program = Program(tuple(self.inputs), tuple(self.lines), tuple(outputs))
        wrt = tuple(x.name for x in self.inputs if x.kind != "constant" and x.dtype in FLOATS)
        floats = [v for v in outputs if v in self.pool and self.dtype(v) in FLOATS]
        if wrt and floats and not self.failed and rng.random() < 0.7:
            cost = tuple(
                (v, f"np.cos(np.arange({np.size(self.of(v))}.0)).reshape({self.shape(v)})") for v in floats
            )
            derived = replace(program, cost=cost, wrt=wrt)
            while derived.cost:
                try:
                    eval(derived.derived, self.scope)
                    program = derived
                    break
                except Exception:
                    # PyTensor has no gradient of something: of the last output, then of the others.
                    derived = replace(derived, cost=derived.cost[:-1])
        updates = []
        for x in self.inputs:
            if x.kind == "shared" and rng.random() < 0.7:
                variable = self.scope[x.name]
                fitting = [v for v in self.pool if variable.type.is_super(self.scope[v].type)]
                if fitting:
                    updates.append((x.name, rng.choice(fitting)))
        return replace(program, updates=tuple(updates)).needed()
