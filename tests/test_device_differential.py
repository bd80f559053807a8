"""Graphs drawn from a grammar of PyTensor's tensor API: ours against PyTensor's own interpreter.

A quick part of what `benchmarks/differential.py` does thousands of times.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import graph_judge
import pytest
import torch
from graph_grammar import Input, Line, Program
from graph_judge import Verdict, examine, interpreter, judge, shrink
from graph_rules import DEALT, RULES, dealt, draw
from pytensor.graph.op import Op
from pytensor.tensor.math import Sum

from theanompi.device.dispatch import torch_function
from theanompi.device.versions import SUBTENSORS

SEED = 0
# As many as have every rule; a part of them is examined here, all and thousands more by the benchmark.
GRAPHS = -(-len(RULES) // DEALT)
EXAMINED, CHUNKS = 24, 4


@cache
def drawn(number: int) -> Program:
    with interpreter():
        return draw(SEED, number)


def test_the_graphs_have_every_rule() -> None:
    assert {rule for number in range(GRAPHS) for rule in dealt(SEED, number)} == set(RULES)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_graph_is_as_pytensor_has_it_or_refused_by_name(chunk: int) -> None:
    different = []
    for number in range(chunk, EXAMINED, CHUNKS):
        program = drawn(number)
        if program.lines and judge(program).kind == "different":
            different += [
                f"graph {number}, {found.rule}: {found.verdict.about}\n    {found.program.text()}"
                for found in examine(program)[1]
                if found.verdict.kind == "different"
            ]
    assert not different, "\n".join(different)


def test_a_graph_depends_on_seed_and_number_alone() -> None:
    assert drawn(3) == drawn(3) != drawn(4)


@contextmanager
def computed_by(function: Callable[..., Any], *ops: type[Op]) -> Iterator[None]:
    """Ops computed by another function."""
    before = [torch_function.dispatch(op) for op in ops]
    for op in ops:
        torch_function.register(op, lambda op, node, context: function)
    try:
        yield
    finally:
        for op, own in zip(ops, before, strict=True):
            torch_function.register(op, own)


WRONG: dict[str, tuple[tuple[type[Op], ...], Callable[..., Any], set[str]]] = {
    "a sum over all axes": ((Sum,), lambda x: x.sum(), set(RULES)),
    "uint8 as a mask": (
        SUBTENSORS,
        lambda x, *index: x[index],
        {"x[uint8]", "x[advanced]", "x[advanced], again", "take", "cross-entropy"},
    ),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
def test_a_wrong_function_is_found(what: str) -> None:
    ops, function, rules = WRONG[what]
    suspects = (p for p in map(drawn, range(GRAPHS)) if rules & {line.rule for line in p.lines})
    with computed_by(function, *ops):
        wrong = next(program for program in suspects if judge(program).kind == "different")
        found = next(f for f in examine(wrong)[1] if f.verdict.kind == "different")
    assert len(found.program.lines) == 1


X = Input("x", "float32", (3,), "np.array([0.5, -1.0, 2.0], 'float32')")


def program_of(text: str, *inputs: Input) -> Program:
    inputs = inputs or (X,)
    return Program(inputs, (Line("rule", ("v",), text, tuple(x.name for x in inputs)),), ("v",))


def test_what_both_do_is_equal() -> None:
    assert judge(program_of("pt.tanh(x)")) == Verdict("equal")


def test_what_fails_in_both_raises_in_both() -> None:
    assert (
        judge(program_of("pt.specify_shape(x, (4,)) * 2", Input(X.name, X.dtype, (None,), X.value))).kind
        == "both raise"
    )


def test_what_rewrites_change_is_equal() -> None:
    nan = Input("x", "float32", (None,), "np.array([nan], 'float32')")
    assert judge(program_of("x * 0", nan)).kind == "equal"


def test_what_hangs_on_a_rounding_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    large = Input("x", "float32", (4,), "np.array([1e8, 1.0, -1e8, 0.25], 'float32')")
    with computed_by(lambda x: x.flip(0).sum(), Sum):
        assert judge(program_of("x.sum()", large)) == Verdict("equal", "by rounding or dtype")
        monkeypatch.setattr(graph_judge, "is_rounding", lambda *_: False)
        assert judge(program_of("x.sum()", large)).kind == "different"


@pytest.mark.parametrize(
    ("function", "about"),
    [
        (lambda x: x.sum() + 1e-3, "expected 1.5 of float32"),
        (lambda x: x.sum().reshape(1), "expected shape ()"),
        (lambda x: x.absent(), "expected a value, raised AttributeError"),
    ],
)
def test_a_difference_is_told(function: Callable[..., Any], about: str) -> None:
    with computed_by(function, Sum):
        verdict = judge(program_of("x.sum()"))
    assert (verdict.kind, verdict.about[: len(about)]) == ("different", about)


def test_the_dtype_is_the_one_that_the_type_has() -> None:
    # The interpreter gives int64.
    small = Input("x", "int8", (2,), "np.array([100, 100], 'int8')")
    assert judge(program_of("pt.cumsum(x) / 2", small)).kind == "equal"


def test_a_refusal_must_be_a_line_that_names_an_op() -> None:
    def verdict(error: Exception) -> str:
        def refuse(op: Op, node: Any, context: Any) -> Any:
            raise error

        before = torch_function.dispatch(Sum)
        torch_function.register(Sum, refuse)
        try:
            return judge(program_of("x.sum()")).kind
        finally:
            torch_function.register(Sum, before)

    assert verdict(NotImplementedError("Sum: not supported on the device")) == "refused"
    assert verdict(NotImplementedError("no such thing")) == "different"
    assert verdict(NotImplementedError("Sum: not supported\non the device")) == "different"
    assert verdict(NotImplementedError(f"Sum: {300 * '.'}")) == "different"
    assert verdict(KeyError("Sum")) == "different"


def test_the_least_program_is_found() -> None:
    y = Line("exp", ("y",), "pt.exp(x)", ("x",))
    program = Program(
        (X,),
        (y, Line("sum", ("z",), "y.sum()", ("y",)), Line("sqrt", ("w",), "pt.sqrt(z)", ("z",))),
        ("w", "y"),
    )
    with computed_by(lambda x: x.sum() + torch.ones((), dtype=x.dtype), Sum):
        least = shrink(program, lambda p: judge(p).kind == "different")
    assert [line.text for line in least.lines] == ["y.sum()"]
    assert "pytensor.function([y], [z], mode=mode)" in least.text()


def test_what_differs_once_is_told() -> None:
    wrong = iter([1.0])
    with computed_by(lambda x: x.sum() + next(wrong, 0.0), Sum):
        verdict, (finding,), _ = examine(program_of("x.sum()"))
    assert verdict.kind == finding.verdict.kind == "different"
    assert finding.verdict.about.startswith("once, not when tried again: expected 1.5 of float32")


def test_what_ends_when_tried_again_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = iter([True])

    def spin(x: torch.Tensor) -> torch.Tensor:
        forever = next(endless, False)
        while forever:
            pass
        return x.sum()

    monkeypatch.setattr(graph_judge, "SECONDS", 0.5)
    with computed_by(spin, Sum):
        assert judge(program_of("x.sum()")).kind == "equal"


def test_what_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def spin(x: torch.Tensor) -> torch.Tensor:
        while True:
            pass

    monkeypatch.setattr(graph_judge, "SECONDS", 0.5)
    with computed_by(spin, Sum):
        assert judge(program_of("x.sum()")) == Verdict("different", "not done after 0.5 s")
