"""Scalar operations on torch tensors with NumPy's values, where torch's own function has others or lacks a dtype.

Torch computes in part only with bool and with the unsigned integers of more than 8 bits: here it is done in the
integers of `COMPUTED`, whose low bits are the same.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytensor.scalar as ps
import torch
from pytensor.graph.basic import Apply
from pytensor.scalar import math as special
from pytensor.scalar.basic import ScalarOp
from pytensor.tensor.math import MulWithoutZeros

from theanompi.device.unsupported import Unsupported
from theanompi.device.versions import those_of

Function = Callable[..., torch.Tensor]

COMPUTED = {
    torch.bool: torch.uint8,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}
"""Dtype that torch has in part → the one to compute in; a result is cast back, which keeps the low bits."""

SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""Dtypes in which torch neither adds nor writes by index, and those of the same bits in which it does."""

LOWEST = torch.iinfo(torch.int64).min
"""The highest bit of 64. To flip it maps the order of uint64 to that of int64."""


def torch_dtype(name: str) -> torch.dtype:
    """Torch's dtype of a NumPy dtype's name."""
    return getattr(torch, name)


def is_native(dtype: str) -> bool:
    """Whether torch computes with a dtype as NumPy does, but for division and powers of integers.

    Examples
    --------
    >>> is_native("uint8"), is_native("float16"), is_native("uint16"), is_native("bool"), is_native("complex64")
    (True, True, False, False, False)
    """
    return not dtype.startswith("complex") and torch_dtype(dtype) not in COMPUTED


def ordered(x: torch.Tensor) -> torch.Tensor:
    """Numbers that torch can compare, in the same order as the elements of `x`.

    Examples
    --------
    >>> ordered(torch.tensor([0, 2**64 - 1], dtype=torch.uint64))
    tensor([-9223372036854775808,  9223372036854775807])
    """
    computed = COMPUTED.get(x.dtype)
    if computed is None:
        return x
    return x.to(computed) ^ LOWEST if x.dtype == torch.uint64 else x.to(computed)


def unordered(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The elements of a dtype from their `ordered` numbers."""
    return (x ^ LOWEST if dtype == torch.uint64 else x).to(dtype)


def signed(x: torch.Tensor) -> torch.Tensor:
    """The same bits in a dtype whose elements torch puts anywhere by index."""
    return x.view(SIGNED[x.dtype]) if x.dtype in SIGNED else x


def where(condition: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`torch.where` for two operands of the same dtype, whichever it is: before 2.13 torch's knows not all of them."""
    return torch.where(condition, signed(x), signed(y)).view(x.dtype)


def _in(computed: torch.dtype, function: Function, result: torch.dtype) -> Function:
    """A function that computes in another dtype than its operands and its result have."""
    return lambda *operands: function(*(x.to(computed) for x in operands)).to(result)


def _quotient(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Floor division of integers: 0 for y = 0, and the lowest number // -1 is itself, where processors trap."""
    zero = y == 0
    if not x.dtype.is_signed:
        return torch.where(zero, 0, torch.floor_divide(x, torch.where(zero, 1, y)))
    opposite = y == -1
    quotient = torch.floor_divide(x, torch.where(zero | opposite, 1, y))
    return torch.where(zero, 0, torch.where(opposite, -x, quotient))


def _remainder(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The remainder of integers with the sign of y: 0 for y = 0."""
    one = (y == 0) | (y == -1) if x.dtype.is_signed else y == 0
    return torch.remainder(x, torch.where(one, 1, y))


def _float_remainder(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The remainder with the sign of y, of zeros too."""
    remainder = torch.remainder(x, y)
    return torch.where(remainder == 0, torch.copysign(remainder, y), remainder)


def _quotient_64(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Floor division of uint64, as int64 with the same bits."""
    zero, large = y == 0, y < 0
    divisor = torch.where(zero | large, 1, y)
    half = torch.floor_divide((x >> 1) & ~LOWEST, divisor) << 1
    rest = x - half * divisor
    quotient = half + ((rest ^ LOWEST) >= (divisor ^ LOWEST))
    at_most_one = ((x ^ LOWEST) >= (y ^ LOWEST)).to(torch.int64)
    return torch.where(zero, 0, torch.where(large, at_most_one, quotient))


def _remainder_64(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.where(y == 0, 0, x - _quotient_64(x, y) * y)


def _power(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if y.dtype.is_signed and bool((y < 0).any()):
        raise ValueError("Integers to negative integer powers are not allowed.")
    return torch.pow(x, y)


def _power_64(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Powers of uint64, as int64 with the same bits: to the power 2⁶³ an odd number gives 1, an even one 0."""
    return torch.where((y < 0) & (x & 1 == 0), 0, torch.pow(x, y & ~LOWEST))


def _without_zeros(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.where(x == 0, y, torch.where(y == 0, x, x * y))


_INTEGER: dict[type[ScalarOp], Function] = {
    ps.Add: torch.add,
    ps.Sub: torch.sub,
    ps.Mul: torch.mul,
    ps.Neg: torch.neg,
    ps.Sqr: torch.square,
    ps.Abs: torch.abs,
    ps.Sign: torch.sign,
    ps.AND: torch.bitwise_and,
    ps.OR: torch.bitwise_or,
    ps.XOR: torch.bitwise_xor,
    ps.Invert: torch.bitwise_not,
    ps.IntDiv: _quotient,
    ps.Mod: _remainder,
    ps.Pow: _power,
    MulWithoutZeros: _without_zeros,
}

_INTEGER_64: dict[type[ScalarOp], Function] = {
    ps.Abs: torch.clone,
    ps.Sign: lambda x: (x != 0).to(torch.int64),
    ps.IntDiv: _quotient_64,
    ps.Mod: _remainder_64,
    ps.Pow: _power_64,
}
"""Of uint64, where the signed function has other bits."""

_BOOLEAN: dict[type[ScalarOp], Function] = {
    ps.Add: torch.logical_or,
    ps.Mul: torch.logical_and,
    ps.IntDiv: torch.logical_and,
    ps.Mod: lambda x, y: torch.logical_and(x, y) & False,
    ps.Sqr: torch.clone,
    ps.Abs: torch.clone,
    ps.AND: torch.bitwise_and,
    ps.OR: torch.bitwise_or,
    ps.XOR: torch.bitwise_xor,
    ps.Invert: torch.bitwise_not,
    MulWithoutZeros: torch.logical_or,
}
"""What NumPy's arithmetic makes of bool; maxima and minima are those of integers."""

_ORDER: dict[type[ScalarOp], Function] = {ps.ScalarMaximum: torch.maximum, ps.ScalarMinimum: torch.minimum}

_COMPARISON: dict[type[ScalarOp], Function] = {
    ps.LT: torch.lt,
    ps.GT: torch.gt,
    ps.LE: torch.le,
    ps.GE: torch.ge,
    ps.EQ: torch.eq,
    ps.NEQ: torch.ne,
}


def comparison(kind: type[ScalarOp], dtypes: Sequence[str]) -> tuple[Function, list[str]]:
    """The function that compares operands of two dtypes, exactly for int64 and uint64, and what it takes them in.

    Examples
    --------
    >>> function, dtypes = comparison(ps.LT, ["int64", "uint64"])
    >>> function(torch.tensor(-1), torch.tensor(2**64 - 1, dtype=torch.uint64)), dtypes
    (tensor(True), ['int64', 'uint64'])
    """
    compare = _COMPARISON[kind]
    common = np.result_type(*dtypes).name
    if common == "float64" and "uint64" in dtypes and all(np.dtype(d).kind in "iu" for d in dtypes):
        signed = 0 if dtypes[1] == "uint64" else 1
        lower, zero = torch.tensor(-1), torch.tensor(0)
        below = bool(compare(*((lower, zero) if signed == 0 else (zero, lower))))

        def mixed(*operands: torch.Tensor) -> torch.Tensor:
            x, y = (ordered(v.to(torch.uint64)) for v in operands)
            return torch.where(operands[signed] < 0, below, compare(x, y))

        return mixed, list(dtypes)
    if is_native(common) or common == "bool" or common.startswith("complex"):
        return compare, [common, common]
    return lambda x, y: compare(ordered(x), ordered(y)), [common, common]


def _clip(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """As PyTensor's: a bound that is NaN bounds nothing, and what is below `low` becomes it even above `high`."""
    above = where(ordered(x) > ordered(high), high, x)
    return where(ordered(x) < ordered(low), low, above)


def _sign(x: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isnan(x), x, torch.sign(x))


def _round_half_away_from_zero(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, torch.floor(x + 0.5), torch.ceil(x - 0.5))


def _gamma(x: torch.Tensor) -> torch.Tensor:
    """Γ(x) from its logarithm, in float64; at 0 infinite with its sign, at negative integers NaN."""
    wide = x.to(torch.float64)
    below = torch.floor(wide)
    sign = torch.where((wide < 0) & (torch.remainder(below, 2) == 1), -1.0, 1.0)
    pole = ((wide < 0) & (wide == below)) | (wide == -math.inf)
    value = torch.where(pole, math.nan, sign * torch.exp(torch.lgamma(wide)))
    return torch.where(wide == 0, torch.copysign(torch.full_like(wide, math.inf), wide), value).to(x.dtype)


def _polygamma(n: int, x: torch.Tensor) -> torch.Tensor:
    """The n-th derivative of ψ: torch's own first one has ten digits only."""
    if n == 0:
        return torch.digamma(x)
    value = (-1) ** (n + 1) * math.factorial(n) * torch.special.zeta(torch.full_like(x, n + 1), x)
    return torch.where(x == math.inf, 0, value)


_POINTS = tuple(zip(*(v.tolist() for v in np.polynomial.legendre.leggauss(40)), strict=True))
"""Positions in (-1, 1) and weights of Gauss and Legendre's quadrature."""


def _tail(k: torch.Tensor, x: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    """The integral of t^(k-1)·exp(-t) / Γ(k) from x on where `upper`, else up to x, for k > 20.

    By quadrature to where the integrand is e^-38 of its largest value, as in Press et al., Numerical Recipes, 3rd
    edition, §6.2.1. It is taken relative to its peak at k-1, and Γ(k) by Stirling's series, so that nothing cancels.
    """
    peak = k - 1
    deviation = torch.sqrt(peak)
    first = torch.where(upper, torch.maximum(peak, x), torch.minimum(peak, x))
    z = (first - peak).abs() / deviation
    reach = deviation * (torch.sqrt(z**2 + 76) - z)
    # Above its peak it falls more slowly than a normal distribution.
    other = torch.where(upper, first + reach + 76 / 3, torch.clamp(first - reach, min=0))
    middle, half = (x + other) / 2, (other - x).abs() / 2
    total = torch.zeros_like(x)
    for position, weight in _POINTS:
        d = (middle + half * position - peak) / peak
        total += weight * torch.exp(peak * (torch.log1p(d) - d))
    square = 1 / peak**2
    stirling = (
        1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188)))
    ) / peak
    return half * total / (torch.sqrt(2 * math.pi * peak) * torch.exp(stirling))


def _incomplete(function: Function, *, upper: bool) -> Function:
    """A regularized incomplete gamma function, with NaN for NaN.

    Near x = k > 20 torch's own has nine digits in float64.
    """

    def value(k: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        near = (k > 20) & ((x - k).abs() < torch.minimum(0.32 * k, 8 * torch.sqrt(k)))
        a, b = torch.where(near, k, 100.0), torch.where(near, x, 100.0)
        above = b > a
        tail = _tail(a, b, above)
        own = torch.where(near, torch.where(above == upper, tail, 1 - tail), function(k, x))
        return torch.where(torch.isnan(k) | torch.isnan(x), math.nan, own)

    return value


_LOWER = _incomplete(torch.special.gammainc, upper=False)
_UPPER = _incomplete(torch.special.gammaincc, upper=True)


def _bessel_j(n: int, x: torch.Tensor) -> torch.Tensor:
    """J_n in float64, of which torch's own J_0 and J_1 have eight digits.

    The power series up to 3, Bessel's integral up to 25, Hankel's expansion beyond.
    """
    wide = x.to(torch.float64)
    half = torch.clamp(wide, -3, 3) / 2
    summand = half**n / math.factorial(n)
    series = summand.clone()
    for k in range(1, 20):
        summand = summand * -(half**2) / (k * (k + n))
        series += summand
    near, far = torch.clamp(wide, -25, 25), torch.clamp(wide.abs(), min=25)
    # The trapezoidal rule of a periodic function: its error is J of order 2·steps − n.
    steps = 48
    total = torch.zeros_like(wide)
    for k in range(steps + 1):
        angle = math.pi * k / steps
        weight = 0.5 if k in (0, steps) else 1.0
        total += weight * torch.cos(n * angle - near * math.sin(angle))
    term, even, odd = torch.ones_like(far), torch.ones_like(far), torch.zeros_like(far)
    for k in range(1, 24):
        term = term * (4 * n * n - (2 * k - 1) ** 2) / (8 * k * far)
        part = odd if k % 2 else even
        part += term if k % 4 in (0, 1) else -term
    phase = far - (n / 2 + 0.25) * math.pi
    value = torch.sqrt(2 / (math.pi * far)) * (torch.cos(phase) * even - torch.sin(phase) * odd)
    value = torch.where((wide < 0) & (n % 2 == 1), -value, value)
    value = torch.where(wide.abs() <= 25, total / steps, value)
    value = torch.where(wide.abs() <= 3, series, value)
    # The sum of a negative zero and a positive one is not negative.
    return (torch.where(wide == 0, wide, value) if n == 1 else value).to(x.dtype)


def _in_float64(function: Function) -> Function:
    """As SciPy does it: torch's own in float32 loses digits near the zeros."""
    return lambda *operands: function(*(x.to(torch.float64) for x in operands)).to(operands[0].dtype)


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x < math.log(0.5), torch.log1p(-torch.exp(x)), torch.log(-torch.expm1(x)))


def _softplus(x: torch.Tensor) -> torch.Tensor:
    # Beyond 37 it is x in float64 too; torch's own bound is 20.
    return torch.nn.functional.softplus(x, threshold=37)


_ANY: dict[type[ScalarOp], Function] = {
    ps.Clip: _clip,
    ps.Real: torch.clone,
    ps.Conj: torch.clone,
    ps.Imag: torch.zeros_like,
}
"""Functions of any dtype but the complex ones."""

_FLOAT: dict[type[ScalarOp], Function] = {
    ps.Mod: _float_remainder,
    ps.Sign: _sign,
    ps.Log10: torch.log10,
    ps.Exp2: torch.exp2,
    ps.ArcCos: torch.acos,
    ps.ArcSin: torch.asin,
    ps.Tan: torch.tan,
    ps.ArcTan: torch.atan,
    ps.ArcTan2: torch.atan2,
    ps.Cosh: torch.cosh,
    ps.ArcCosh: torch.acosh,
    ps.Sinh: torch.sinh,
    ps.ArcSinh: torch.asinh,
    ps.ArcTanh: torch.atanh,
    ps.Trunc: torch.trunc,
    ps.RoundHalfAwayFromZero: _round_half_away_from_zero,
    ps.Erfc: torch.erfc,
    ps.Erfcx: _in_float64(torch.special.erfcx),
    ps.Erfinv: _in_float64(lambda x: torch.erfinv(x) + 0.0),
    ps.Erfcinv: _in_float64(lambda x: -torch.special.ndtri(x / 2) / math.sqrt(2)),
    ps.Gamma: _gamma,
    ps.GammaLn: _in_float64(lambda x: torch.where(x == -math.inf, x, torch.lgamma(x))),
    ps.Psi: _in_float64(torch.digamma),
    ps.TriGamma: _in_float64(lambda x: _polygamma(1, x)),
    ps.GammaInc: _in_float64(_LOWER),
    ps.GammaIncC: _in_float64(_UPPER),
    ps.J0: lambda x: _bessel_j(0, x),
    ps.J1: lambda x: _bessel_j(1, x),
    ps.I0: _in_float64(torch.special.i0),
    ps.I1: _in_float64(torch.special.i1),
    ps.Softplus: _softplus,
    ps.Log1mexp: _log1mexp,
    MulWithoutZeros: _without_zeros,
    **those_of(ps, Deg2Rad=torch.deg2rad, Rad2Deg=torch.rad2deg),
    **those_of(
        special,
        GammaU=_in_float64(lambda k, x: _UPPER(k, x) * _gamma(k)),
        GammaL=_in_float64(lambda k, x: _LOWER(k, x) * _gamma(k)),
    ),
}
"""Functions whose operands have the floating dtype of their result."""

_OF_ORDER: dict[type[ScalarOp], tuple[Function, Function]] = {
    ps.Ive: (torch.special.i0e, torch.special.i1e),
    ps.Kve: (torch.special.scaled_modified_bessel_k0, torch.special.scaled_modified_bessel_k1),
}
"""Bessel functions of order 0 or 1: torch has no others."""

MOST_ORDER = 8
"""The integer order up to which J is computed."""

_COMPLEX: dict[type[ScalarOp], Function] = {
    ps.Add: torch.add,
    ps.Sub: torch.sub,
    ps.Mul: torch.mul,
    ps.TrueDiv: torch.true_divide,
    ps.Neg: torch.neg,
    ps.Sqr: torch.square,
    ps.Sqrt: torch.sqrt,
    ps.Reciprocal: torch.reciprocal,
    ps.Exp: torch.exp,
    ps.Log: torch.log,
    ps.Sin: torch.sin,
    ps.Cos: torch.cos,
    ps.Conj: torch.conj_physical,
}


def _polar(radius: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    if bool((radius < 0).any()):
        raise ValueError("polar radius must be non-negative")
    return torch.complex(radius * torch.cos(angle), radius * torch.sin(angle))


_OF_COMPLEX: dict[type[ScalarOp], Function] = {
    ps.Abs: torch.abs,
    ps.Real: lambda x: torch.real(x).clone(),
    ps.Imag: lambda x: torch.imag(x).clone(),
    **those_of(ps, Angle=torch.angle),
}
"""Real functions of complex numbers."""

_FROM_PARTS: dict[type[ScalarOp], Function] = {
    ps.Complex: torch.complex,
    **those_of(ps, ComplexFromPolar=_polar),
}
"""Complex functions of two real numbers."""


def _of_order(kind: type[ScalarOp], order: np.ndarray | None) -> Function | None:
    """A function of an order and a number, if the order is known and there is one for it."""
    if order is None or order.size == 0 or (order != order.flat[0]).any() or order.flat[0] % 1:
        return None
    number = int(order.flat[0])
    function: Function | None = None
    if kind is ps.PolyGamma and number >= 0:
        function = _in_float64(lambda x: _polygamma(number, x))
    elif kind is ps.Jv and abs(number) <= MOST_ORDER:
        sign = -1 if number < 0 and number % 2 else 1
        function = lambda x: sign * _bessel_j(abs(number), x)  # noqa: E731
    elif kind in _OF_ORDER and number in (0, 1):
        function = _in_float64(_OF_ORDER[kind][number])
    if function is None:
        return None
    return lambda v, x: torch.broadcast_tensors(v, function(x))[1].clone()


def scalar_function(node: Apply, order: np.ndarray | None = None) -> tuple[Function, list[str]]:
    """The function that computes a scalar op's node on tensors.

    Parameters
    ----------
    node : Apply
        Of a scalar op with one output.
    order : numpy.ndarray, optional
        The value of the first operand, if it is known: of some functions it is the order.

    Returns
    -------
    function : callable
        From its operands to a new tensor of the dtype of ``node.outputs[0]``. Operands are broadcast; of an op with
        any number of them it takes two.
    dtypes : list of str
        The dtype that each operand must have.

    Raises
    ------
    Unsupported
        If there is none: one line that names the op.

    Examples
    --------
    >>> x = ps.uint16("x")
    >>> function, dtypes = scalar_function(ps.add(x, x).owner)
    >>> function(torch.tensor(65535, dtype=torch.uint16), torch.tensor(2, dtype=torch.uint16)), dtypes
    (tensor(1, dtype=torch.uint16), ['uint16', 'uint16'])
    """
    kind, operands, dtype = type(node.op), [v.type.dtype for v in node.inputs], node.outputs[0].type.dtype
    is_complex = any(d.startswith("complex") for d in [*operands, dtype])
    if kind in (ps.EQ, ps.NEQ) or (kind in _COMPARISON and not is_complex):
        return comparison(kind, operands)
    if is_complex:
        found = _of_complex(kind, operands, dtype)
    else:
        found = _of_real(kind, operands, dtype, order)
    if found is None:
        name = node.op.name or kind.__name__
        raise Unsupported(f"{name} of {', '.join(operands)}", "torch has no such function")
    return found


def _of_complex(kind: type[ScalarOp], operands: list[str], dtype: str) -> tuple[Function, list[str]] | None:
    if kind in _COMPLEX:
        return _COMPLEX[kind], [dtype] * len(operands)
    if kind in _OF_COMPLEX:
        function, result = _OF_COMPLEX[kind], torch_dtype(dtype)
        return lambda x: function(x).to(result), operands
    if kind in _FROM_PARTS:
        return _FROM_PARTS[kind], ["float64" if dtype == "complex128" else "float32"] * 2
    return None


def _of_real(
    kind: type[ScalarOp], operands: list[str], dtype: str, order: np.ndarray | None
) -> tuple[Function, list[str]] | None:
    result, same = torch_dtype(dtype), [dtype] * len(operands)
    if kind is ps.IsNan:
        return torch.isnan, operands
    if kind is ps.IsInf:
        return torch.isinf, operands
    if kind in those_of(ps, Angle=None):
        # NumPy's own choice: half precision for 8 bits, single for 16.
        part = np.arctan2(0, np.empty(0, operands[0])).dtype.name
        return lambda x: torch.atan2(torch.zeros_like(x), x).to(result), [part]
    if kind in _ANY:
        return _ANY[kind], same
    if kind in _ORDER:
        extreme = _ORDER[kind]
        return lambda x, y: unordered(extreme(ordered(x), ordered(y)), result), same
    function: Function | None
    if dtype == "bool":
        function = _BOOLEAN.get(kind)
    elif dtype.startswith("float"):
        of_order = kind in (*_OF_ORDER, ps.Jv, ps.PolyGamma)
        function = _of_order(kind, order) if of_order else _FLOAT.get(kind)
        if function is not None and dtype == "float16":
            function = _in(torch.float32, function, result)
    else:
        function = (_INTEGER | _INTEGER_64 if dtype == "uint64" else _INTEGER).get(kind)
        if function is not None and result in COMPUTED:
            function = _in(COMPUTED[result], function, result)
    return None if function is None else (function, same)
