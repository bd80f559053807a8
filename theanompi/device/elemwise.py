"""PyTensor's element-wise nodes as torch code: one instruction, or a fused expression in one pass.

On the CPU a fused expression over large contiguous tensors runs in chunks that stay in the cache, so that
it costs one pass over memory whatever the number of its instructions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor.scalar as ps
import torch
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.link.pytorch.dispatch import pytorch_funcify
from pytensor.scalar.basic import Composite, ScalarOp
from pytensor.tensor.elemwise import Elemwise

from theanompi.device.ops.base import Context

CHUNK = 1 << 16
"""Elements in a chunk: 256 KiB of float32, so that the few operands of an expression fit a core's L2."""

_ARITHMETIC: dict[type[ScalarOp], Callable[..., Any]] = {
    ps.Add: torch.add,
    ps.Sub: torch.sub,
    ps.Mul: torch.mul,
    ps.TrueDiv: torch.true_divide,
    ps.IntDiv: torch.floor_divide,
    ps.Mod: torch.remainder,
    ps.Pow: torch.pow,
    ps.Neg: torch.neg,
    ps.Abs: torch.abs,
    ps.Sign: torch.sign,
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

_COMPARISON: dict[type[ScalarOp], Callable[..., Any]] = {
    ps.LT: torch.lt,
    ps.GT: torch.gt,
    ps.LE: torch.le,
    ps.GE: torch.ge,
    ps.EQ: torch.eq,
    ps.NEQ: torch.ne,
}

_BITWISE: dict[type[ScalarOp], Callable[..., Any]] = {
    ps.AND: torch.bitwise_and,
    ps.OR: torch.bitwise_or,
    ps.XOR: torch.bitwise_xor,
    ps.Invert: torch.bitwise_not,
}


def torch_dtype(name: str) -> torch.dtype:
    """Torch's dtype of a NumPy dtype's name.

    Examples
    --------
    >>> torch_dtype("float32")
    torch.float32
    """
    return getattr(torch, name)


def _constant(value: Any, dtype: str) -> torch.Tensor:
    """A zero-dimensional tensor on the CPU, which torch combines with tensors on any device."""
    return torch.tensor(np.asarray(value).reshape(()).item(), dtype=torch_dtype(dtype))


class _Body:
    """Writes the torch instructions of a scalar graph, one line each, into a function.

    The function takes the inputs, then the values computed once for all chunks, then a destination
    (a tensor or None) for each output, and returns the outputs.
    """

    def __init__(self, context: Context, uniform: set[Variable], reuse: bool) -> None:
        self.names: dict[Variable, str] = {}
        self.globals: dict[str, Any] = {}
        self.lines: list[str] = []
        self.uniform, self.reuse = uniform, reuse
        self.alpha = context.device.type == "cpu"

    def bind(self, value: Any, stem: str) -> str:
        name = f"{stem}{len(self.globals)}"
        self.globals[name] = value
        return name

    def operand(self, variable: Variable, dtype: str | None = None) -> str:
        """The expression of an operand, in the given dtype if one is demanded."""
        if isinstance(variable, Constant):
            return self.bind(_constant(variable.data, dtype or variable.type.dtype), "k")
        if dtype is None or variable.type.dtype == dtype:
            return self.names[variable]
        return f"{self.names[variable]}.to({self.bind(torch_dtype(dtype), 'dtype')})"

    def instruction(self, node: Apply, out: str | None) -> str:
        """The right-hand side that computes `node`, into the tensor named `out` if that is given."""
        op, dtype = node.op, node.outputs[0].type.dtype
        into = f", out={out}" if out else ""
        kind = type(op)
        if kind in _ARITHMETIC:
            function = self.bind(_ARITHMETIC[kind], "f")
            operands = [self.operand(v, dtype) for v in node.inputs]
            return self.fold(function, operands, into)
        if kind in _COMPARISON or kind in _BITWISE:
            function = self.bind((_COMPARISON | _BITWISE)[kind], "f")
            common = np.result_type(*(v.type.dtype for v in node.inputs)).name
            return self.fold(function, [self.operand(v, common) for v in node.inputs], "")
        if kind is ps.Cast:
            (x,) = node.inputs
            return f"{self.operand(x)}.to({self.bind(torch_dtype(dtype), 'dtype')}, copy=True)"
        if kind is ps.Identity:
            return f"{self.operand(node.inputs[0])}.clone()"
        if kind is ps.Switch:
            condition = self.operand(node.inputs[0], "bool")
            chosen = [self.operand(v, dtype) for v in node.inputs[1:]]
            return f"{self.bind(torch.where, 'f')}({condition}, {', '.join(chosen)})"
        if kind is ps.Clip:
            x, low, high = (self.operand(v, dtype) for v in node.inputs)
            return f"{self.bind(torch.clamp, 'f')}({x}, {low}, {high}{into})"
        if kind is ps.Second:
            like, value = node.inputs
            return (
                f"{self.bind(torch.where, 'f')}({self.operand(like, 'bool')} >= 0, {self.operand(value)}, 0)"
            )
        function = self.bind(pytorch_funcify(op, node=node), "f")
        # Of integers torch makes float32, PyTensor float64.
        wanted = dtype if dtype.startswith("float") else None
        return f"{function}({', '.join(self.operand(v, wanted) for v in node.inputs)})"

    def fold(self, function: str, operands: Sequence[str], into: str) -> str:
        if len(operands) <= 2:
            return f"{function}({', '.join(operands)}{into})"
        return f"{function}({self.fold(function, operands[:-1], '')}, {operands[-1]}{into})"


def _graph(node: Apply) -> tuple[list[Variable], list[Variable], list[Apply]]:
    """Inputs, outputs and instructions of the scalar graph of an Elemwise node."""
    op = node.op.scalar_op
    if isinstance(op, Composite):
        return list(op.fgraph.inputs), list(op.fgraph.outputs), list(op.fgraph.toposort())
    scalars = [ps.ScalarType(v.type.dtype)() for v in node.inputs]
    inner = op.make_node(*scalars)
    return scalars, list(inner.outputs), [inner]


def is_uniform(variable: Variable) -> bool:
    """Whether a variable holds one element, whatever its number of dimensions.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> is_uniform(pt.scalar()), is_uniform(pt.tensor(shape=(1, 1))), is_uniform(pt.tensor(shape=(1, None)))
    (True, True, False)
    """
    return all(length == 1 for length in variable.type.shape)


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

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> y = pt.exp(pt.vector("x", dtype="float32"))
    >>> elemwise_function(y.owner, Context())(torch.zeros(2))
    tensor([1., 1.])
    """
    inputs, outputs, nodes = _graph(node)
    shape = node.outputs[0].type.shape
    scalar_node = is_uniform(node.outputs[0])
    uniform = set() if scalar_node else {i for i, v in zip(inputs, node.inputs, strict=True) if is_uniform(v)}
    same_shape = all(i in uniform or v.type.shape == shape for i, v in zip(inputs, node.inputs, strict=True))

    once, body = _Body(context, uniform, same_shape), _Body(context, uniform, same_shape)
    for i, variable in enumerate(inputs):
        once.names[variable] = body.names[variable] = f"i{i}"
    hoisted: list[str] = []
    floats: list[str] = []
    streamed: list[Apply] = []
    for inner in nodes:
        constant_or_uniform = [isinstance(v, Constant) or v in uniform for v in inner.inputs]
        if not scalar_node and all(constant_or_uniform):
            name = f"u{len(hoisted)}"
            once.lines.append(f"{name} = {once.instruction(inner, None)}")
            once.names[inner.outputs[0]] = body.names[inner.outputs[0]] = name
            uniform.add(inner.outputs[0])
            hoisted.append(name)
        else:
            streamed.append(inner)

    clients: dict[Variable, int] = {}
    last_use: dict[Variable, int] = {}
    for position, inner in enumerate(streamed):
        for v in inner.inputs:
            clients[v] = clients.get(v, 0) + 1
            last_use[v] = position
    for v in outputs:
        last_use[v] = len(streamed)

    # s·b that only one addition or subtraction reads becomes its alpha: one instruction, no temporary.
    scaled: dict[Variable, tuple[Variable, str]] = {}
    if body.alpha and not scalar_node:
        for inner in streamed:
            if type(inner.op) is ps.Mul and len(inner.inputs) == 2 and clients.get(inner.outputs[0]) == 1:
                factors = [v for v in inner.inputs if isinstance(v, Constant) or v in uniform]
                rest = [v for v in inner.inputs if v not in factors]
                dtype = inner.outputs[0].type.dtype
                if (
                    len(factors) == 1
                    and inner.outputs[0] not in outputs
                    and rest[0].type.dtype == dtype == "float32"
                ):
                    name = f"a{len(floats)}"
                    floats.append(f"{name} = {once.operand(factors[0])}.item()")
                    scaled[inner.outputs[0]] = (rest[0], name)
        for inner in streamed:
            absorbs = type(inner.op) in (ps.Add, ps.Sub) and len(inner.inputs) == 2
            for v in inner.inputs:
                if v in scaled and not (absorbs and (v is inner.inputs[1] or type(inner.op) is ps.Add)):
                    del scaled[v]
            both = [v for v in inner.inputs if v in scaled]
            if len(both) == 2:
                del scaled[both[0]]
        for product, (rest, _) in scaled.items():
            last_use[rest] = max(last_use[rest], last_use[product])

    destinations = [f"d{i}" for i in range(len(outputs))]
    late_copies: list[str] = []
    temporaries: set[Variable] = set()
    for position, inner in enumerate(streamed):
        result = inner.outputs[0]
        if result in scaled:
            continue
        read = [scaled[v][0] if v in scaled else v for v in inner.inputs]
        into: str | None = None
        if result in outputs and type(inner.op) in _ARITHMETIC:
            index = outputs.index(result)
            taken = context.overwrite.get(index)
            # The same variable may be several inputs of the node.
            taken_as = [
                i
                for i, v in zip(inputs, node.inputs, strict=True)
                if taken is not None and v is node.inputs[taken]
            ]
            if all(last_use.get(i, -1) <= position for i in taken_as):
                into = destinations[index]
        elif same_shape and type(inner.op) in _ARITHMETIC and len(inner.inputs) <= 2:
            dying = [
                v
                for v in read
                if v in temporaries and last_use[v] == position and v.type.dtype == result.type.dtype
            ]
            into = body.names[dying[0]] if dying else None
        name = f"t{position}"
        product = next((v for v in inner.inputs if v in scaled), None)
        if product is not None:
            rest, factor = scaled[product]
            other = next(v for v in inner.inputs if v is not product)
            function = body.bind(torch.add if type(inner.op) is ps.Add else torch.sub, "f")
            out = f", out={into}" if into else ""
            operands = f"{body.operand(other, result.type.dtype)}, {body.names[rest]}"
            right = f"{function}({operands}, alpha={factor}{out})"
        else:
            right = body.instruction(inner, into)
        body.lines.append(f"{name} = {right}")
        body.names[result] = name
        if result not in outputs:
            temporaries.add(result)
    for index, (destination, variable) in enumerate(zip(destinations, outputs, strict=True)):
        name = body.operand(variable)
        body.lines.append(f"r{index} = {name}")
        if index in context.overwrite:
            late_copies.append(f"if {destination} is not r{index}: r{index} = {destination}.copy_(r{index})")
    body.lines += late_copies

    results = ", ".join(f"r{i}" for i in range(len(outputs)))
    names = [f"i{i}" for i in range(len(inputs))]
    numbers = [line.split(" ", 1)[0] for line in floats]
    run = _compile(
        "body",
        [*names, *hoisted, *numbers, *destinations],
        [*body.lines, f"return ({results},)"],
        body.globals,
    )
    prelude = _compile(
        "prelude",
        names,
        [*once.lines, *floats, f"return ({''.join(f'{n}, ' for n in [*hoisted, *numbers])})"],
        once.globals,
    )

    n_outputs, overwrite = len(outputs), context.overwrite
    streams = [i for i, v in enumerate(inputs) if v not in uniform]
    size = int(np.prod([length or 0 for length in shape]))
    chunked = (
        context.device.type == "cpu"
        and same_shape
        and None not in shape
        and size >= 2 * CHUNK
        and len(streamed) > 1
    )
    dtypes = [torch_dtype(v.type.dtype) for v in outputs]

    def whole(*tensors: torch.Tensor) -> Any:
        into = [tensors[overwrite[o]] if o in overwrite else None for o in range(n_outputs)]
        result = run(*tensors, *prelude(*tensors), *into)
        return result[0] if n_outputs == 1 else result

    def in_chunks(*tensors: torch.Tensor) -> Any:
        if not all(tensors[i].is_contiguous() for i in streams):
            return whole(*tensors)
        tensors = tuple(t if i in streams else t.view(()) for i, t in enumerate(tensors))
        shared = prelude(*tensors)
        full = [
            tensors[overwrite[o]] if o in overwrite else torch.empty(shape, dtype=dtypes[o])
            for o in range(n_outputs)
        ]
        count = -(-size // CHUNK)
        pieces = [t.view(-1).split(CHUNK) if i in streams else (t,) * count for i, t in enumerate(tensors)]
        targets = [t.view(-1).split(CHUNK) for t in full]
        for operands in zip(zip(*pieces, strict=True), zip(*targets, strict=True), strict=True):
            written = run(*operands[0], *shared, *operands[1])
            for target, result in zip(operands[1], written, strict=True):
                if result is not target:
                    target.copy_(result)
        return full[0] if n_outputs == 1 else tuple(full)

    checks_shapes = len(inputs) > 1 and any(None in v.type.shape for v in node.inputs)

    def checked(*tensors: torch.Tensor) -> Any:
        Elemwise._check_runtime_broadcast(node, tensors)
        return whole(*tensors)

    return checked if checks_shapes else in_chunks if chunked else whole


def _compile(
    name: str, parameters: Sequence[str], lines: Sequence[str], names: dict[str, Any]
) -> Callable[..., Any]:
    source = f"def {name}({', '.join(parameters)}):\n" + "".join(f"    {line}\n" for line in lines)
    scope = dict(names)
    exec(compile(source, f"<theanompi {name}>", "exec"), scope)
    return scope[name]
