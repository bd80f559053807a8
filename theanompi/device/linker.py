"""From a PyTensor graph to one straight Python function of torch calls.

PyTensor's own PyTorch linker moves every result through the host and frees nothing before the end. This one
keeps shared variables on the device and updates them in place, deletes every value after its last use, and
lets an op write into an operand that nobody reads again.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pytensor.compile.executor import Function
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import AbstractFunctionGraph, FrozenFunctionGraph, FunctionGraph
from pytensor.graph.rewriting.db import RewriteDatabaseQuery
from pytensor.link.basic import JITLinker
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.type import TensorType

from theanompi.device import triton
from theanompi.device.capture import Captured
from theanompi.device.dispatch import (
    FRESH,
    OF_LENGTHS,
    ON_HOST,
    constant_tensor,
    destinations,
    torch_function,
)
from theanompi.device.fusion import BF16_TAG, GPU_TAG, LAUNCH_TAG
from theanompi.device.generated import define
from theanompi.device.ops.base import PRECISIONS, Context, TorchOp, placed, shared_memory
from theanompi.device.placement import current, parse
from theanompi.device.rewrites import RememberedMode
from theanompi.device.shapes import TAG
from theanompi.device.unsupported import Unsupported


class TorchLinker(JITLinker):
    """Links a graph to torch on one device.

    Parameters
    ----------
    device : torch.device
    precision : {"float32", "tf32", "bf16"}
    return_internal_type : bool
        Give outputs as device tensors, not as NumPy arrays.
    written : callable, optional
        Called with a shared variable's name as soon as its update has been written.
    capture : bool
        On a CUDA device, record functions as CUDA graphs.
    """

    incompatible_rewrites = (
        "cxx_only",
        "BlasOpt",
        "inplace",
        "scan_reduce_trace_prealloc",
        "reuse_decomposition_multiple_solves",
        "scan_split_non_sequence_decomposition_and_solve",
        # Takes any diagonal of a block matrix for the main one (PyTensor 3.0.7 to 3.3.8).
        "diag_of_blockdiag",
        # theanompi.device.shapes is in its place.
        "ShapeOpt",
        # For each matrix product and transpose they search all of the graph before it: is it diagonal, orthogonal,
        # symmetric, a selection?
        "dot_diag_to_elemwise",
        "orthogonal_dot_transpose_to_eye",
        "selection_dot_to_indexing",
        "useless_symmetric_transpose",
    )

    def __init__(
        self,
        device: torch.device,
        precision: str,
        return_internal_type: bool,
        written: Callable[[str], None] | None,
        capture: bool,
    ) -> None:
        super().__init__(allow_gc=True)
        self.device, self.precision, self.return_internal_type = device, precision, return_internal_type
        self.written, self.capture = written, capture

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: a function that is read again is compiled again."""
        return {k: v for k, v in self.__dict__.items() if k not in ("program", "cells")}

    def accept(self, fgraph: FunctionGraph, no_recycling: Any = None, profile: Any = None) -> "TorchLinker":
        """Take a graph: a new linker of the same kind for each."""
        linker = copy.copy(self)
        linker.fgraph, linker.no_recycling = fgraph, no_recycling or []
        return linker

    def fgraph_convert(
        self,
        fgraph: FunctionGraph,
        order: Sequence[Apply],
        input_storage: list[list[Any]],
        output_storage: list[list[Any]],
        storage_map: dict[Variable, list[Any]],
        **kwargs: Any,
    ) -> Callable[..., Any]:
        """Write the function. It takes the inputs' storage values and returns outputs and updates."""
        on_device = [isinstance(s[0], torch.Tensor) for s in input_storage]
        # A variable and its clone hold the same storage cell.
        cells = [id(s) for s in input_storage]
        alone = [cells.count(cell) == 1 for cell in cells]
        return _Program(self, fgraph, results_early(fgraph, order), on_device, alone).compile()

    def inner(
        self, fgraph: AbstractFunctionGraph, views: bool = False
    ) -> Callable[..., tuple[torch.Tensor, ...]]:
        """The function of a graph that an op holds, rewritten like any other.

        Parameters
        ----------
        fgraph : FunctionGraph or FrozenFunctionGraph
        views : bool
            Its results may be inputs, or views of them or of each other: nobody writes into them.
        """
        linker = copy.copy(self)
        linker.return_internal_type, linker.written = True, None
        frozen = isinstance(fgraph, FrozenFunctionGraph)
        fgraph = fgraph.unfreeze() if frozen else FunctionGraph(fgraph.inputs, fgraph.outputs, clone=True)
        # Recognised once more, a graph that an op stands for would become that op again, without an end.
        _mode(linker).excluding("symbolic_op_recognition").optimizer.rewrite(fgraph)
        order = results_early(fgraph, fgraph.toposort())
        everywhere = [True] * len(fgraph.inputs)
        return _Program(linker, fgraph, order, everywhere, everywhere, views).compile()

    def create_thunk_inputs(self, storage_map: dict[Variable, list[Any]]) -> list[Any]:
        """The storage cells that the function reads at every call."""
        assert self.fgraph is not None
        self.cells = [storage_map[v] for v in self.fgraph.inputs]
        return self.cells

    def jit_compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function that is called, kept for `direct`."""
        self.program = self._with_precision(fn)
        return self.program

    def _with_precision(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Bind the precision: tf32 is a switch of torch's that must be right while this function runs."""
        if self.device.type == "cpu":
            return fn
        tf32 = self.precision == "tf32"

        def run(*values: Any) -> Any:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            return fn(*values)

        return Captured(run) if self.capture else run


def direct(function: Function) -> Callable[[], tuple[Any, ...]]:
    """A compiled function without what PyTensor does before and after each call.

    Parameters
    ----------
    function : pytensor.compile.executor.Function
        Of a `mode`, without arguments, that updates variables on the device only: those it updates itself.

    Returns
    -------
    callable
        Gives a tuple that begins with the function's results.

    Raises
    ------
    ValueError
        If it updates a variable that is on no device.

    Examples
    --------
    >>> import pytensor
    >>> from theanompi.device import shared
    >>> w = shared(np.float32([1, 2]))
    >>> step = direct(pytensor.function([], w.sum(), updates=[(w, 2 * w)]))
    >>> step()[0], step()[0], w.get_value()
    (array(3., dtype=float32), array(6., dtype=float32), array([4., 8.], dtype=float32))
    """
    linker = function.maker.linker
    program, cells = linker.program, linker.cells
    for target in (linker.fgraph.update_mapping or {}).values():
        if not isinstance(cells[target][0], torch.Tensor):
            raise ValueError(
                f"direct: expected updates on the device only, got {linker.fgraph.inputs[target]}"
            )
    return lambda: program(*[cell[0] for cell in cells])


def results_early(fgraph: FunctionGraph, order: Sequence[Apply]) -> list[Apply]:
    """The same nodes, with those that lead to a result of the graph and nowhere else as early as can be.

    A gradient is then there when backward has reached its layer, not at some time after it: its exchange can
    begin, and what it was computed from can be freed.

    Parameters
    ----------
    fgraph : FunctionGraph
    order : sequence of Apply
        Each node after those that it reads.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> x = pt.vector("x")
    >>> y = pt.exp(x)
    >>> z = pt.cos(y)
    >>> fgraph = FunctionGraph([x], [z * pt.exp(z), y.sum()], clone=False)
    >>> [str(node.op) for node in results_early(fgraph, fgraph.toposort())]
    ['Exp', 'Sum{axes=None}', 'Cos', 'Exp', 'Mul']
    """
    nodes = set(order)
    side: set[Apply] = set()
    for node in reversed(order):
        readers = {reader for v in node.outputs for reader, _ in fgraph.clients[v]} & nodes
        if len(readers) <= 1 and readers <= side:
            side.add(node)
    missing = {node: {v.owner for v in node.inputs} & nodes for node in side}
    early: list[Apply] = []

    def place(node: Apply) -> None:
        early.append(node)
        for reader in dict.fromkeys(reader for v in node.outputs for reader, _ in fgraph.clients[v]):
            if reader in side:
                missing[reader].discard(node)
                if not missing[reader]:
                    place(reader)

    for node in order:
        if node not in side or not any(v.owner in nodes for v in node.inputs):
            place(node)
    return early


class _Program:
    """The lines of one function, written node by node."""

    def __init__(
        self,
        linker: TorchLinker,
        fgraph: FunctionGraph,
        order: list[Apply],
        on_device: Sequence[bool],
        alone: Sequence[bool],
        views: bool = False,
    ) -> None:
        self.linker, self.fgraph, self.order, self.views = linker, fgraph, order, views
        self.device_inputs = {v for v, there in zip(fgraph.inputs, on_device, strict=True) if there}
        # Others may be written only when nothing of the graph is to be computed any more.
        self.writable = {v for v, only in zip(fgraph.inputs, alone, strict=True) if only} & self.device_inputs
        mapping: dict[int, int] = fgraph.update_mapping or {}
        n_results = len(fgraph.outputs) - len(mapping)
        self.results = fgraph.outputs[:n_results]
        self.updates = [
            (fgraph.inputs[mapping[i]], fgraph.outputs[i]) for i in range(n_results, len(fgraph.outputs))
        ]
        self.names: dict[Variable, str] = {v: f"i{k}" for k, v in enumerate(fgraph.inputs)}
        self.scope: dict[str, Any] = {}
        self.host: set[Variable] = set()
        self.pending = {value: target for target, value in self.updates if target in self.writable}
        self.written: set[Variable] = set()
        self._find_lifetimes()

    @property
    def apart(self) -> bool:
        """Whether the device is another one than the CPU, on which numbers may lie."""
        return self.linker.device.type != "cpu"

    def _find_lifetimes(self) -> None:
        """Which storage each variable may live in, and the last node that reads each storage."""
        end = len(self.order)
        self.roots: dict[Variable, frozenset[Variable]] = {v: frozenset([v]) for v in self.fgraph.inputs}
        self.last_read: dict[Variable, int] = {}
        self.last_named: dict[Variable, int] = {}
        for position, node in enumerate(self.order):
            for v in node.inputs:
                self.last_named[v] = position
                for root in self._roots(v):
                    self.last_read[root] = position
            inherited = frozenset[Variable]().union(*(self._roots(v) for v in node.inputs))
            for v in node.outputs:
                self.roots[v] = frozenset([v]) if isinstance(node.op, FRESH) else inherited | {v}
        for v in self.results:
            for root in self._roots(v):
                self.last_read[root] = end
            self.last_named[v] = end
        for target, value in self.updates:
            self.last_named[value] = end
            # A value that may lie in another storage is copied at the end, before which nothing overwrites that.
            for root in self._roots(value) - {target}:
                self.last_read[root] = end

    def _roots(self, variable: Variable) -> frozenset[Variable]:
        """The variables whose storage `variable` may live in; a constant lives in its own."""
        return self.roots.get(variable, frozenset([variable]))

    def _owned(self, variable: Variable) -> bool:
        """Whether a node made the storage of `variable`, and nothing else lives in it."""
        return variable.owner is not None and self._roots(variable) == {variable}

    def _overwrite(self, position: int, node: Apply) -> dict[int, int]:
        """For each output of `node` an input whose storage it may take."""
        if isinstance(node.op, Elemwise):
            candidates = {o: tuple(range(len(node.inputs))) for o in range(len(node.outputs))}
        elif isinstance(node.op, TorchOp):
            # An op may have inputs that not every node of it has.
            candidates = {
                o: tuple(i for i in inputs if i < len(node.inputs))
                for o, inputs in node.op.overwrites.items()
            }
        else:
            return {}
        chosen: dict[int, int] = {}
        for output, inputs in candidates.items():
            result = node.outputs[output]
            targets = [t for t, value in self.updates if value is result]
            # The shared variable that this output updates comes first: then the update costs no copy.
            for i in sorted(inputs, key=lambda i: node.inputs[i] not in targets):
                v = node.inputs[i]
                own_target = targets == [v] and v in self.writable and result not in self.results
                # Another op may take an operand's storage, but need not: an update has to be there.
                own_target = own_target and isinstance(node.op, Elemwise)
                if (
                    (own_target or self._owned(v))
                    and v.type == result.type
                    and all(v is not node.inputs[taken] for taken in chosen.values())
                    and self.last_read[v] == position
                    # A view of the storage among the operands would be read while it is overwritten.
                    and all(other is v or v not in self._roots(other) for other in node.inputs)
                ):
                    chosen[output] = i
                    break
        return chosen

    def _into(self, position: int, node: Apply) -> dict[int, Variable]:
        """For each output of `node` a shared variable that it may be computed into: one that it alone updates."""
        chosen: dict[int, Variable] = {}
        for output in destinations(node.op):
            value = node.outputs[output]
            targets = [target for target, new in self.updates if new is value]
            if (
                len(targets) == len(self.fgraph.clients[value]) == 1
                and targets[0] in self.writable
                # Nobody still needs the old value, not even this node.
                and self.last_read.get(targets[0], -1) < position
            ):
                chosen[output] = targets[0]
        return chosen

    def _name(self, variable: Variable) -> str:
        if variable not in self.names:
            if isinstance(variable, Constant):
                name = f"c{len(self.names)}"
                self.scope[name] = constant_tensor(variable.data, self.linker.device)
            else:
                name = f"v{len(self.names)}"
            self.names[variable] = name
        return self.names[variable]

    def compile(self) -> Callable[..., Any]:
        """Write the function."""
        self.scope.update(as_tensor=_to_device(self.linker.device), as_array=_to_array, clone=torch.clone)
        self.scope.update(written=self.linker.written, placed=placed, device=self.linker.device)
        lines = [
            f"{self.names[v]} = as_tensor({self.names[v]})"
            for v in self.fgraph.inputs
            if v not in self.device_inputs and isinstance(v.type, TensorType)
        ]
        for position, node in enumerate(self.order):
            lines += self._computation(position, node)
        lines += self._conclusion()
        parameters = ", ".join(self.names[v] for v in self.fgraph.inputs)
        source = f"def program({parameters}):\n" + "".join(f"    {line}\n" for line in lines)
        return define(source, "program", self.scope)

    def _computation(self, position: int, node: Apply) -> list[str]:
        """Compute a node, write the updates that are now settled, and forget what nobody reads again."""
        on_host = self._of_lengths(node)
        into = {} if on_host else self._into(position, node)
        overwrite = {o: i for o, i in self._overwrite(position, node).items() if o not in into}
        used = tuple(bool(self.fgraph.clients[v]) for v in node.outputs)
        device = torch.device("cpu") if on_host else self.linker.device
        context = Context(device, self.linker.precision, used, overwrite, tuple(into), self.linker.inner)
        function = f"f{position}"
        try:
            self.scope[function] = torch_function(node.op, node=node, context=context)
        except Unsupported as error:
            name = next((v.name for v in node.outputs if v.name), None)
            raise Unsupported(error.what, error.why, name) from None
        if on_host:
            self.host.update(node.outputs)
        elif self.apart and _of_numbers(node):
            self.scope[function] = _on_device(self.scope[function], self.linker.device)
        outputs = [self._name(v) if u else "_" for v, u in zip(node.outputs, used, strict=True)]
        arguments = ", ".join(
            [*(self._argument(node, i) for i in range(len(node.inputs))), *map(self._name, into.values())]
        )
        lines = [f"{', '.join(outputs)} = {function}({arguments})  # {node.op}".replace("\n", " ")]
        for output, taken in overwrite.items():
            if node.inputs[taken].owner is None:
                self.written.add(node.outputs[output])
                lines += self._announcement(node.inputs[taken])
        for output, target in into.items():
            self.written.add(node.outputs[output])
            lines += self._announcement(target)
        for value in node.outputs:
            target = self.pending.get(value)
            if target is None or value in self.written:
                continue
            # Written at once if nobody still needs the old value.
            if self.last_read.get(target, -1) <= position and target not in self._roots(value):
                lines.append(f"{self.names[target]}.copy_({self._placed(value)})")
                lines += self._announcement(target)
                self.written.add(value)
                readers = [p for p, n in enumerate(self.order) if value in n.inputs]
                self.last_named[value] = (
                    len(self.order) if value in self.results else max(readers, default=position)
                )
        dead = [
            self.names[v]
            for v in dict.fromkeys([*node.inputs, *node.outputs])
            if v.owner is not None and v in self.names and self.last_named.get(v, position) == position
        ]
        if not all(used):
            dead.append("_")
        return [*lines, f"del {', '.join(dead)}"] if dead else lines

    def _of_lengths(self, node: Apply) -> bool:
        """Whether a node is computed on the host, of lengths alone: to read them from the device is to wait for it."""
        if isinstance(node.op, Shape | Shape_i):
            return self.apart
        return (
            isinstance(node.op, ON_HOST)
            and not self.host.isdisjoint(node.inputs)
            and all(v in self.host or isinstance(v, Constant) for v in node.inputs)
            and all(v.type.ndim <= 1 and v.type.dtype in ("bool", "int64") for v in node.outputs)
        )

    def _argument(self, node: Apply, position: int) -> str:
        """An operand where the node is computed."""
        variable = node.inputs[position]
        if isinstance(variable, Constant) and not self.host.isdisjoint(node.outputs):
            name = f"h{len(self.scope)}"
            self.scope[name] = constant_tensor(variable.data, torch.device("cpu"))
            return name
        read = isinstance(node.op, OF_LENGTHS) and position > 0
        if (
            variable not in self.host
            or variable.type.ndim == 0
            or read
            or not self.host.isdisjoint(node.outputs)
        ):
            return self._name(variable)
        return f"placed({self._name(variable)}, device)"

    def _announcement(self, target: Variable) -> list[str]:
        """Say that a shared variable has its new value."""
        return [] if self.linker.written is None else [f"written({target.name!r})"]

    def _conclusion(self) -> list[str]:
        """Take out results and values that may be views of inputs, then write the remaining updates."""
        returned = [self._result(v) for v in self.results]
        taken, written = [], []
        for k, (target, value) in enumerate(self.updates):
            name = self.names[target]
            if target not in self.device_inputs:
                is_tensor = isinstance(value.type, TensorType)
                returned.append(f"as_array({self._kept(value)})" if is_tensor else self._name(value))
                continue
            returned.append(name)
            if value not in self.written:
                taken.append(f"w{k} = clone({self._placed(value)})")
                written += [f"{name}.copy_(w{k})", *self._announcement(target)]
        return [*taken, f"out = ({''.join(f'{r}, ' for r in returned)})", *written, "return out"]

    def _placed(self, variable: Variable) -> str:
        """A tensor on the device, where a number or lengths may lie on the CPU."""
        name = self._name(variable)
        number = self.apart and getattr(variable.type, "ndim", None) == 0
        return f"placed({name}, device)" if number or variable in self.host else name

    def _kept(self, variable: Variable) -> str:
        """A tensor that stays as it is when updates are written, and at later calls."""
        name = self._placed(variable) if variable in self.host else self._name(variable)
        return name if self.views or self._owned(variable) else f"clone({name})"

    def _result(self, variable: Variable) -> str:
        if not isinstance(variable.type, TensorType):
            return self._name(variable)
        self.scope[f"dtype_{variable.type.dtype}"] = getattr(torch, variable.type.dtype)
        # Under bf16 a value may be narrower than its type says.
        typed = f"{self._kept(variable)}.to(dtype_{variable.type.dtype})"
        return typed if self.linker.return_internal_type else f"as_array({typed})"


def _to_device(device: torch.device) -> Callable[[Any], torch.Tensor]:
    def as_tensor(value: Any) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            return value.to(device)
        return shared_memory(value).to(device)

    return as_tensor


def _of_numbers(node: Apply) -> bool:
    """Whether a node makes a tensor with axes of numbers alone, which may lie on the CPU."""
    return all(getattr(v.type, "ndim", 0) == 0 for v in node.inputs) and any(
        getattr(v.type, "ndim", 0) > 0 for v in node.outputs
    )


def _on_device(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    def on_device(*operands: Any) -> Any:
        results = function(*operands)
        if isinstance(results, torch.Tensor):
            return placed(results, device)
        return tuple(placed(r, device) if isinstance(r, torch.Tensor) else r for r in results)

    return on_device


def _to_array(tensor: torch.Tensor) -> np.ndarray:
    return np.asarray(tensor.cpu().numpy())


def _mode(linker: TorchLinker) -> RememberedMode:
    # The traces of a loop that nobody reads are not kept.
    traces = "scan_save_mem_no_prealloc"
    tags = [TAG]
    if linker.device.type != "cpu":
        tags += [LAUNCH_TAG, *[GPU_TAG] * triton.available(), *[BF16_TAG] * (linker.precision == "bf16")]
    return RememberedMode(linker, RewriteDatabaseQuery(include=["fast_run", traces, *tags]))


def mode(
    name: str | None = None,
    precision: str = "float32",
    return_internal_type: bool = False,
    written: Callable[[str], None] | None = None,
    capture: bool = False,
) -> RememberedMode:
    """The PyTensor mode that compiles graphs to torch.

    docs/ops.md lists the ops that it knows. Any other is refused when a function is compiled, by an `Unsupported` of
    one line that names it.

    Parameters
    ----------
    name : {None, "cpu", "cuda:N"}
        The device; by default the one chosen with :func:`theanompi.device.use`.
    precision : {"float32", "tf32", "bf16"}
        What convolutions and matrix products compute in. Parameters, statistics and the loss stay in
        float32. tf32 changes something on CUDA devices only.
    return_internal_type : bool
        Give outputs as device tensors instead of NumPy arrays, which spares waiting for the device.
    written : callable, optional
        Called with a shared variable's name, within each call of a compiled function, as soon as the update of
        that variable has been written, or on a CUDA device as soon as the device has been told to.
    capture : bool
        On a CUDA device, record a function at its second call as a CUDA graph, which later calls replay: for
        functions without arguments, whose shared variables stay in their memory. `written` is then called at the
        first two calls only; what it tells the device to do is part of the graph.

    Returns
    -------
    pytensor.compile.mode.Mode

    Raises
    ------
    ValueError
        For an unknown precision or a device that this machine does not have.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> x = pt.vector("x", dtype="float32")
    >>> double = pytensor.function([x], 2 * x, mode=mode("cpu"))
    >>> double(np.array([1, 2], "float32"))
    array([2., 4.], dtype=float32)
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    device = current() if name is None else parse(name)
    return _mode(TorchLinker(device, precision, return_internal_type, written, capture))
