"""A program compiled by us against PyTensor's own interpreter: the verdict, and the least program that shows it."""

import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytensor
import pytensor.scalar
from graph_grammar import (
    FLOATS,
    NAMES,
    Built,
    Input,
    Program,
    Undefined,
    array_text,
    as_typed,
    build,
    compute,
    host_shared,
)
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.graph.rewriting.db import RewriteDatabaseQuery
from pytensor.scalar.basic import ScalarOp
from pytensor.tensor.elemwise import Elemwise
from tolerance import RELATIVE

from theanompi import device
from theanompi.device.linker import TorchLinker

VERDICTS = ("equal", "refused", "both raise", "different")
CALLS = 2
ROUNDINGS, TRIALS = 8, 12
"""How far, in units of the last place, a result is moved to see how much depends on its rounding, and how often."""
MOST_LINE = 300
SECONDS = 10.0
"""That compiling a graph and calling it may take."""

PLAIN = Mode("py", None)
REWRITTEN = Mode(
    "py",
    RewriteDatabaseQuery(
        include=["fast_run", "static_shapes"], exclude=[*TorchLinker.incompatible_rewrites, "fusion"]
    ),
)
"""With the rewrites that our mode has: those may make 0 of 0 · NaN, or log(1 + x) exact for a small x. Without fusion,
after which the interpreter computes with Python's numbers, and divides by none of 0."""


@contextmanager
def interpreter() -> Iterator[None]:
    """Inner graphs too are computed by the interpreter, and nothing is compiled from C."""
    with pytensor.config.change_flags(mode=PLAIN, cxx="", on_opt_error="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class Verdict:
    """What became of a program: one of `VERDICTS`, and a line about it."""

    kind: str
    about: str = ""


class PastLimit(BaseException):
    """The time is over; no Exception, which rewrites would catch."""


@contextmanager
def limited() -> Iterator[None]:
    """Raise `PastLimit` after so many seconds of this process's own time: some rewrites of PyTensor's do not end."""

    def over(number: int, frame: Any) -> None:
        raise PastLimit

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class Refused(Exception):
    """A graph does not compile."""


def within_limit(make: Callable[[], Built], mode: Mode) -> list[list[Any]]:
    """`run`, once more if it was not done in time: whether some rewrites end depends on the order of a set.

    Raises
    ------
    PastLimit
        If it was not done in time either.
    """
    try:
        with limited():
            return run(make(), mode)
    except PastLimit:
        with limited():
            return run(make(), mode)


@cache
def op_names() -> set[str]:
    """The names of all classes of ops, and of all scalar ops."""
    found = {str(op.name) for op in vars(pytensor.scalar).values() if isinstance(op, ScalarOp)}
    todo: list[type] = [Op]
    while todo:
        kinds: list[type] = todo.pop().__subclasses__()
        for kind in kinds:
            if kind.__name__ not in found:
                found.add(kind.__name__)
                todo.append(kind)
    return found


def run(built: Built, mode: Mode) -> list[list[Any]]:
    """The outputs at each call, and at last the values of the shared variables.

    What the interpreter gives is cast to the dtypes that the outputs' types have, which it does not always keep to.
    """
    try:
        function = pytensor.function(
            built.arguments, built.outputs, updates=built.updates, mode=mode, on_unused_input="ignore"
        )
    except Exception as error:
        raise Refused(f"{type(error).__name__}: {error}") from error
    before = [np.array(v) for v in built.values]
    results = []
    for _ in range(CALLS):
        outputs = function(*built.values)
        # The interpreter itself lets pt.real do so.
        if mode not in (PLAIN, REWRITTEN) and any(
            np.may_share_memory(output, value) for output in outputs for value in built.values
        ):
            raise AssertionError("an output lies in the memory of an argument")
        results.append([(output, np.array(output)) for output in outputs])
    for value, old in zip(built.values, before, strict=True):
        np.testing.assert_array_equal(value, old, err_msg="an argument was written to")
    for output, copy in (pair for call in results for pair in call):
        np.testing.assert_array_equal(output, copy, err_msg="a later call changed an output")
    given = [[output for output, _ in call] for call in results]
    if mode in (PLAIN, REWRITTEN):
        given = [[as_typed(x, v) for x, v in zip(call, built.outputs, strict=True)] for call in given]
    return [*given, [w.get_value() for w in built.shared]]


def unlike(got: Any, expected: Any, spread: Any = 0.0) -> str:
    """How a value differs from what is expected, or nothing.

    Parameters
    ----------
    got, expected : array_like
        Of the same dtype and shape. Floats may differ by `RELATIVE`, which counts the roundings of a small graph of
        functions that are good to a few units in the last place; all else must be the same.
    spread : array_like
        By how much more.
    """
    if type(got).__module__ == "torch":
        return "got a tensor"
    got, expected = np.asarray(got), np.asarray(expected)
    if got.dtype != expected.dtype:
        return f"expected dtype {expected.dtype}, got {got.dtype}"
    if got.shape != expected.shape:
        return f"expected shape {expected.shape}, got {got.shape}"
    if expected.dtype.kind not in "fc":
        return "" if np.array_equal(got, expected) else f"expected {show(expected)}, got {show(got)}"
    with np.errstate(all="ignore"):
        near = (
            np.abs(got - expected)
            <= RELATIVE.get((str(expected.dtype), "cpu"), 1e-3) * np.abs(expected) + spread
        )
    same = near | (got == expected) | (np.isnan(got) & np.isnan(expected))
    return "" if same.all() else f"expected {show(expected)}, got {show(got)}"


def show(value: np.ndarray) -> str:
    """A value in a few characters."""
    text = re.sub(r"\s+", " ", np.array2string(value, threshold=12, precision=6))
    return f"{text} of {value.dtype}"[:160]


def first_unlike(got: list[list[Any]], expected: list[list[Any]]) -> str:
    """Where the values of two compilers differ first, or nothing."""
    for call, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if how := unlike(a, b):
                where = f"call {call}, output {number}" if call < CALLS else f"shared variable {number}"
                return f"{how} ({where})"
    return ""


def pure(program: Program) -> Program:
    """The same with shared variables as arguments and new values of theirs as outputs."""
    inputs = tuple(
        replace(x, kind="argument", shape=np.shape(eval(x.value, dict(NAMES)))) if x.kind == "shared" else x
        for x in program.inputs
    )
    return replace(
        program, inputs=inputs, outputs=program.outputs + tuple(v for _, v in program.updates), updates=()
    )


def is_float(value: Any) -> bool:
    """Whether a value is an array of floats that is not empty."""
    return (
        isinstance(value, np.ndarray | np.floating)
        and np.asarray(value).dtype.kind == "f"
        and np.size(value) > 0
    )


def largest(value: np.ndarray) -> Any:
    """The largest finite element, in magnitude."""
    finite = np.abs(value)[np.isfinite(value)]
    return finite.max() if finite.size else 0.0


def shaken(
    value: np.ndarray, scale: Any, rng: np.random.Generator, *, eps: float = 0.0, zeros: bool = False
) -> np.ndarray:
    """An array with its elements moved by some units in the last place of `scale`.

    NaN and infinities stay so, and 0 if not asked otherwise.
    """
    by = ROUNDINGS * max(eps, np.finfo(value.dtype).eps) * rng.uniform(-1, 1, np.shape(value))
    stays = ~np.isfinite(value) | ((value == 0) & (not zeros))
    with np.errstate(all="ignore"):
        return np.asarray(np.where(stays, value, value + by * scale)).astype(value.dtype)


def factorises(op: Op) -> bool:
    """Whether an op is one of linear algebra's, whose errors are small against a matrix, not each of its elements."""
    return type(getattr(op, "core_op", op)).__module__.startswith("pytensor.tensor.linalg")


def exact(node: Apply, inputs: list[Any]) -> bool:
    """Whether an op only chooses among the elements of its operands, as indexing does."""
    elements = np.concatenate(
        [np.ravel(v) for v in inputs if isinstance(v, np.ndarray | np.number | np.bool_)] or [np.zeros(0)]
    )
    known = dict(zip(node.inputs, inputs, strict=True))
    compute(node.outputs, known)
    return all(not is_float(known[v]) or bool(np.isin(known[v], elements).all()) for v in node.outputs)


def is_rounding(program: Program, got: list[Any]) -> bool:
    """Whether values that differ do so by what rounding makes of them.

    Every result that had to be rounded is moved by some units in its last place at random, a few times over, and what
    becomes of the outputs is compared: Monte Carlo arithmetic (Parker, 1997). Of what adds up or solves, the operands
    are moved instead, by as much of the largest of them: no algorithm for it is better than that. What differs by no
    more than a few times their spread, or is one of them where it cannot be near (an integer, NaN), depends on the
    rounding.
    """
    program = pure(program)
    for mode in (PLAIN, REWRITTEN):
        built = build(program, host_shared)
        function = pytensor.function(built.arguments, built.outputs, mode=mode, on_unused_input="ignore")
        fgraph = function.maker.fgraph
        rng = np.random.default_rng(0)

        def moved(
            node: Apply, inputs: list[Any], outputs: list[Any], rng: np.random.Generator = rng
        ) -> list[Any]:
            given = [np.ravel(v) for v in inputs if isinstance(v, np.ndarray | np.number | np.bool_)]
            elements = np.concatenate(given) if given else np.zeros(0)
            # Of one or two bytes of integer NumPy computes in float16 or float32, whatever the result's dtype is.
            narrow = min((v.dtype.itemsize for v in given if v.dtype.kind in "biu"), default=8)
            coarse = {1: float(np.finfo(np.float16).eps), 2: float(np.finfo(np.float32).eps)}.get(narrow, 0.0)
            return [
                shaken(v, np.where(np.isin(v, elements), 0, np.abs(v)), rng, eps=coarse) if is_float(v) else v
                for v in outputs
            ]

        def operands(node: Apply, inputs: list[Any], rng: np.random.Generator = rng) -> list[Any]:
            if isinstance(node.op, Elemwise) or exact(node, inputs):
                return inputs
            zeros = factorises(node.op)
            return [shaken(v, largest(v), rng, zeros=zeros) if is_float(v) else v for v in inputs]

        def trial(change: Any, before: Any, fgraph: Any = fgraph, built: Built = built) -> list[Any] | None:
            # What follows the arguments are generators of random numbers.
            known = dict(zip(fgraph.inputs, [np.array(v) for v in built.values], strict=False))
            try:
                compute(fgraph.outputs, known, change, before)
            except Exception:
                return None
            return [np.asarray(known[v]) for v in fgraph.outputs]

        expected = trial(None, None)
        trials = [t for t in (trial(moved, operands) for _ in range(TRIALS)) if t]
        if expected is None:
            continue
        for number, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
            ours = np.asarray(ours)
            tried = [t[number] for t in trials if t[number].shape == ours.shape] + [theirs]
            if unlike(ours, theirs).startswith(("expected dtype", "expected shape")):
                break
            if theirs.dtype.kind != "f":
                if not np.logical_or.reduce([ours == t for t in tried]).all():
                    break
                continue
            with np.errstate(all="ignore"):
                spread = np.nan_to_num(np.max([np.abs(t - theirs) for t in tried], axis=0), nan=0.0)
            if not np.logical_or.reduce(
                [np.array([not unlike(o, t, 4 * s) for o, t, s in zip(ours.flat, v.flat, spread.flat, strict=True)]
                          ).reshape(ours.shape).astype(bool) for v in tried]).all():  # fmt: skip
                break
        else:
            return True
    return False


def judge(program: Program) -> Verdict:
    """Compile a program by us and by PyTensor's interpreter, call both, and compare.

    Parameters
    ----------
    program : Program

    Returns
    -------
    Verdict
    """
    with interpreter():
        expected = raised = None
        built = build(program, host_shared)
        try:
            expected = run(built, PLAIN)
        except Exception as error:
            raised = error
        try:
            got = within_limit(
                lambda: build(program, device.shared) if built.shared else built, device.mode("cpu")
            )
        except PastLimit:
            try:
                with limited():
                    run(build(program, host_shared), REWRITTEN)
            except PastLimit:
                return Verdict("both raise", "PyTensor's rewrites do not end")
            return Verdict("different", f"not done after {SECONDS} s")
        except Refused as refusal:
            message = str(refusal).partition(": ")[2]
            cause = refusal.__cause__
            if not isinstance(cause, NotImplementedError):
                # Some rewrites of PyTensor's fail where the interpreter alone has a value.
                try:
                    run(build(program, host_shared), REWRITTEN)
                except Exception as other:
                    return Verdict("both raise", str(raised or other)[:200])
            words = set(re.findall(r"\w+", message))
            if "\n" in message or len(message) > MOST_LINE or not words & op_names():
                return Verdict(
                    "different", f"refused in other words than a line that names the op: {refusal}"[:400]
                )
            if not isinstance(cause, NotImplementedError | ValueError | TypeError):
                return Verdict("different", f"refused by {refusal}")
            return Verdict("refused", message)
        except Exception as error:
            if raised is not None:
                return Verdict("both raise", str(raised)[:200])
            # Rewrites may compute a constant that cannot be computed, or leave out what fails.
            try:
                run(build(program, host_shared), REWRITTEN)
            except Exception as other:
                return Verdict("both raise", str(other)[:200])
            about = re.sub(r"\s+", " ", str(error).partition("\nApply node")[0])
            return Verdict("different", f"expected a value, raised {type(error).__name__}: {about[:250]}")
        if expected is not None and not first_unlike(got, expected):
            return Verdict("equal")
        try:
            rewritten = run(build(program, host_shared), REWRITTEN)
        except Exception as error:
            rewritten = None
            raised = raised or error
        if rewritten is not None:
            how = first_unlike(got, rewritten)
            if not how:
                return Verdict("equal", "by rewrites")
        if expected is None:
            if rewritten is None:
                about = re.sub(r"\s+", " ", str(raised).partition("\nApply node")[0])
                return Verdict(
                    "different",
                    f"expected an error ({type(raised).__name__}: {about[:150]}), got {str(got[0])[:80]}",
                )
            return Verdict("different", how)
        if built.shared:
            got = run(build(pure(program), host_shared), device.mode("cpu"))
        if is_rounding(program, got[0]):
            return Verdict("equal", "by rounding or dtype")
        return Verdict("different", first_unlike(got, expected))


def cut(program: Program, number: int) -> Program | None:
    """The same with an input in the place of a line, of the value that it has."""
    line = program.lines[number]
    if len(line.names) != 1:
        return None
    scope: dict[str, Any] = {**NAMES, "shared": host_shared}
    with interpreter():
        exec(
            "\n".join([*(x.line for x in program.inputs), *(x.line for x in program.lines[: number + 1])]),
            scope,
        )
        variable, known = scope[line.names[0]], {}
        for x in program.inputs:
            known[scope[x.name]] = eval(x.value, scope)
        try:
            compute([variable], known)
        except Exception:
            return None
    value = known[variable]
    if not hasattr(variable, "dtype") or not isinstance(value, np.ndarray | np.number | np.bool_):
        return None
    new = Input(line.names[0], variable.dtype, variable.type.shape, array_text(np.asarray(value)))
    rest = replace(
        program,
        inputs=(*program.inputs, new),
        outputs=tuple(v for v in program.outputs if v != new.name),
        lines=program.lines[:number] + program.lines[number + 1 :],
        wrt=(*program.wrt, new.name) if program.cost and new.dtype in FLOATS else program.wrt,
    )
    return rest.needed()


def shrink(program: Program, same: Callable[[Program], bool], most: int = 80) -> Program:
    """The least program found that is still of that sort.

    Parameters
    ----------
    program : Program
    same : callable
        Whether a smaller program shows the same.
    most : int
        Programs to try.
    """
    tries = 0

    def attempt(smaller: Program | None) -> bool:
        nonlocal program, tries
        if smaller is None or smaller == program or not smaller.lines or tries >= most:
            return False
        if not (smaller.outputs or smaller.cost or smaller.updates):
            return False
        tries += 1
        try:
            found = same(smaller)
        except Exception:
            return False
        if found:
            program = smaller
        return found

    def single() -> None:
        parts = [replace(program, outputs=(v,), cost=(), wrt=(), updates=()) for v in program.outputs]
        parts += [replace(program, outputs=(), cost=(c,), updates=()) for c in program.cost]
        parts += [replace(program, outputs=(), cost=(), wrt=(), updates=(u,)) for u in program.updates]
        any(attempt(p.needed()) for p in parts)

    single()
    if program.cost and len(program.wrt) > 1:
        any(attempt(replace(program, wrt=(w,)).needed()) for w in program.wrt)
    number = 0
    while number < len(program.lines):
        if not attempt(cut(program, number)):
            number += 1
    if len(program.outputs) + len(program.cost) + len(program.updates) > 1:
        single()
    for line in reversed(program.lines[:-1]):
        if attempt(replace(program, outputs=(line.names[0],), cost=(), wrt=(), updates=()).needed()):
            break
    attempt(replace(program, cost=tuple((v, "") for v, _ in program.cost)))
    for x in program.inputs:
        value = eval(x.value, dict(NAMES))
        updated = {w for w, _ in program.updates}
        plain = replace(
            x, value=array_text(value), shape=value.shape, kind=x.kind if x.name in updated else "argument"
        )
        if not attempt(replace(program, inputs=tuple(plain if y is x else y for y in program.inputs))):
            attempt(
                replace(
                    program,
                    inputs=tuple(replace(x, value=plain.value) if y is x else y for y in program.inputs),
                )
            )
    return program


def derivable(program: Program) -> Program:
    """The same without its gradient if PyTensor has none of what is left."""
    try:
        with interpreter():
            build(program, host_shared)
    except Exception:
        return replace(program, cost=(), wrt=()).needed()
    return program


@dataclass(frozen=True)
class Finding:
    """What is not equal in a program: the verdict, the rule that wrote it, and the least program that shows it."""

    verdict: Verdict
    rule: str
    program: Program


def examine(program: Program, most: int = 6) -> tuple[Verdict, list[Finding], Program]:
    """Judge a program, and what is left of it when each line that is not equal is left out.

    Parameters
    ----------
    program : Program
    most : int
        Lines to leave out.

    Returns
    -------
    verdict : Verdict
        Of the whole.
    findings : list of Finding
    rest : Program
        What is equal.
    """
    verdict = first = judge(program)
    findings: list[Finding] = []
    while verdict.kind != "equal" and len(findings) < most:
        kind, about = verdict.kind, verdict.about

        def same(smaller: Program, kind: str = kind, about: str = about) -> bool:
            found = judge(smaller)
            return found.kind == kind and (kind != "refused" or found.about == about)

        least = program if kind == "both raise" else shrink(program, same)
        culprit = least.lines[-1]
        if kind != "both raise":
            again = judge(least)
            # What chance decides, as the order in which rewrites find their graph, is told as it was found.
            verdict = again if again.kind == kind else Verdict(kind, f"once, not when tried again: {about}")
        findings.append(Finding(verdict, culprit.rule, least))
        if least.cost and kind != "both raise":
            # Only the gradient differs.
            cost = tuple(c for c in program.cost if c[0] != least.cost[0][0])
            program = replace(program, cost=cost, wrt=program.wrt if cost else ()).needed()
        else:
            program = program.without(culprit.names)
        program = derivable(program)
        if not program.lines:
            break
        verdict = judge(program)
    return first, findings, program


__all__ = ["VERDICTS", "Finding", "Undefined", "Verdict", "examine", "judge", "shrink"]
