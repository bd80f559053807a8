"""What graphs are drawn from: a rule for each op that a user of PyTensor's tensor API can write.

A rule is named after what the user calls. Its operands have the dtypes and shapes that the call takes, and now and
then others: what must fail has to fail in both compilers.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from graph_grammar import DTYPES, FLOATS, Drawing, Program, Rule

RULES: dict[str, Rule] = {}
DEALT = 4
"""Rules of each graph that are dealt in turn, so that every rule occurs."""
ALL_DTYPES = [d for kinds in DTYPES.values() for d in kinds]

Write = Callable[[Drawing], str]


def rule(name: str, values: int = 1) -> Callable[[Write], Write]:
    """Enter a rule, of a line with so many values."""

    def enter(write: Write) -> Write:
        assert name not in RULES, name
        RULES[name] = Rule(name, values, write)
        return write

    return enter


def on(
    name: str, *operand: Any, values: int = 1, square: bool = False, **more: Any
) -> Callable[[Callable[[Drawing, str], str]], None]:
    """Enter a rule about an operand: what `Drawing.x`, or `Drawing.square`, makes of these arguments."""

    def enter(write: Callable[[Drawing, str], str]) -> None:
        rule(name, values)(lambda d: write(d, (d.square if square else d.x)(*operand, **more)))

    return enter


def dealt(seed: int, number: int) -> list[str]:
    """The rules that the graph of that number must have: each in its turn, in another order each time."""
    names = sorted(RULES)
    chosen = []
    for place in range(number * DEALT, (number + 1) * DEALT):
        random.Random(f"{seed}/deck/{place // len(names)}").shuffle(deck := list(names))
        chosen.append(deck[place % len(names)])
    return chosen


def draw(seed: int, number: int, counted: Callable[[str, str], None] = lambda rule, why: None) -> Program:
    """The graph of that number.

    Parameters
    ----------
    seed, number : int
        What it depends on, and nothing else.
    counted : callable, optional
        Told of every try of a rule: its name, and why there is no line of it ("" if there is one).
    """
    rng = random.Random(f"{seed}/{number}")
    rules = dealt(seed, number) + [rng.choice(sorted(RULES)) for _ in range(rng.randint(0, 3))]
    rng.shuffle(rules)
    drawing = Drawing(rng)
    for at, name in enumerate(rules):
        for _ in range(8):
            # Nothing reads a line that fails.
            written = drawing.add(RULES[name], kept=at == len(rules) - 1 and rng.random() < 0.5)
            counted(name, "" if written else drawing.refused)
            if written:
                break
        if drawing.failed:
            break
    return drawing.program()


# Element by element

for _name in (
    "exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh sqrt"
    " reciprocal sigmoid softplus log1mexp log1pexp erf erfc erfcx erfinv erfcinv gamma gammaln digamma tri_gamma"
    " j0 j1 i0 i1 deg2rad rad2deg ceil floor trunc round_half_to_even round_half_away_from_zero sqr neg abs sign sgn"
    " isnan isinf isfinite isposinf isneginf real imag conj angle nan_to_num expit square psi"
).split():

    @rule(_name)
    def _unary(d: Drawing, name: str = _name) -> str:
        return f"pt.{name}({d.x('biuff' if d.maybe(0.4) else 'f')})"


rule("special.factorial")(lambda d: f"special.factorial({d.x('iuff')})")
rule("special.logit")(lambda d: f"special.logit({d.x('iuff')})")

for _name in (
    "add sub mul true_div int_div mod maximum minimum eq neq lt le gt ge arctan2 logaddexp isclose power ceil_intdiv"
    " allclose"
).split():

    @rule(_name)
    def _binary(d: Drawing, name: str = _name) -> str:
        a = d.x("biuff")
        operands = [a, d.like(a, "biuff")]
        if d.maybe(0.3):
            operands.reverse()
        return f"pt.{name}({', '.join(operands)})"


for _name in ("and_", "or_", "xor"):

    @rule(_name)
    def _bitwise(d: Drawing, name: str = _name) -> str:
        a = d.x("biu")
        return f"pt.{name}({a}, {d.like(a, 'biu')})"


rule("invert")(lambda d: f"~{d.x('biu')}")
rule("iround")(lambda d: f"pt.iround(pt.clip(pt.nan_to_num({d.x('f')}), -99, 99))")
on("divmod", values=2)(lambda d, a: f"pt.divmod({a}, {d.like(a)})")
on("add of three")(lambda d, a: f"pt.add({a}, {d.like(a)}, {d.like(a)})")
on("mul of three")(lambda d, a: f"pt.mul({a}, {d.like(a)}, {d.like(a)})")

for _name in ("gammainc", "gammaincc", "gammau", "gammal", "jv", "iv", "ive", "kv", "kve", "chi2sf", "gammaincinv",
              "gammainccinv", "owens_t"):  # fmt: skip

    @rule(_name)
    def _special(d: Drawing, name: str = _name) -> str:
        a = d.x("f", low=0, empty=False)
        return f"pt.{name}({a}, {d.like(a, 'f', low=0)})"


rule("polygamma")(lambda d: (lambda x: f"pt.polygamma({d.rng.randrange(3)}, {x})")(d.x("f")))
# SciPy has NaN for large arguments, where the function is 0.
rule("kn")(lambda d: f"pt.kn({d.rng.randrange(3)}, {d.x('f', low=0, high=600)})")
rule("betainc")(lambda d: f"pt.betainc(1.5, {d.x('f', low=1)}, 0.3)")
rule("betaincinv")(lambda d: f"pt.betaincinv(1.5, {d.x('f', low=1)}, 0.3)")
rule("hyp2f1")(lambda d: f"pt.hyp2f1(1.5, 0.5, 2.5, pt.tanh({d.x('f')}) / 2)")
on("special.beta", "f", low=1)(lambda d, a: f"special.beta({a}, {d.like(a, 'f', low=1)})")
on("special.betaln", "f", low=1)(lambda d, a: f"special.betaln({a}, {d.like(a, 'f', low=1)})")
rule("special.poch")(lambda d: f"special.poch({d.x('f', low=1)}, 2.0)")
on("special.xlogy", "f")(lambda d, a: f"special.xlogy({a}, {d.like(a, 'f')})")
on("special.xlog1py", "f")(lambda d, a: f"special.xlog1py({a}, {d.like(a, 'f')})")
rule("complex")(lambda d: f"pt.abs(pt.complex({d.x('f')}, 1.0))")
rule("complex_from_polar")(lambda d: f"pt.real(pt.complex_from_polar({d.x('f', low=0)}, 1.0))")


@rule("number on the right")
def _(d: Drawing) -> str:
    a = d.x("biuff")
    operator = d.any_of("+", "-", "*", "/", "//", "%", "**", "<", ">=")
    number = d.any_of(0, 1, 2, 3, -1, -2, 0.5, 2.0, 0.0, 7)
    return f"{a} {operator} {number}"


@rule("number on the left")
def _(d: Drawing) -> str:
    a = d.x("biuff")
    return f"{d.any_of(0, 1, 2, 3, -1, 0.5, 2.0)} {d.any_of('+', '-', '*', '/', '//', '%', '**')} {a}"


# Of integers to the power of -1, which are an error, PyTensor's rewrites make the reciprocal.
on("power of a number and more", "iuff")(
    lambda d, a: (
        f"{a}**{d.any_of(2, 3, 4, 0.5, *([-1] if d.value_of(a).dtype.kind == 'f' else []))} + {d.any_of(1, 2.0)}"
    )
)
on("tanh-GELU", "f")(lambda d, a: f"0.5 * {a} * (1 + pt.tanh(0.8 * ({a} + 0.044715 * {a}**3)))")


@rule("normalisation")
def _(d: Drawing) -> str:
    a = d.x("f", (1, 3))
    axis = d.axis(a)
    return f"({a} - {a}.mean({axis}, keepdims=True)) / pt.sqrt({a}.var({axis}, keepdims=True) + 1e-3)"


rule("cast to an integer")(
    lambda d: f"pt.cast(pt.clip(pt.nan_to_num({d.x('f')}), 0, 99), {d.any_of(*DTYPES['i'], *DTYPES['u'])!r})"
)
# The interpreter itself raises for negative numbers in uint64.
rule("cast")(
    lambda d: (lambda dtype: f"pt.cast({d.x('bu' if dtype == 'uint64' else 'biu')}, {dtype!r})")(
        d.any_of(*ALL_DTYPES)
    )
)
rule("cast of floats")(lambda d: f"{d.x('f')}.astype({d.any_of('bool', *FLOATS)!r})")
rule("cast to float16 and back")(lambda d: f"pt.cast(pt.cast({d.x('f')}, 'float16'), 'float32')")


@rule("switch")
def _(d: Drawing) -> str:
    a = d.x()
    return f"pt.switch({d.like(a, 'bbiuf')}, {a}, {d.like(a)})"


@rule("where")
def _(d: Drawing) -> str:
    a = d.x()
    return f"pt.where({d.like(a, 'f')} > 0, {a}, {d.any_of('0', '0.0', 'nan', d.like(a))})"


rule("where of one argument", 2)(lambda d: f"pt.where({d.x('biuf', 2)})")


@rule("clip")
def _(d: Drawing) -> str:
    a = d.x("iuff")
    low, high = d.any_of("-1", "0", "0.5", d.like(a)), d.any_of("3", "2.5", "1", d.like(a))
    return f"pt.clip({a}, {low}, {high})"


@rule("choose")
def _(d: Drawing) -> str:
    a = d.x("iuf", (1, 2))
    n = d.rng.randint(1, 3)
    choices = [a, *(d.x(dtype=d.dtype(a), ndim=d.ndim(a), shape=d.shape(a)) for _ in range(n))]
    index = d.indices(n + 1, d.shape(a))
    return f"pt.choose({index}, [{', '.join(choices)}], mode={d.any_of('raise', 'clip', 'wrap')!r})"


on("second")(lambda d, a: f"pt.second({a}, {d.like(a)})")
rule("copy")(lambda d: f"{d.x()}.copy()")

# Control, inner graphs, and what only the gradient sees


@rule("ifelse")
def _(d: Drawing) -> str:
    a = d.x("iuf", (0, 2))
    b = d.x(dtype=d.dtype(a), ndim=d.ndim(a), shape=d.shape(a)) if d.maybe(0.6) else f"2 * {a}"
    condition = d.any_of(d.x("bi", 0), f"{d.x('f', 0)} > 0")
    return f"ifelse({condition}, {a}, {b})"


@rule("ifelse of several", 2)
def _(d: Drawing) -> str:
    a, b = d.x("f", (0, 2)), d.x("f", (0, 2))
    return f"ifelse({d.x('f', 0)} > 0, [{a}, {b}], [pt.exp({a}), {b} * 2.0])"


@rule("OpFromGraph")
def _(d: Drawing) -> str:
    a = d.x("f", (1, 3))
    b = d.like(a, "f", dtype=d.dtype(a))
    body = d.any_of(
        "pt.tanh(a) * b + a.sum()", "a[::-1] - b", "a**3 + b", "pt.maximum(a, b) / 2", "pt.cumsum(a, 0) + b",
        "pt.special.softmax(a, axis=0) * b", "a.max(0) + b", "pt.set_subtensor(a[0], 1) + b", "a[[0, 0]] * 2 + b.sum()",
    )  # fmt: skip
    inline = d.any_of("", ", inline=True")
    return f"(lambda a, b: OpFromGraph([a, b], [{body}]{inline})(a, b))({a}.type(), {b}.type()).owner.op({a}, {b})"


@rule("OpFromGraph of two", 2)
def _(d: Drawing) -> str:
    a = d.x("f", (1, 2))
    body = d.any_of("pt.exp(a), a.sum(0)", "a[::2], a.argmax(-1)", "a.T, a.min()")
    return f"(lambda a: OpFromGraph([a], [{body}]))({a}.type())({a})"


@rule("vectorize")
def _(d: Drawing) -> str:
    a = d.x("f", (2, 3), lambda v: v.ndim >= 2 and v.size > 0)
    function, signature = d.any_of(
        ("lambda v: v[::-1].sum()", "(n)->()"),
        ("lambda v: pt.cumsum(v)", "(n)->(n)"),
        ("lambda v: v[:1] * v", "(n)->(n)"),
        ("lambda v: pt.sort(v)", "(n)->(n)"),
        ("lambda v: v[v.argmax()]", "(n)->()"),
        ("lambda v: pt.outer(v, v)", "(n)->(n,n)"),
    )
    return f"pt.vectorize({function}, signature={signature!r})({a})"


on("Assert")(lambda d, a: f"Assert('must hold')({a}, pt.{d.any_of('all', 'any')}({d.x('b')}))")
on("specify_shape")(
    lambda d, a: f"pt.specify_shape({a}, {tuple(n if d.maybe(0.7) else None for n in d.shape(a))})"
)
on("specify_shape, wrong", "f", (1, 2))(
    lambda d, a: f"pt.specify_shape({a}, {tuple(n + d.rng.randrange(2) for n in d.shape(a))})"
)
rule("grad_clip")(lambda d: f"gradient.grad_clip({d.x('f')}, -0.5, 0.5)")
rule("grad_scale")(lambda d: f"gradient.grad_scale({d.x('f')}, 0.5)")
rule("zero_grad")(lambda d: f"gradient.zero_grad({d.x('f')})")
rule("disconnected_grad")(lambda d: f"gradient.disconnected_grad({d.x('f')})")


@rule("pt.grad of a gradient")
def _(d: Drawing) -> str:
    a = d.x("f", (0, 2))
    body = d.any_of(
        f"{a}**3", f"pt.tanh({a})", f"pt.sqr({a}) * pt.sin({a})", f"pt.exp(-{a}**2)", f"pt.log1p({a}**2)"
    )
    return f"pt.grad(pt.grad(({body}).sum(), {a}).sum(), {a})"


# Loops


def loop(d: Drawing, step: str, *arguments: str) -> str:
    """A scan, at times backwards."""
    more = ", go_backwards=True" if d.maybe(0.3) else ""
    return f"pytensor.scan({step}, {', '.join(arguments)}{more}, return_updates=False)"


@rule("scan")
def _(d: Drawing) -> str:
    a = d.x("iuf", (1, 2), empty=False)
    steps = f", n_steps={d.rng.randint(1, d.shape(a)[0])}" if d.maybe(0.3) else ""
    return loop(d, "lambda v, total: total + v", f"{a}, {a}[0] * 0{steps}")


@rule("scan, two states", values=2)
def _(d: Drawing) -> str:
    a = d.x("f", (1, 2), lambda v: len(v) > 1)
    start = f"[{{'initial': {a}[:2], 'taps': [-2, -1]}}, {a}[0]]"
    return loop(d, "lambda v, p, q, s: [pt.tanh(p - v) + q * 0.5, pt.sin(s) * q]", a, start)


@rule("scan, the end of a trace")
def _(d: Drawing) -> str:
    a = d.x("f", (1, 2), empty=False)
    return f"{loop(d, 'lambda v, s: pt.tanh(s + v)', a, f'{a}[0]')}[-{d.rng.randint(1, d.shape(a)[0])}:]"


@rule("scan, weights")
def _(d: Drawing) -> str:
    w = d.square(ndim=(2, 2))
    side, dtype = d.shape(w)[0], d.dtype(w)
    x = d.x(ndim=2, shape=(d.rng.randint(1, 4), side), dtype=dtype)
    return loop(d, "lambda v, s, w: pt.tanh(v + pt.dot(s, w))", x, f"{x}[0]", w)


@rule("scan, of a sequence with taps")
def _(d: Drawing) -> str:
    a = d.x("f", (1, 2), lambda v: len(v) > 2)
    return loop(d, "lambda p, v, q: p * q - v", f"{{'input': {a}, 'taps': [-1, 0, 1]}}")


@rule("scan, until")
def _(d: Drawing) -> str:
    a, steps = d.x("f", (0, 2), low=0, high=9), d.rng.randint(1, 6)
    step = "lambda s: (s * 1.5, until(s.sum() > 9))"
    return f"pytensor.scan({step}, None, {a}, n_steps={steps}, return_updates=False)"


@rule("scan in a scan")
def _(d: Drawing) -> str:
    a = d.x("f", 2, empty=False)
    inner = f"pytensor.scan(lambda e, p: pt.tanh(p + e), v, {a}[0, 0], return_updates=False)[-1]"
    return loop(d, f"lambda v, s: s * 0.5 + {inner}", a, f"{a}[0, 0]")


@rule("jacobian")
def _(d: Drawing) -> str:
    a = d.x("f", 1, empty=False)
    return f"pytensor.gradient.jacobian(pt.tanh({a} * {a}.sum()), {a})"


@rule("random")
def _(d: Drawing) -> str:
    a = d.x("f", (0, 2), lambda v: bool(np.isfinite(v).all()))
    drawn = d.any_of(
        f"normal({a}, 2.0)",
        f"uniform({a}, {a} + 1, size=(2, *{d.shape(a)}))",
        f"bernoulli(pt.sigmoid({a}))",
        f"poisson(pt.sigmoid({a}))",
        "integers(0, 7, size=(2, 3))",
        "permutation(pt.arange(5))",
    )
    return f"pt.random.shared_rng(np.random.default_rng({d.rng.randrange(9)})).{drawn}[1]"


# Reductions

for _name in ("sum", "prod", "mean", "max", "min", "argmax", "argmin", "any", "all"):

    @rule(_name)
    def _reduce(d: Drawing, name: str = _name) -> str:
        a = d.x("bbiuf" if name in ("any", "all") else "biuff", (0, 4))
        axis = d.axes(a)
        if name.startswith("arg") and isinstance(axis, tuple) and d.maybe(0.7):
            axis = axis[0]
        more = ", keepdims=True" if d.maybe(0.3) else ""
        if name in ("sum", "prod") and d.maybe(0.3):
            more += f", dtype={d.any_of(*ALL_DTYPES)!r}" if d.maybe(0.5) else ", acc_dtype='float64'"
        if name == "mean" and d.maybe(0.2):
            more += ", dtype='float64'"
        return f"pt.{name}({a}, axis={axis}{more})"


for _name in ("var", "std"):

    @rule(_name)
    def _spread(d: Drawing, name: str = _name) -> str:
        a = d.x("biuff", (1, 3))
        return f"pt.{name}({a}, axis={d.axes(a)}, ddof={d.rng.randrange(2)}, keepdims={d.maybe(0.4)})"


on("ptp", "iuf", (1, 3))(lambda d, a: f"pt.ptp({a}, axis={d.axis(a)})")
on("median", "biuff", (1, 3), empty=False)(lambda d, a: f"pt.median({a}, axis={d.axes(a)})")
on("logsumexp", "f", (1, 3))(lambda d, a: f"pt.logsumexp({a}, axis={d.axes(a)}, keepdims={d.maybe(0.4)})")
on("max_and_argmax", "biuff", (1, 3), values=2)(lambda d, a: f"pt.max_and_argmax({a}, axis={d.axis(a)})")
rule("prod without zeros")(lambda d: f"pt.prod({d.x('f', (1, 3), low=1)}, no_zeros_in_input=True)")
rule("cov")(lambda d: f"pt.cov({d.x('f', 2, empty=False)}, rowvar={d.maybe(0.5)}, bias={d.maybe(0.5)})")
on("softmax", "f", (1, 3))(lambda d, a: f"special.softmax({a}, axis={d.any_of(None, d.axis(a))})")
on("log_softmax", "f", (1, 3))(lambda d, a: f"special.log_softmax({a}, axis={d.any_of(None, d.axis(a))})")


@rule("cross-entropy")
def _(d: Drawing) -> str:
    a = d.x("f", 2, empty=False)
    rows, classes = d.shape(a)
    return f"-special.log_softmax({a}, axis=1)[pt.arange({rows}), {d.indices(classes, (rows,))}].mean()"


@rule("one-hot")
def _(d: Drawing) -> str:
    labels = d.x("iu", 1, low=0, high=9)
    return f"pt.cast(pt.eq({labels}[:, None], pt.arange({d.any_of(3, 4)})[None]), 'float32')"


on("norm", "f", (1, 3))(lambda d, a: f"{a}.norm({d.any_of(1, 2, 3, 0)}, axis={d.axes(a)})")
rule("linalg.norm")(
    lambda d: (
        f"linalg.norm({d.x('f', 2, empty=False)}, ord={d.any_of(None, 1, -1, 2, -2, 'fro', 'nuc', 'inf')})".replace(
            "'inf'", "inf"
        )
    )
)

# Cumulating, sorting, searching

on("cumsum", "biuff", (1, 3))(lambda d, a: f"pt.cumsum({a}, axis={d.any_of(None, d.axis(a))})")
on("cumprod", "biuff", (1, 3))(lambda d, a: f"pt.cumprod({a}, axis={d.any_of(None, d.axis(a))})")
on("diff", "biuff", (1, 3))(lambda d, a: f"pt.diff({a}, n={d.any_of(1, 1, 2)}, axis={d.axis(a)})")


@on("sort", "biuff", (1, 3))
def _(d: Drawing, a: str) -> str:
    # Without "stable" NumPy leaves the order of equal elements open, and so what their gradient is.
    unequal = len(set(d.of(a).ravel().tolist())) == d.of(a).size
    kind = d.any_of("", ", kind='stable'") if unequal else ", kind='stable'"
    return f"pt.sort({a}, axis={d.any_of(None, d.axis(a), -1)}{kind})"


on("argsort", "biuff", (1, 3))(
    lambda d, a: f"pt.argsort({a}, axis={d.any_of(None, d.axis(a), -1)}, kind='stable')"
)


@rule("searchsorted")
def _(d: Drawing) -> str:
    dtype = d.dtypes("iuff")
    a = d.x(dtype=dtype, ndim=1)
    v = d.x(dtype=dtype if d.maybe(0.6) else None, ndim=(0, 2))
    sorter = f", sorter=pt.argsort({a}, kind='stable')" if d.maybe(0.3) else ""
    return f"pt.searchsorted({a if sorter else f'pt.sort({a})'}, {v}, side={d.any_of('left', 'right')!r}{sorter})"


rule("unique")(lambda d: f"pt.unique({d.x('biuff', (1, 2))})")
rule("unique and more", 4)(
    lambda d: (
        f"pt.unique({d.x('iuff', (1, 2), empty=False)}, return_index=True, return_inverse=True, return_counts=True)"
    )
)
on("unique along an axis", "iuf", 2, empty=False)(lambda d, a: f"pt.unique({a}, axis={d.axis(a)})")
on("bincount", "biu", 1, low=0, high=9)(
    lambda d, a: (
        f"pt.bincount({a}{d.any_of('', ', minlength=5', f', weights={d.x(chr(102), 1, shape=d.shape(a))}')})"
    )
)
rule("nonzero", 2)(lambda d: f"pt.nonzero({d.x('biuf', 2)})")
rule("nonzero as a matrix")(lambda d: f"pt.nonzero({d.x('biuf', (1, 3))}, return_matrix=True)")
rule("flatnonzero")(lambda d: f"pt.flatnonzero({d.x('biuf', (1, 3))})")
rule("nonzero_values")(lambda d: f"pt.nonzero_values({d.x('biuf', (1, 3))})")
rule("inverse_permutation")(lambda d: f"pt.inverse_permutation(pt.argsort({d.x('iuf', 1)}, kind='stable'))")
on("permute_row_elements", "iuf", (1, 2))(
    lambda d, a: (
        f"pt.permute_row_elements({a}, pt.argsort({d.x('f', 1, shape=(d.shape(a)[-1],))}, kind='stable'))"
    )
)
rule("ravel_multi_index")(
    lambda d: (
        f"pt.ravel_multi_index(({d.indices(3, (3,))}, {d.indices(4, (3,))}), (3, 4),"
        f" mode={d.any_of('raise', 'wrap', 'clip')!r},"
        f" order={d.any_of('C', 'F')!r})"
    )
)
rule("unravel_index", 2)(
    lambda d: (
        f"pt.unravel_index({d.x('i', (0, 2), low=0, high=11, dtype='int64')}, (3, 4), order={d.any_of('C', 'F')!r})"
    )
)
on("compress", "iuf", (1, 3))(lambda d, a: f"pt.compress({d.x('b', 1, shape=(d.shape(a)[0],))}, {a}, axis=0)")

# Indexing


def part(d: Drawing, length: int, at: str = "") -> str:
    """An entry of a basic index, into an axis of that length."""
    rng = d.rng
    kind = rng.random()
    if kind < 0.15 and length:
        return str(rng.randrange(-length, length))
    if kind < 0.25 and length:
        return d.indices(length, ())
    if kind < 0.35:
        return ":"
    if kind < 0.42:
        return d.x("iu", 0, high=4) + ":"

    def bound() -> str:
        return "" if rng.random() < 0.35 else str(rng.randint(-length - 1, length + 1))

    step = rng.choice(("", "", "1", "2", "-1", "-1", "-2", "3"))
    return f"{bound()}:{bound()}" + (f":{step}" if step else "")


def basic_index(d: Drawing, name: str) -> str:
    """A basic index."""
    entries = [part(d, length) for length in d.shape(name)]
    entries = entries[: d.rng.randint(1, len(entries))]
    if d.maybe(0.15):
        entries.insert(d.rng.randrange(len(entries) + 1), "None")
    if d.maybe(0.1):
        entries.insert(0, "...")
        if len(entries) - 1 < d.ndim(name) and d.maybe(0.5):
            entries = ["...", part(d, d.shape(name)[-1])]
    return ", ".join(entries)


def advanced_index(d: Drawing, name: str) -> str:
    """An index with at least an array in it, maybe a mask."""
    lengths, rng = d.shape(name), d.rng
    if d.maybe(0.25):
        n = rng.randint(1, len(lengths))
        return d.x("b", n, shape=lengths[:n])
    entries, n = [], rng.randint(1, len(lengths))
    first = d.lengths((1, 2))
    arrays = {rng.randrange(n)} | {k for k in range(n) if rng.random() < 0.35}
    for k in range(n):
        if k not in arrays:
            entries.append(part(d, lengths[k]))
        elif len(arrays) == 1 and d.maybe(0.25):
            entries.append(d.x("b", 1, shape=(lengths[k],)))
        elif d.maybe(0.15) and lengths[k]:
            entries.append(str([rng.randrange(-lengths[k], lengths[k]) for _ in range(first[-1])]))
        else:
            shape = tuple(1 if d.maybe(0.15) else length for length in first[rng.randrange(len(first)) :])
            entries.append(d.indices(lengths[k], shape, "iuu"))
    if d.maybe(0.1):
        entries.insert(rng.randrange(len(entries) + 1), "None")
    return ", ".join(entries)


on("x[basic]", ndim=(1, 4))(lambda d, a: f"{a}[{basic_index(d, a)}]")
on("x[basic], again", "f", ndim=(1, 3))(lambda d, a: f"{a}[{basic_index(d, a)}]")
on("x[advanced]", ndim=(1, 4))(lambda d, a: f"{a}[{advanced_index(d, a)}]")
on("x[advanced], again", "f", ndim=(1, 3))(lambda d, a: f"{a}[{advanced_index(d, a)}]")
on("x[uint8]", ndim=(1, 4))(
    lambda d, a: f"{a}[{d.new(d.numbers('uint8', (3,), 0, max(d.shape(a)[0] - 1, 0)))}]"
)
on("x[bool]", ndim=(1, 3))(lambda d, a: f"{a}[{d.x('b', 1, shape=d.shape(a)[:1])}]")
on("x[:, bool]", ndim=(2, 3))(lambda d, a: f"{a}[:, {d.x('b', 1, shape=d.shape(a)[1:2])}]")
on("x[mask of a comparison]", "iuf", (1, 3))(lambda d, a: f"{a}[{a} > 0]")

for _name in ("set", "inc"):
    for _kind in ("basic", "advanced"):

        @rule(f"{_name}_subtensor of {_kind}")
        def _assign(d: Drawing, name: str = _name, kind: str = _kind) -> str:
            a = d.x("iufff", (1, 3))
            index = basic_index(d, a) if kind == "basic" else advanced_index(d, a)
            target = f"{a}[{index}]"
            try:
                target_shape = d.value_of(target).shape
            except Exception:
                target_shape = ()
            if d.maybe(0.3):
                value = d.any_of("1", "0", d.x(d_kind(d, a), 0, dtype=d.dtype(a)))
            else:
                start = d.rng.randrange(len(target_shape) + 1) if d.maybe(0.3) else 0
                shape = tuple(1 if d.maybe(0.15) else n for n in target_shape[start:])
                value = d.x(dtype=d.dtype(a), ndim=len(shape), shape=shape)
            more = ", ignore_duplicates=True" if name == "inc" and kind == "advanced" and d.maybe(0.1) else ""
            return f"pt.{name}_subtensor({target}, {value}{more})"


def d_kind(d: Drawing, name: str) -> str:
    """The kind of a variable's dtype."""
    return next(kind for kind, names in DTYPES.items() if d.dtype(name) in names)


on("set_subtensor of a mask", "iuf", (1, 3))(lambda d, a: f"pt.set_subtensor({a}[{a} > 0], 0)")
on("x.inc and x.set", "iuf", (1, 2))(lambda d, a: f"{a}[::-1].inc({a})[:1].set(2)")


@rule("take")
def _(d: Drawing) -> str:
    a = d.x(ndim=(1, 3))
    axis = d.any_of(None, d.axis(a), d.axis(a))
    length = int(d.of(a).size) if axis is None else d.shape(a)[axis]
    index = d.indices(length, d.lengths((0, 2)))
    return f"pt.take({a}, {index}, axis={axis}, mode={d.any_of('raise', 'raise', 'clip', 'wrap')!r})"


@rule("take_along_axis")
def _(d: Drawing) -> str:
    a = d.x(ndim=(1, 3))
    axis = d.axis(a)
    shape = list(d.shape(a))
    length = shape[axis]
    shape[axis] = d.any_of(1, 2, length)
    return f"pt.take_along_axis({a}, {d.indices(length, tuple(shape))}, axis={axis})"


@rule("slice_at_axis")
def _(d: Drawing) -> str:
    a = d.x(ndim=(1, 3))
    return (
        f"{a}[subtensor.slice_at_axis(slice(None, None, {d.any_of(-1, 2, 1)}), {d.rng.randrange(d.ndim(a))})]"
    )


on("flip", ndim=(1, 3))(lambda d, a: f"pt.flip({a}, {d.axes(a)})")
on("roll", ndim=(1, 3))(lambda d, a: f"pt.roll({a}, {d.rng.randint(-5, 5)}, {d.any_of(None, d.axis(a))})")
on("roll by a variable", ndim=(1, 2))(
    lambda d, a: f"pt.roll({a}, {d.x('i', 0, low=-5, high=5)}, {d.axis(a)})"
)

# Making

rule("alloc")(
    lambda d: (
        f"pt.alloc({d.x(ndim=(0, 1), shape=d.any_of((), (3,)))}, 2, {d.any_of(d.x('iu', 0, low=0, high=3), 2)}, 3)"
    )
)
rule("arange")(
    lambda d: (
        f"pt.arange({d.any_of('', '0, ', '1, ', '-2, ')}{d.x('iuf', 0, low=0, high=9)}"
        f"{d.any_of('', '', f', dtype={d.any_of(*DTYPES[chr(105)], *FLOATS)!r}')})"
    )
)
rule("arange with a step")(
    lambda d: f"pt.arange({d.any_of(9, 5.5, 0)}, {d.x('if', 0, low=-9, high=9)}, {d.any_of(-1, -2, 3, 0.5)})"
)
rule("zeros")(lambda d: f"pt.zeros(({d.x('iu', 0, low=0, high=3)}, 2), dtype={d.any_of(*ALL_DTYPES)!r})")
rule("ones")(lambda d: f"pt.ones({d.x(ndim=(1, 3))}.shape, dtype={d.any_of(*ALL_DTYPES)!r})")
rule("full")(
    lambda d: (
        f"pt.full((2, {d.any_of(2, d.x('iu', 0, low=0, high=3))}), {d.any_of(3, 0.5, 'nan', d.x(ndim=0))})"
    )
)
rule("full_like")(lambda d: f"pt.full_like({d.x()}, {d.any_of(1, 0, 2)})")
rule("zeros_like")(
    lambda d: f"pt.zeros_like({d.x()}{d.any_of('', ', dtype=' + repr(d.any_of(*ALL_DTYPES)))})"
)
rule("ones_like")(lambda d: f"pt.ones_like({d.x()}{d.any_of('', ', dtype=' + repr(d.any_of(*ALL_DTYPES)))})")
rule("identity_like")(lambda d: f"pt.identity_like({d.x(ndim=2)})")
on("empty")(lambda d, a: f"pt.set_subtensor(pt.empty({a}.shape, dtype={d.dtype(a)!r})[...], {a})")
rule("empty_like")(lambda d: f"pt.empty_like({d.x()}).shape")
rule("eye")(
    lambda d: (
        f"pt.eye({d.x('iu', 0, low=0, high=4)}, {d.any_of(3, 2)}, {d.rng.randint(-2, 2)},"
        f" dtype={d.any_of(*ALL_DTYPES)!r})"
    )
)
rule("identity")(lambda d: "pt.identity(3)")
rule("tri")(lambda d: f"pt.tri({d.x('iu', 0, low=0, high=4)}, 3, {d.rng.randint(-2, 2)})")
rule("tril")(lambda d: f"pt.tril({d.x(ndim=(2, 3))}, {d.rng.randint(-2, 2)})")
rule("triu")(lambda d: f"pt.triu({d.x(ndim=(2, 3))}, {d.rng.randint(-2, 2)})")
rule("tril_indices", 2)(
    lambda d: f"pt.tril_indices({d.any_of(3, d.x('iu', 0, low=0, high=4))}, {d.rng.randint(-1, 1)})"
)
rule("triu_indices", 2)(
    lambda d: f"pt.triu_indices({d.any_of(3, d.x('iu', 0, low=0, high=4))}, {d.rng.randint(-1, 1)})"
)
rule("tril_indices_from", 2)(lambda d: f"pt.tril_indices_from({d.x(ndim=2)})")
rule("triu_indices_from", 2)(lambda d: f"pt.triu_indices_from({d.x(ndim=2)})")
rule("linspace")(lambda d: f"pt.linspace({d.x('if', 0)}, 3, {d.any_of(1, 4, 5)}, endpoint={d.maybe(0.6)})")
rule("logspace")(lambda d: f"pt.logspace({d.x('if', 0, high=3)}, 2, {d.any_of(3, 4)})")
rule("geomspace")(lambda d: f"pt.geomspace({d.x('f', 0, low=1)}, 9, {d.any_of(3, 4)})")
rule("mgrid", 2)(lambda d: f"pt.mgrid[0:{d.any_of(2, 3)}, 1:{d.any_of(4, 3)}]")
rule("ogrid", 2)(lambda d: f"pt.ogrid[0:{d.any_of(2, 3)}, 1:{d.any_of(4, 3)}]")
rule("bartlett")(lambda d: f"pt.bartlett({d.x('iu', 0, low=1, high=6)})")
rule("as_tensor of a list")(lambda d: f"pt.as_tensor([{d.x('iuf', 0)}, {d.x('iuf', 0)}, 2])")
rule("scalar_from_tensor")(lambda d: f"pt.tensor_from_scalar(pt.scalar_from_tensor({d.x(ndim=0)}))")

# Shaping

rule("shape")(lambda d: f"{d.x()}.shape")
on("shape of an axis", ndim=(1, 3))(lambda d, a: f"{a} * {a}.shape[{d.axis(a)}]")
rule("size")(lambda d: f"{d.x()}.size")


def lengths_of(d: Drawing, size: int) -> list[str]:
    """A shape of that many elements."""
    first = d.rng.choice([n for n in (1, 2, 3, 4, 6) if size % n == 0])
    shape = [str(first), str(size // first)]
    if d.maybe(0.3):
        shape.insert(d.rng.randrange(3), "1")
    if d.maybe(0.4) and size:
        shape[d.rng.randrange(len(shape))] = "-1"
    if d.maybe(0.05):
        shape[0] = "5"
    return shape


on("reshape")(lambda d, a: f"{a}.reshape(({', '.join(lengths_of(d, d.of(a).size))}))")
on("reshape to a variable shape")(lambda d, a: f"{a}.reshape(({d.x('iu', 0, low=1, high=4)}, -1))")
on("reshape to another's shape")(
    lambda d, a: f"{a}.reshape({d.x(fits=lambda v: v.size == d.of(a).size, fresh=0)}.shape)"
)
on("flatten")(lambda d, a: f"pt.flatten({a}, {d.rng.randint(1, max(1, d.ndim(a)))})")
rule("ravel")(lambda d: f"{d.x()}.ravel()")
on("transpose", ndim=(1, 4))(
    lambda d, a: f"{a}.transpose({', '.join(map(str, d.rng.sample(range(d.ndim(a)), d.ndim(a))))})"
)
rule("T")(lambda d: f"{d.x(ndim=(0, 3))}.T")
rule("mT")(lambda d: f"{d.x(ndim=(2, 3))}.mT")
on("dimshuffle", ndim=(0, 3))(
    lambda d, a: (
        f"{a}.dimshuffle({', '.join(map(repr, d.rng.sample([*range(d.ndim(a)), 'x'], d.ndim(a) + 1)))})"
    )
)
on("swapaxes", ndim=(1, 3))(lambda d, a: f"pt.swapaxes({a}, {d.axis(a)}, {d.axis(a)})")
on("moveaxis", ndim=(1, 3))(lambda d, a: f"pt.moveaxis({a}, {d.axis(a)}, {d.axis(a)})")
rule("expand_dims")(lambda d: f"pt.expand_dims({d.x()}, {d.any_of(0, -1, (0, 1))})")
rule("squeeze")(lambda d: f"pt.squeeze({d.x(ndim=(1, 3))})")
on("squeeze of an axis", ndim=(1, 3), fits=lambda v: 1 in v.shape)(
    lambda d, a: f"pt.squeeze({a}, axis={d.shape(a).index(1)})"
)
rule("shape_padleft")(lambda d: f"pt.shape_padleft({d.x()}, {d.any_of(1, 2)})")
rule("shape_padright")(lambda d: f"pt.shape_padright({d.x()}, {d.any_of(1, 2)})")
rule("shape_padaxis")(lambda d: f"pt.shape_padaxis({d.x()}, 0)")
rule("atleast_1d")(lambda d: f"pt.atleast_1d({d.x()})")
rule("atleast_2d")(lambda d: f"pt.atleast_2d({d.x()})")
rule("atleast_3d")(lambda d: f"pt.atleast_3d({d.x()})")
rule("join_dims")(lambda d: f"pt.join_dims({d.x(ndim=(2, 3))}, {d.any_of(0, 1)}, {d.any_of(1, 2)})")
on("split_dims", ndim=(1, 2))(
    lambda d, a: f"pt.split_dims({a}, ({', '.join(lengths_of(d, d.shape(a)[0]))}), axis=0)"
)
rule("pack")(lambda d: (lambda dt: f"pt.pack({d.x(dtype=dt)}, {d.x(dtype=dt)})[0]")(d.dtypes("iuf")))
rule("unpack", 2)(lambda d: f"pt.unpack({d.x('iuf', 1, shape=(7,))}, [(2, 2), (3,)], keep_axes=None)")


def same_but(d: Drawing, name: str, axis: int, kinds: str = "") -> str:
    """A variable whose shape is another's but for an axis."""
    shape = list(d.shape(name))
    if d.maybe(0.97):
        shape[axis] = d.any_of(0, 1, 2) if d.maybe(0.3) else shape[axis]
    else:
        shape = [n + 1 for n in shape]
    return d.x(kinds, len(shape), shape=tuple(shape), dtype=None if kinds else d.dtype(name))


@rule("concatenate")
def _(d: Drawing) -> str:
    a = d.x(ndim=(1, 3))
    axis = d.axis(a)
    rest = [same_but(d, a, axis, d.any_of("", "biuf")) for _ in range(d.rng.randint(1, 2))]
    return f"pt.concatenate([{', '.join([a, *rest])}], axis={axis})"


@rule("stack")
def _(d: Drawing) -> str:
    a = d.x(ndim=(0, 2))
    b = d.x(ndim=d.ndim(a), shape=d.shape(a))
    return f"pt.stack([{a}, {b}, {a}], axis={d.rng.randint(-d.ndim(a) - 1, d.ndim(a))})"


on("horizontal_stack", ndim=2)(lambda d, a: f"pt.horizontal_stack({a}, {same_but(d, a, 1)})")
on("vertical_stack", ndim=2)(lambda d, a: f"pt.vertical_stack({a}, {same_but(d, a, 0)})")
rule("stacklists")(lambda d: f"pt.stacklists([[{d.x('f', 0)}, {d.x('f', 0)}], [1.0, {d.x('f', 0)}]])")
rule("concat_with_broadcast")(
    lambda d: f"pt.concat_with_broadcast([{d.x('f', 2, shape=(1, 3))}, {d.x('f', 2, shape=(2, 3))}], axis=1)"
)


@rule("split", 2)
def _(d: Drawing) -> str:
    a = d.x(ndim=(1, 3))
    axis = d.axis(a)
    length = d.shape(a)[axis] + (d.maybe(0.05))
    first = d.rng.randint(0, length)
    return f"pt.split({a}, [{first}, {length - first}], axis={axis})"


rule("split of a parameter", 2)(
    lambda d: f"pt.split({d.x('f', 1, shape=(5,))}, {d.x('iu', 1, shape=(2,), low=2, high=3)}, n_splits=2)"
)
rule("tile")(lambda d: f"pt.tile({d.x()}, {d.any_of((2,), (2, 1), (1, 2, 2), 2)})")
on("repeat", ndim=(1, 3))(
    lambda d, a: (
        f"pt.repeat({a}, {d.any_of(2, 0, 3, d.x('iu', 0, low=0, high=3))}, axis={d.any_of(None, d.axis(a))})"
    )
)
on("repeat by a vector", ndim=(1, 2))(
    lambda d, a: f"pt.repeat({a}, {d.x('iu', 1, shape=(d.shape(a)[0],), low=0, high=3)}, axis=0)"
)
on("broadcast_to", ndim=(0, 2))(
    lambda d, a: f"pt.broadcast_to({a}, {(2, *(3 if n == 1 else n for n in d.shape(a)))})"
)
on("broadcast_arrays", values=2)(lambda d, a: f"pt.broadcast_arrays({a}, {d.like(a)})")
on("broadcast_shape", ndim=(1, 3))(
    lambda d, a: f"pt.stack([pt.as_tensor(n) for n in pt.broadcast_shape({a}, {d.like(a)})])"
)
rule("diag of a vector")(lambda d: f"pt.diag({d.x(ndim=1)}, {d.rng.randint(-2, 2)})")
rule("diag of a matrix")(lambda d: f"pt.diag({d.x(ndim=2)}, {d.rng.randint(-1, 1)})")
rule("diagonal")(
    lambda d: f"pt.diagonal({d.x(ndim=3)}, {d.rng.randint(-1, 1)}, {d.any_of('0, 1', '1, 2', '2, 0')})"
)
rule("trace")(lambda d: f"pt.trace({d.x('iuf', 2)})")
rule("fill_diagonal")(lambda d: f"pt.fill_diagonal({d.x('iuf', 2, empty=False)}, {d.any_of(1, 0, 7)})")
rule("fill_diagonal_offset")(
    lambda d: (
        f"pt.fill_diagonal_offset({d.x('iuf', 2, empty=False)}, {d.any_of(1, 0)}, {d.rng.randint(-1, 1)})"
    )
)

for _mode in (
    "constant",
    "edge",
    "linear_ramp",
    "maximum",
    "mean",
    "minimum",
    "reflect",
    "symmetric",
    "wrap",
):

    @rule(f"pad, {_mode}")
    def _pad(d: Drawing, mode: str = _mode) -> str:
        a = d.x("iuff" if mode != "mean" else "f", (1, 3), empty=mode == "constant")
        width = d.any_of("1", "2", "(1, 2)", "(0, 1)", f"[(1, 2)] * {d.ndim(a)}", "3")
        more = ", constant_values=2" if mode == "constant" and d.maybe(0.5) else ""
        more = ", stat_length=2" if mode in ("maximum", "mean", "minimum") and d.maybe(0.4) else more
        more = ", reflect_type='odd'" if mode in ("reflect", "symmetric") and d.maybe(0.1) else more
        return f"pt.pad({a}, {width}, mode={mode!r}{more})"


# Products


def fitting(d: Drawing, first: str, kinds: str, axis: int, ndim: int, at: int) -> str:
    """A variable whose axis `at` is as long as an axis of another's."""
    shape = list(d.lengths((ndim, ndim)))
    shape[at] = d.shape(first)[axis] + (d.maybe(0.03))
    return d.x(kinds, ndim, shape=tuple(shape))


@rule("dot")
def _(d: Drawing) -> str:
    kinds = d.any_of("f", "f", "f", "biuf")
    a = d.x(kinds, (1, 2))
    ndim = d.rng.randint(1, 2)
    return f"pt.dot({a}, {fitting(d, a, kinds, -1, ndim, max(ndim - 2, 0))})"


@rule("matmul")
def _(d: Drawing) -> str:
    kinds = d.any_of("f", "f", "f", "biuf")
    a = d.x(kinds, (1, 3))
    ndim = d.rng.randint(1, 2)
    return f"{a} @ {fitting(d, a, kinds, -1, ndim, max(ndim - 2, 0))}"


@rule("matmul of batches")
def _(d: Drawing) -> str:
    a = d.x(d.any_of("f", "f", "iuf"), 3)
    n, _, k = d.shape(a)
    return f"{a} @ {d.x('f', 3, shape=(d.any_of(n, 1), k, 2))}"


@rule("tensordot")
def _(d: Drawing) -> str:
    a = d.x(d.any_of("f", "f", "iuf"), (2, 3))
    shape = d.shape(a)
    form = d.rng.randrange(3)
    if form == 0:
        return f"pt.tensordot({a}, {d.x('f', 2, shape=(shape[-1], 2))}, axes=1)"
    if form == 1:
        return f"pt.tensordot({a}, {d.x('f', 3, shape=(*shape[-2:], 2))}, axes=2)"
    return f"pt.tensordot({a}, {d.x('f', 2, shape=(2, shape[0]))}, axes=[[0], [1]])"


rule("outer")(lambda d: f"pt.outer({d.x('iuff', 1)}, {d.x('iuff', 1)})")
on("vecdot", "if", (1, 2))(lambda d, a: f"pt.vecdot({a}, {d.x('f', d.ndim(a), shape=d.shape(a))})")
on("matvec", "f", (2, 3))(lambda d, a: f"pt.matvec({a}, {fitting(d, a, 'f', -1, 1, 0)})")
on("vecmat", "f", (1, 2))(lambda d, a: f"pt.vecmat({a}, {fitting(d, a, 'f', -1, 2, 0)})")
on("batched_dot", "f", 3)(
    lambda d, a: f"blas.batched_dot({a}, {d.x('f', 3, shape=(d.shape(a)[0], d.shape(a)[2], 2))})"
)
on("batched_tensordot", "f", 3)(
    lambda d, a: (
        f"blas.batched_tensordot({a}, {d.x('f', 3, shape=(d.shape(a)[0], 2, d.shape(a)[2]))}, axes=[[2], [2]])"
    )
)


@on("product, scaled and added", "f", 2)
def _(d: Drawing, a: str) -> str:
    b = d.x("f", 2, shape=(d.shape(a)[1], 3), dtype=d.dtype(a))
    c = d.x("f", shape=d.any_of((), (d.shape(a)[0], 3)), dtype=d.dtype(a))
    return f"0.5 * pt.dot({a}, {b}) + 2.0 * {c}"


rule("einsum of one")(
    lambda d: f"pt.einsum({d.any_of('ij->ji', 'ij->', 'ij->j', 'ij->ij', 'ij->i')!r}, {d.x('iuff', 2)})"
)
rule("einsum, diagonal")(
    lambda d: (
        f"pt.einsum({d.any_of('ii->i', 'ii->', 'ii')!r}, {d.x('f', 2, lambda v: v.shape[0] == v.shape[1])})"
    )
)


@rule("einsum of two")
def _(d: Drawing) -> str:
    spec = d.any_of("ij,jk->ik", "ij,jk->ki", "ij,ij->", "ij,ij->i", "i,j->ij", "bij,bjk->bik", "ij,kj->ik", "ij,j->i",
                    "ij,jk", "...ij,...jk->...ik", "bi,bi->b", "ij,kl->ijkl")  # fmt: skip
    sizes = {c: d.any_of(1, 2, 3) for c in "ijklb"}
    shapes = [tuple(sizes[c] for c in part.strip(".")) for part in spec.split("->")[0].split(",")]
    operands = ", ".join(d.x("f", len(s), shape=s) for s in shapes)
    return f"pt.einsum({spec!r}, {operands})"


@rule("einsum of three")
def _(d: Drawing) -> str:
    n = d.any_of(1, 2, 3)
    operands = [d.x("f", 2, shape=shape) for shape in ((2, n), (n, 2), (2, 3))]
    return f"pt.einsum('ij,jk,kl->il', {', '.join(operands)})"


CONVOLUTIONS = ("full", "valid", "same")
on("signal.convolve1d", "iff", 1, empty=False)(
    lambda d, a: f"signal.convolve1d({a}, {d.x('iff', 1, empty=False)}, mode={d.any_of(*CONVOLUTIONS)!r})"
)
on("signal.convolve2d", "f", 2, shape=(4, 3))(
    lambda d, a: (
        f"signal.convolve2d({a}, {d.x('f', 2, shape=(2, 2))}, mode={d.any_of(*CONVOLUTIONS)!r}, method='direct')"
    )
)
rule("fft.rfft")(lambda d: f"fft.rfft({d.x('f', 2, shape=(2, 4), dtype='float64')})")
rule("fft.irfft")(lambda d: f"fft.irfft({d.x('f', 3, shape=(2, 3, 2), dtype='float64')})")
rule("interp")(
    lambda d: f"interpolate.interp({d.x('f', 1)}, np.arange(4.0), np.array([1.0, -1.0, 2.0, 0.5]))"
)


@on("interpolate1d", "f", 1)
def _(d: Drawing, a: str) -> str:
    method = d.any_of("linear", "nearest", "first", "last", "mean")
    return f"interpolate.interpolate1d(pt.arange(4.0), pt.sqr(pt.arange(4.0)), method={method!r})({a})"


# Linear algebra: what is not unique, as the sign of an eigenvector, only as a part of what is

rule("linalg.inv")(lambda d: f"linalg.inv({d.square()})")
rule("linalg.det")(lambda d: f"linalg.det({d.square()})")
rule("linalg.slogdet", 2)(lambda d: f"linalg.slogdet({d.square()})")
rule("linalg.cholesky")(lambda d: f"linalg.cholesky({d.positive()}, lower={d.maybe(0.7)})")
rule("linalg.cholesky, maybe not positive")(
    lambda d: f"linalg.cholesky({d.square(ndim=(2, 2))}, on_error={d.any_of('raise', 'nan')!r})"
)


def right(d: Drawing, a: str) -> str:
    """A right-hand side. Where an infinity in it gets to is not said: substitution may multiply it by 0, or not."""
    side = d.shape(a)[-1] + d.maybe(0.03)
    ndim, shape = (1, (side,)) if d.maybe(0.4) else (2, (side, 2))
    return d.x("f", ndim, shape=shape, low=-9, high=9)


@on("linalg.solve", square=True)
def _(d: Drawing, a: str) -> str:
    b = right(d, a)
    return f"linalg.solve({a}, {b}, assume_a={d.any_of('gen', 'gen', 'general')!r}, b_ndim={d.ndim(b)})"


@on("linalg.solve, symmetric", square=True)
def _(d: Drawing, a: str) -> str:
    b = right(d, a)
    return f"linalg.solve({a} + {a}.mT, {b}, assume_a='sym', b_ndim={d.ndim(b)})"


@on("linalg.solve, positive", square=True)
def _(d: Drawing, a: str) -> str:
    b = right(d, a)
    return f"linalg.solve({a} @ {a}.mT + pt.eye({d.shape(a)[-1]}), {b}, assume_a='pos', b_ndim={d.ndim(b)})"


@on("linalg.solve_triangular", square=True)
def _(d: Drawing, a: str) -> str:
    b = right(d, a)
    more = f"lower={d.maybe(0.5)}, trans={d.any_of(0, 1)}, unit_diagonal={d.maybe(0.3)}"
    return f"linalg.solve_triangular({a}, {b}, {more}, b_ndim={d.ndim(b)})"


@on("linalg.cho_solve", square=True)
def _(d: Drawing, a: str) -> str:
    b = right(d, a)
    factor = f"linalg.cholesky({a} @ {a}.mT + pt.eye({d.shape(a)[-1]}))"
    return f"linalg.cho_solve(({factor}, True), {b}, b_ndim={d.ndim(b)})"


@on("linalg.lu_solve", square=True)
def _(d: Drawing, a: str) -> str:
    b = right(d, a)
    return f"linalg.lu_solve(linalg.lu_factor({a}), {b}, trans={d.maybe(0.4)}, b_ndim={d.ndim(b)})"


rule("linalg.lu", 3)(lambda d: f"linalg.lu({d.square()})")
rule("linalg.lu, permuted", 2)(lambda d: f"linalg.lu({d.square()}, permute_l=True)")
rule("linalg.lu_factor", 2)(lambda d: f"linalg.lu_factor({d.square()})")
rule("linalg.pivot_to_permutation")(
    lambda d: (
        f"linalg.pivot_to_permutation(linalg.lu_factor({d.square(ndim=(2, 2))})[1], inverse={d.maybe(0.5)})"
    )
)
rule("linalg.qr", 2)(
    lambda d: f"linalg.qr({d.square()}, mode={d.any_of('full', 'economic', 'reduced', 'complete')!r})"
)
rule("linalg.qr, r")(lambda d: f"linalg.qr({d.square()}, mode='r')")
# What becomes of infinities is left to LAPACK.
rule("linalg.svd, values")(
    lambda d: f"linalg.svd({d.x('f', 2, low=-9, high=9, empty=False)}, compute_uv=False)"
)
rule("linalg.svd")(
    lambda d: f"(lambda u, s, vt: (u * s[..., None, :]) @ vt)(*linalg.svd({d.square()}, full_matrices=False))"
)
rule("linalg.eigh")(lambda d: f"(lambda w, v: (v * w[..., None, :]) @ v.mT)(*linalg.eigh({d.positive()}))")
rule("linalg.eigh, values")(lambda d: f"linalg.eigh({d.positive()})[0]")
rule("linalg.eigvalsh")(lambda d: f"linalg.eigvalsh({d.positive((2, 2))})")
rule("linalg.eig")(lambda d: f"pt.sort(pt.abs(linalg.eig({d.positive()})[0]))")
rule("linalg.schur")(lambda d: f"(lambda t, z: z @ t @ z.mT)(*linalg.schur({d.square()}))")
on("linalg.qz", ndim=(2, 2), square=True)(
    lambda d, a: f"(lambda aa, bb, q, z: q @ aa @ z.mT)(*linalg.qz({a}, {a}))"
)
rule("linalg.pinv")(lambda d: f"linalg.pinv({d.x('f', 2, low=-9, high=9, empty=False)})")
rule("linalg.expm")(lambda d: f"linalg.expm({d.square()} / 4)")
on("linalg.lstsq", ndim=(2, 2), square=True)(
    lambda d, a: f"linalg.lstsq({a}, {d.x('f', 1, shape=d.shape(a)[:1], low=-9, high=9)}, 1e-6)[0]"
)
rule("linalg.matrix_power")(lambda d: f"linalg.matrix_power({d.square()}, {d.any_of(0, 1, 2, 3)})")
on("linalg.matrix_dot", ndim=(2, 2), square=True)(lambda d, a: f"linalg.matrix_dot({a}, {a}, {a})")
rule("linalg.kron")(lambda d: f"linalg.kron({d.x('iuff', (1, 2))}, {d.x('f', 2, shape=(2, 2))})")
rule("linalg.block_diag")(
    lambda d: (lambda dt: f"linalg.block_diag({d.x('f', 2, dtype=dt)}, {d.x('f', 2, dtype=dt)})")(
        d.dtypes("f")
    )
)
on("linalg.tensorinv", ndim=(2, 2), square=True)(lambda d, a: f"linalg.tensorinv({a}, ind=1)")
on("linalg.tensorsolve", ndim=(2, 2), square=True)(
    lambda d, a: f"linalg.tensorsolve({a}, {d.x('f', 1, shape=d.shape(a)[:1], low=-9, high=9)})"
)
on("linalg.solve_sylvester", ndim=(2, 2), square=True)(
    lambda d, a: f"linalg.solve_sylvester({a}, {a}, {a}.T)"
)
on("linalg.solve_continuous_lyapunov", ndim=(2, 2), square=True)(
    lambda d, a: f"linalg.solve_continuous_lyapunov({a}, {a}.T)"
)
on("linalg.solve_discrete_lyapunov", ndim=(2, 2), square=True)(
    lambda d, a: f"linalg.solve_discrete_lyapunov({a} / 9, {a}.T)"
)
on("linalg.solve_discrete_are", ndim=(2, 2), square=True)(
    lambda d, a: f"linalg.solve_discrete_are({a}, {a}, pt.eye({d.shape(a)[0]}), pt.eye({d.shape(a)[0]}))"
)
rule("linalg.tridiagonal_lu_factor", 5)(
    lambda d: f"linalg.tridiagonal_lu_factor({d.x('f', 0)} * np.eye(3) + np.tri(3, k=1) - np.tri(3, k=-2))"
)
