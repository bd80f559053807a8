"""PyTensor's element-wise nodes as torch code: one instruction, or a fused expression in one pass.

On the CPU a fused expression over large contiguous tensors runs in chunks that stay in the cache, so that
it costs one pass over memory whatever the number of its instructions.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytensor.scalar as ps
import torch
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import AbstractFunctionGraph, FrozenFunctionGraph, FunctionGraph
from pytensor.scalar.basic import BinaryBitOp, Composite, LogicalComparison, ScalarOp, UnaryBitOp
from pytensor.scalar.loop import ScalarLoop
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.type import tensor

from theanompi.device import triton
from theanompi.device.generated import define
from theanompi.device.numbers import FUNCTIONS, python_expression
from theanompi.device.ops.base import Context
from theanompi.device.scalars import SIGNED, is_native, scalar_function, torch_dtype, where

CHUNK = 1 << 18
"""Elements in a chunk for each thread: 1 MiB of float32.

The five operands of an update then fit a core's share of the L3, and torch's calls are few enough.
"""

_ARITHMETIC: dict[type[ScalarOp], Callable[..., Any]] = {
    ps.Add: torch.add,
    ps.Sub: torch.sub,
    ps.Mul: torch.mul,
    ps.TrueDiv: torch.true_divide,
    ps.IntDiv: torch.floor_divide,
    ps.Pow: torch.pow,
    ps.Neg: torch.neg,
    ps.Abs: torch.abs,
    ps.Sqr: torch.square,
    ps.Sqrt: torch.sqrt,
    ps.Reciprocal: torch.reciprocal,
    ps.Exp: torch.exp,
    ps.Expm1: torch.expm1,
    ps.Log: torch.log,
    ps.Log1p: torch.log1p,
    ps.Log2: torch.log2,
    ps.Sin: torch.sin,
    ps.Cos: torch.cos,
    ps.Tanh: torch.tanh,
    ps.Floor: torch.floor,
    ps.Ceil: torch.ceil,
    ps.RoundHalfToEven: torch.round,
    ps.ScalarMaximum: torch.maximum,
    ps.ScalarMinimum: torch.minimum,
    ps.Sigmoid: torch.sigmoid,
    ps.Erf: torch.erf,
}
"""Functions whose operands have the dtype of their result, and that can write into ``out``."""

_SIMPLE = (LogicalComparison, UnaryBitOp, BinaryBitOp)
"""Ops whose functions take a constant from the CPU without waiting."""
_VARIADIC = (ps.Add, ps.Mul)
"""Of any number of operands, down to one, which rewriting may leave of a sum; torch's functions take two."""


def _constant(value: Any, dtype: str) -> torch.Tensor:
    """A zero-dimensional tensor on the CPU, which torch combines with tensors on any device."""
    return torch.tensor(np.asarray(value).reshape(()).item(), dtype=torch_dtype(dtype))


def _graph(node: Apply) -> tuple[list[Variable], list[Variable], list[Apply]]:
    """Inputs, outputs and instructions of the scalar graph of an Elemwise node."""
    op = node.op.scalar_op
    if isinstance(op, Composite):
        fgraph: AbstractFunctionGraph = op.fgraph
        if any(isinstance(inner.op, Composite) for inner in fgraph.toposort()):
            fgraph = _flat(op.fgraph)
        return list(fgraph.inputs), list(fgraph.outputs), list(fgraph.toposort())
    scalars = [ps.ScalarType(v.type.dtype)() for v in node.inputs]
    inner = op.make_node(*scalars)
    return scalars, list(inner.outputs), [inner]


def _flat(frozen: FrozenFunctionGraph) -> FunctionGraph:
    """A graph with the instructions of the fused expressions in it in their places."""
    fgraph = frozen.unfreeze()
    while fused := [node for node in fgraph.toposort() if isinstance(node.op, Composite)]:
        for node in fused:
            fgraph.replace_all(
                list(zip(node.outputs, node.op.fgraph.bind(list(node.inputs)), strict=True)), reason="flat"
            )
    return fgraph


def is_uniform(variable: Variable) -> bool:
    """Whether a variable holds one element, whatever its number of dimensions.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> is_uniform(pt.scalar()), is_uniform(pt.tensor(shape=(1, 1))), is_uniform(pt.tensor(shape=(1, None)))
    (True, True, False)
    """
    return all(length == 1 for length in variable.type.shape)


def _blend(a: torch.Tensor, b: torch.Tensor, s: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """Give a + s·(b - a); torch's own function has other values for a larger s, where b is infinite."""
    if -0.5 < s < 0.5:
        return torch.lerp(a, b, s, out=out)
    return torch.add(a, b - a, alpha=s, out=out)


class _Expression:
    """The torch instructions of a fused expression, one line each, as a function of its operands.

    Attributes
    ----------
    inputs, outputs : list of Variable
        Of the scalar graph, in the order of the node's.
    nodes : list of Apply
        Its instructions.
    uniform : set of Variable
        What holds one element while the outputs hold more: inputs, and results of nothing but those.
    same_shape : bool
        Whether all other inputs have the shape of the outputs.
    numbers : dict of str to int
        Parameter → position of the uniform input whose value it is, as a Python number.
    """

    def __init__(self, node: Apply, context: Context) -> None:
        self.node, self.context = node, context
        self.inputs, self.outputs, self.nodes = _graph(node)
        shape = node.outputs[0].type.shape
        pairs = list(zip(self.inputs, node.inputs, strict=True))
        self.uniform = set() if is_uniform(node.outputs[0]) else {i for i, v in pairs if is_uniform(v)}
        self.same_shape = all(i in self.uniform or v.type.shape == shape for i, v in pairs)
        self.names: dict[Variable, str] = {v: f"i{k}" for k, v in enumerate(self.inputs)}
        self.globals: dict[str, Any] = {}
        self.numbers: dict[str, int] = {}
        self.last_use: dict[Variable, int] = {}
        for position, inner in enumerate(self.nodes):
            self.last_use |= dict.fromkeys(inner.inputs, position)
            if self.uniform and all(isinstance(v, Constant) or v in self.uniform for v in inner.inputs):
                self.uniform.update(inner.outputs)
        self.last_use |= dict.fromkeys(self.outputs, len(self.nodes))
        # On other devices reading a number would wait for them.
        self.reads_numbers = context.device.type == "cpu" and not is_uniform(node.outputs[0])
        self.scaled = self._find_scaled()
        self.blended = self._find_blended()
        self.often_one = self._find_often_one()

    def _readers(self, variable: Variable) -> int:
        return sum(n.inputs.count(variable) for n in self.nodes) + self.outputs.count(variable)

    def _find_scaled(self) -> dict[Variable, tuple[Variable, str]]:
        """Products s·b that one addition or subtraction takes over as its alpha, without a temporary: b and s."""
        scaled: dict[Variable, tuple[Variable, str]] = {}
        if not self.reads_numbers:
            return scaled
        products = {n.outputs[0]: n for n in self.nodes if type(n.op) is ps.Mul and len(n.inputs) == 2}
        for position, inner in enumerate(self.nodes):
            if type(inner.op) not in (ps.Add, ps.Sub) or len(inner.inputs) != 2:
                continue
            left, right = inner.inputs
            for v in (right, left) if type(inner.op) is ps.Add else (right,):
                if v not in products or self._readers(v) != 1:
                    continue
                numbers = self.uniform & set(self.inputs)
                factors = [f for f in products[v].inputs if isinstance(f, Constant) or f in numbers]
                rest = [f for f in products[v].inputs if f not in factors]
                # Torch takes no truth value for an alpha.
                if len(factors) != 1 or factors[0].type.dtype == "bool":
                    continue
                if {v.type.dtype, rest[0].type.dtype, inner.outputs[0].type.dtype} == {"float32"}:
                    scaled[v] = (rest[0], self._number(factors[0]))
                    self.last_use[rest[0]] = max(self.last_use[rest[0]], position)
                    break
        return scaled

    def _find_blended(self) -> dict[Variable, Variable]:
        """Differences c - a of which nothing but a + s·(c - a) is made: c. That is one instruction."""
        blended: dict[Variable, Variable] = {}
        for position, inner in enumerate(self.nodes):
            product = next((v for v in inner.inputs if v in self.scaled), None)
            if product is None or type(inner.op) is not ps.Add:
                continue
            difference = self.scaled[product][0]
            other = next(v for v in inner.inputs if v is not product)
            made = next((n for n in self.nodes if n.outputs[0] is difference), None)
            if made is None or type(made.op) is not ps.Sub or self._readers(difference) != 1:
                continue
            new, old = made.inputs
            if old is other and new not in self.uniform and not isinstance(new, Constant):
                if {v.type.dtype for v in (new, old)} == {"float32"}:
                    blended[difference] = new
                    self.last_use[new] = max(self.last_use[new], position)
        return blended

    def _find_often_one(self) -> dict[Variable, tuple[Variable, str]]:
        """Other products n·b of an input b and one n that holds one element: where n is 1, they are b itself."""
        often_one: dict[Variable, tuple[Variable, str]] = {}
        if not self.reads_numbers:
            return often_one
        inputs = set(self.inputs)
        for inner in self.nodes:
            product = inner.outputs[0]
            if type(inner.op) is not ps.Mul or len(inner.inputs) != 2:
                continue
            if product in self.scaled or product in self.outputs or product in self.uniform:
                continue
            numbers = [v for v in inner.inputs if v in self.uniform & inputs]
            rest = [v for v in inner.inputs if v in inputs - self.uniform]
            if len(numbers) == len(rest) == 1 and {v.type.dtype for v in inner.inputs} == {"float32"}:
                often_one[product] = (rest[0], self._number(numbers[0]))
                # What is b may be read as long as what is n·b.
                self.last_use[rest[0]] = max(self.last_use[rest[0]], self.last_use[product])
        return often_one

    def _number(self, factor: Variable) -> str:
        """The name of a Python number: a constant's, or an input's that is read at each call."""
        if isinstance(factor, Constant):
            return self.bind(np.asarray(factor.data).item(), "s")
        position = self.inputs.index(factor)
        self.numbers[f"n{position}"] = position
        return f"n{position}"

    def bind(self, value: Any, stem: str) -> str:
        name = f"{stem}{len(self.globals)}"
        self.globals[name] = value
        return name

    def operand(self, variable: Variable, dtype: str | None = None, on_device: bool = False) -> str:
        """The expression of an operand, in the given dtype if one is demanded.

        With `on_device` a constant lies there: not every function of torch's takes it from the CPU without waiting.
        """
        if isinstance(variable, Constant):
            constant = _constant(variable.data, dtype or variable.type.dtype)
            return self.bind(constant.to(self.context.device) if on_device else constant, "k")
        if dtype is None or variable.type.dtype == dtype:
            return self.names[variable]
        return f"{self.names[variable]}.to({self.bind(torch_dtype(dtype), 'dtype')})"

    def instruction(self, node: Apply, out: str | None) -> str:
        """The right-hand side that computes `node`, into the tensor named `out` if that is given."""
        op, dtype = node.op, node.outputs[0].type.dtype
        into = f", out={out}" if out else ""
        kind = type(op)
        if self._is_direct(node):
            function = self.bind(_ARITHMETIC[kind], "f")
            operands = [self.operand(v, dtype) for v in node.inputs]
            return self.fold(function, operands, into)
        if kind is ps.Cast or (kind in _VARIADIC and len(node.inputs) == 1):
            (x,) = node.inputs
            return f"{self.operand(x)}.to({self.bind(torch_dtype(dtype), 'dtype')}, copy=True)"
        if kind is ps.Identity:
            return f"{self.operand(node.inputs[0])}.clone()"
        if kind is ps.Switch:
            condition = self.operand(node.inputs[0], "bool", on_device=True)
            chosen = [self.operand(v, dtype, on_device=True) for v in node.inputs[1:]]
            choose = where if torch_dtype(dtype) in SIGNED else torch.where
            return f"{self.bind(choose, 'f')}({condition}, {', '.join(chosen)})"
        if kind is ps.Clip and self._clamps(node):
            x, low, high = (self.operand(v, dtype, on_device=True) for v in node.inputs)
            return f"{self.bind(torch.clamp, 'f')}({x}, {low}, {high}{into})"
        if kind is ps.Second:
            like, value = node.inputs
            value = self.operand(value, on_device=True)
            return f"{self.bind(where, 'f')}({self.operand(like, 'bool')} >= 0, {value}, {value})"
        if isinstance(op, ScalarLoop):
            operands = [self.operand(v, on_device=True) for v in node.inputs]
            return f"{self.bind(_loop(op, self.context), 'f')}({', '.join(operands)})"
        scalar, wanted = scalar_function(node, self._value(node.inputs[0]))
        function, on_device = self.bind(scalar, "f"), not isinstance(op, _SIMPLE)
        operands = [self.operand(v, w, on_device) for v, w in zip(node.inputs, wanted, strict=True)]
        if kind in _VARIADIC:
            return self.fold(function, operands, "")
        return f"{function}({', '.join(operands)})"

    def _is_direct(self, node: Apply) -> bool:
        """Whether it is an arithmetic op in which torch's own function has NumPy's values."""
        kind, dtype = type(node.op), node.outputs[0].type.dtype
        if kind not in _ARITHMETIC or not is_native(dtype):
            return False
        if kind in _VARIADIC and len(node.inputs) == 1:
            return False
        if any(v.type.dtype.startswith("complex") for v in node.inputs):
            return False
        if dtype.startswith("float") or kind not in (ps.IntDiv, ps.Pow):
            return True
        second = self._value(node.inputs[1])
        if second is None:
            return False
        return bool(np.all(second >= 0)) if kind is ps.Pow else not np.isin(second, (0, -1)).any()

    def _clamps(self, node: Apply) -> bool:
        """Whether the bounds of a clip are known, in order, and no NaN."""
        low, high = (self._value(v) for v in node.inputs[1:])
        ordered = low is not None and high is not None and bool(np.all(low <= high))
        return ordered and is_native(node.outputs[0].type.dtype)

    def _value(self, variable: Variable) -> np.ndarray | None:
        """The value of a constant, of the expression's own or given to it."""
        if variable in self.inputs:
            variable = self.node.inputs[self.inputs.index(variable)]
        return np.asarray(variable.data) if isinstance(variable, Constant) else None

    def fold(self, function: str, operands: Sequence[str], into: str) -> str:
        if len(operands) <= 2:
            return f"{function}({', '.join(operands)}{into})"
        return f"{function}({self.fold(function, operands[:-1], '')}, {operands[-1]}{into})"

    def _destination(self, inner: Apply, position: int, whole: bool) -> str | None:
        """What the result of an instruction is written into, if not into new memory."""
        if not self._is_direct(inner):
            return None
        result = inner.outputs[0]
        if result in self.outputs:
            index = self.outputs.index(result)
            taken = self.context.overwrite.get(index)
            # The same variable may be several inputs of the node; all of them must have been read.
            read_later = taken is not None and any(
                self.last_use.get(i, -1) > position
                for i, v in zip(self.inputs, self.node.inputs, strict=True)
                if v is self.node.inputs[taken]
            )
            return None if read_later or (whole and taken is None) else f"d{index}"
        if not self.same_shape or len(inner.inputs) > 2:
            return None
        for v in (self.scaled[v][0] if v in self.scaled else v for v in inner.inputs):
            full = v in self.names and v not in self.inputs and v not in self.uniform
            if (
                full
                and v not in self.often_one
                and v not in self.outputs
                and self.last_use[v] == position
                and v.type.dtype == result.type.dtype
            ):
                return self.names[v]
        return None

    def _addition(self, inner: Apply, product: Variable, into: str | None) -> str:
        """The right-hand side of a ± s·b."""
        rest, factor = self.scaled[product]
        other = next(v for v in inner.inputs if v is not product)
        out = f", out={into}" if into else ""
        if rest in self.blended:
            operands = f"{self.operand(other)}, {self.operand(self.blended[rest])}, {factor}{out}"
            return f"{self.bind(_blend, 'f')}({operands})"
        function = self.bind(torch.add if type(inner.op) is ps.Add else torch.sub, "f")
        return f"{function}({self.operand(other)}, {self.names[rest]}, alpha={factor}{out})"

    def _lines(self, whole: bool) -> list[str]:
        """Compute r0, r1, … of the operands i0, i1, …, of the numbers, and of destinations d0, d1, …."""
        lines = []
        for position, inner in enumerate(self.nodes):
            result = inner.outputs[0]
            if result in self.scaled or result in self.blended:
                continue
            into = self._destination(inner, position, whole)
            product = next((v for v in inner.inputs if v in self.scaled), None)
            right = self.instruction(inner, into) if product is None else self._addition(inner, product, into)
            if result in self.often_one:
                same, number = self.often_one[result]
                right = f"{self.names[same]} if {number} == 1 else {right}"
            names = (
                [f"t{position}"]
                if len(inner.outputs) == 1
                else [f"t{position}_{k}" for k in range(len(inner.outputs))]
            )
            self.names.update(zip(inner.outputs, names, strict=True))
            lines.append(f"{', '.join(names)} = {right}")
        lines += [f"r{k} = {self.operand(v)}" for k, v in enumerate(self.outputs)]
        return lines + [f"if d{k} is not r{k}: r{k} = d{k}.copy_(r{k})" for k in self.context.overwrite]

    def _define(self, parameters: Iterable[str], lines: Iterable[str]) -> Callable[..., Any]:
        source = f"def expression({', '.join(parameters)}):\n" + "".join(f"    {line}\n" for line in lines)
        return define(source, "expression", self.globals)

    def whole(self) -> Callable[..., Any]:
        """Write the node's function: of its operands, giving its output, or a tuple of them."""
        results = [f"r{k}" for k in range(len(self.outputs))]
        lines = self._lines(whole=True)
        numbers = [f"{name} = i{position}.item()" for name, position in self.numbers.items()]
        taken = [f"d{k} = i{position}" for k, position in self.context.overwrite.items()]
        return self._define(
            (f"i{k}" for k in range(len(self.inputs))),
            [*numbers, *taken, *lines, f"return {', '.join(results)}"],
        )

    def is_of_numbers(self) -> bool:
        """Whether it is fused from several instructions, and all operands are of one element on the CPU."""
        return (
            self.context.device.type == "cpu"
            and len(self.nodes) > 1
            and all(map(is_uniform, [*self.node.inputs, *self.node.outputs]))
        )

    def of_numbers(self) -> Callable[..., Any]:
        """Write the node's function as `whole` does, for operands of one element on the CPU, in Python's arithmetic.

        What that has no equal for is left to torch.
        """
        self.globals |= {**FUNCTIONS, "full": torch.full, "shape": self.node.outputs[0].type.shape}
        numbers: dict[Variable, str] = {}
        lines: list[str] = []

        def number(v: Variable) -> str:
            if v not in numbers and isinstance(v, Constant):
                numbers[v] = self.bind(np.asarray(v.data).item(), "s")
            elif v not in numbers:
                numbers[v] = f"n{len(lines)}"
                lines.append(f"{numbers[v]} = {self.names[v]}.item()")
            return numbers[v]

        def tensor(v: Variable) -> str:
            if v not in self.names:
                value, dtype = number(v), self.bind(torch_dtype(v.type.dtype), "dtype")
                self.names[v] = f"t{len(lines)}"
                lines.append(f"{self.names[v]} = full(shape, {value}, dtype={dtype})")
            return self.names[v]

        for inner in self.nodes:
            expression = python_expression(inner)
            if expression is not None:
                right = expression.format(*map(number, inner.inputs))
                numbers[inner.outputs[0]] = f"n{len(lines)}"
                lines.append(f"{numbers[inner.outputs[0]]} = {right}")
                continue
            for v in inner.inputs:
                if not isinstance(v, Constant):
                    tensor(v)
            right = self.instruction(inner, None)
            names = [f"t{len(lines)}_{k}" for k in range(len(inner.outputs))]
            self.names |= zip(inner.outputs, names, strict=True)
            lines.append(f"{', '.join(names)} = {right}")
        results = []
        for k, v in enumerate(self.outputs):
            if k not in self.context.overwrite:
                results.append(tensor(v))
                continue
            results.append(f"i{self.context.overwrite[k]}")
            new = f"copy_({self.names[v]})" if v in self.names else f"fill_({number(v)})"
            lines.append(f"{results[k]}.{new}")
        parameters = (f"i{k}" for k in range(len(self.inputs)))
        return self._define(parameters, [*lines, f"return {', '.join(results)}"])

    def by_chunks(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """Write the function of a chunk.

        It takes the inputs, then the numbers in `numbers`, then for each output a destination (a tensor to write into,
        or None), and gives a tuple of the outputs.
        """
        lines = self._lines(whole=False)
        results = [f"r{k}" for k in range(len(self.outputs))]
        destinations = (f"d{k}" for k in range(len(self.outputs)))
        return self._define(
            [*(f"i{k}" for k in range(len(self.inputs))), *self.numbers, *destinations],
            [*lines, f"return ({', '.join(results)},)"],
        )


def _loop(op: ScalarLoop, context: Context) -> Callable[..., Any]:
    """The function of a loop of scalar operations: each element makes its own number of steps."""
    body = Composite(op.fgraph.inputs, op.fgraph.outputs)
    node = Elemwise(body).make_node(*(tensor(dtype=v.type.dtype, shape=(None,)) for v in op.fgraph.inputs))
    run = _Expression(node, replace(context, overwrite={}, into=())).by_chunks()
    n_states = len(op.outputs) - op.is_while
    no_destinations = (None,) * len(op.outputs)

    def loop(n_steps: torch.Tensor, *values: torch.Tensor) -> Any:
        n_steps, *broadcast = torch.broadcast_tensors(n_steps, *values)
        # Without a step they are the results, in memory of their own.
        states = [v.clone(memory_format=torch.contiguous_format) for v in broadcast[:n_states]]
        constants = broadcast[n_states:]
        running, done = n_steps > 0, torch.zeros_like(n_steps, dtype=torch.bool)
        step = 0
        while running.any():
            results = run(*states, *constants, *no_destinations)
            states = [torch.where(running, new, old) for new, old in zip(results, states, strict=False)]
            if op.is_while:
                done = torch.where(running, results[-1], done)
            step += 1
            running = ~done & (n_steps > step)
        outputs = (*states, done) if op.is_while else tuple(states)
        return outputs if len(outputs) > 1 else outputs[0]

    return loop


def elemwise_function(node: Apply, context: Context) -> Callable[..., Any]:
    """The torch function of an Elemwise node.

    Parameters
    ----------
    node : Apply
        Of an `Elemwise` of any scalar op, fused expressions (`Composite`) included.
    context : Context
        ``overwrite`` may let outputs take the storage of inputs of the same type.

    Returns
    -------
    callable
        From the input tensors to the output tensor, or a tuple of them.
    """
    expression = _Expression(node, context)
    # Under bf16 a number may be narrower than its type says.
    if expression.is_of_numbers() and context.precision != "bf16":
        return expression.of_numbers()
    whole = expression.whole()
    overwrite, n_outputs = context.overwrite, len(node.outputs)
    shape = node.outputs[0].type.shape

    def checked(*tensors: torch.Tensor) -> Any:
        Elemwise._check_runtime_broadcast(node, tensors)
        return whole(*tensors)

    unknown = len(node.inputs) > 1 and any(None in v.type.shape for v in node.inputs)
    otherwise = checked if unknown else whole
    fused = expression.same_shape and len(expression.nodes) > 1
    if fused and context.device.type != "cpu" and triton.available():
        from theanompi.device.triton.elemwise import in_one_pass  # imports Triton

        graph = expression.inputs, expression.outputs, expression.nodes
        return in_one_pass(*graph, expression.uniform & set(expression.inputs), overwrite, otherwise)
    if unknown:
        return checked
    size = int(np.prod([length or 0 for length in shape]))
    if context.device.type != "cpu" or not fused or size < 2 * CHUNK:
        return whole

    run, numbers = expression.by_chunks(), list(expression.numbers.values())
    dtypes = [torch_dtype(v.type.dtype) for v in node.outputs]
    streams = [i not in expression.uniform for i in expression.inputs]

    def in_chunks(*tensors: torch.Tensor) -> Any:
        if not all(t.is_contiguous() for t, streamed in zip(tensors, streams, strict=True) if streamed):
            return whole(*tensors)
        chunk = CHUNK * torch.get_num_threads()
        n_chunks = -(-size // chunk)
        values = [tensors[i].item() for i in numbers]
        full = [
            tensors[overwrite[o]] if o in overwrite else torch.empty(shape, dtype=dtypes[o])
            for o in range(n_outputs)
        ]
        pieces = [
            t.view(-1).split(chunk) if streamed else (t.view(()),) * n_chunks
            for t, streamed in zip(tensors, streams, strict=True)
        ]
        targets = [t.view(-1).split(chunk) for t in full]
        for operands, into in zip(zip(*pieces, strict=True), zip(*targets, strict=True), strict=True):
            for target, result in zip(into, run(*operands, *values, *into), strict=True):
                if result is not target:
                    target.copy_(result)
        return full[0] if n_outputs == 1 else tuple(full)

    return in_chunks
