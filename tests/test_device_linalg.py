"""Linear algebra, of one matrix and of batches, against PyTensor's interpreter."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from interpreter import assert_as_interpreted, difference, on_device
from pytensor.compile.mode import Mode
from pytensor.tensor import linalg
from pytensor.tensor.linalg.decomposition.lu import PivotToPermutations
from pytensor.tensor.linalg.inverse import tensorinv
from pytensor.tensor.linalg.solvers.lstsq import lstsq, tensorsolve

from theanompi import device

MODE = device.mode("cpu")
REFERENCE = Mode(linker="py", optimizer=None)
RELATIVE = {"float32": 2e-4, "float64": 1e-9}
N = 4


def matrices(dtype: str, *shape: int) -> np.ndarray:
    """Well-conditioned matrices of a shape, which integers hold too."""
    rng = np.random.default_rng(sum(shape))
    values = rng.integers(-3, 4, shape) + 9 * np.eye(*shape[-2:], dtype=int)
    return (abs(values) if dtype.startswith(("uint", "bool")) else values).astype(dtype)


def compare(
    inputs: Sequence[Any], outputs: Sequence[Any], values: Sequence[np.ndarray], absolute: bool = False
) -> None:
    """Fail unless the compiled functions agree, up to signs with `absolute`."""
    reference = pytensor.function(inputs, outputs, mode=REFERENCE)(*values)
    results = pytensor.function(inputs, outputs, mode=MODE)(*values)
    for k, (got, expected, v) in enumerate(zip(results, reference, outputs, strict=True)):
        expected = np.asarray(expected).astype(v.dtype)
        got, expected = (abs(got), abs(expected)) if absolute else (got, expected)
        message = difference(got, expected, RELATIVE.get(v.dtype))
        assert not message, f"output {k} of {v.owner}: {message}"


OF_ONE: dict[str, Callable[[Any], Any]] = {
    "inv": linalg.inv,
    "pinv": linalg.pinv,
    "pinv of a hermitian": lambda x: linalg.pinv(x @ x.mT, hermitian=True),
    "det": linalg.det,
    "slogdet": lambda x: list(linalg.slogdet(x)),
    "expm": lambda x: linalg.expm(x / 10),
    "lu": lambda x: list(linalg.lu(x)),
    "lu with indices": lambda x: list(linalg.lu(x, p_indices=True)),
    "lu permuted": lambda x: list(linalg.lu(x, permute_l=True)),
    "lu_factor": lambda x: list(linalg.lu_factor(x)),
    "cholesky": lambda x: linalg.cholesky(x @ x.mT),
    "cholesky of the upper triangle": lambda x: linalg.cholesky(
        pt.triu(x @ x.mT) + 7 * pt.tril(x, -1), lower=False
    ),
    "cholesky of the lower triangle": lambda x: linalg.cholesky(pt.tril(x @ x.mT) + 7 * pt.triu(x, 1)),
    "qr": lambda x: list(linalg.qr(x)),
    "qr economic": lambda x: list(linalg.qr(x[..., :2], mode="economic")),
    "qr full": lambda x: list(linalg.qr(x[..., :2], mode="full")),
    "qr r": lambda x: linalg.qr(x[..., :2], mode="r"),
    "qr r wide": lambda x: linalg.qr(x[..., :2, :], mode="r"),
    "qr raw": lambda x: list(linalg.qr(x[..., :2], mode="raw")),
    "svd": lambda x: linalg.svd(x[..., :3], compute_uv=False),
    "eigvalsh": lambda x: linalg.eigvalsh(x, None, lower=True),
    "eigvalsh of the upper triangle": lambda x: linalg.eigvalsh(x, None, lower=False),
    "norm": lambda x: [linalg.norm(x, o, axis=(-2, -1)) for o in ("fro", "nuc", 1, -1, 2, -2, np.inf)],
    "matrix_power": lambda x: linalg.matrix_power(x / 8, 3),
    "block_diag": lambda x: linalg.block_diag(x, x[..., :2], 2 * x[..., :1, :]),
}
# PyTensor's own functions or rewrites take no more axes.
NOT_BEYOND = {"slogdet": 2, "matrix_power": 2, "norm": 3}


@pytest.mark.parametrize("name", OF_ONE)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_functions_of_one_matrix_and_of_batches(name: str, dtype: str) -> None:
    for shape in ((N, N), (2, N, N), (2, 1, N, N)):
        if len(shape) > NOT_BEYOND.get(name, 4):
            continue
        x = pt.tensor("x", dtype=dtype, shape=(None,) * len(shape))
        if name == "lu_factor" and dtype[0] != "f":
            with pytest.raises(NotImplementedError, match="LUFactor.*not supported on the device: of u?int"):
                pytensor.function([x], OF_ONE[name](x), mode=MODE)
            return
        y = OF_ONE[name](x)
        compare([x], y if isinstance(y, list) else [y], [matrices(dtype, *shape)])


@pytest.mark.parametrize("b_ndim", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_systems_of_equations(dtype: str, b_ndim: int) -> None:
    a = pt.tensor3("a", dtype=dtype)
    b = pt.tensor("b", dtype=dtype, shape=(2,) + (None,) * b_ndim)
    kinds = ["gen", "sym", "her", "pos", "banded", "lower triangular"]
    outputs = []
    for x in (a, a[0]):
        for lower in (False, True):
            outputs += [linalg.solve(x @ x.mT, b, assume_a=k, lower=lower, b_ndim=b_ndim) for k in kinds]
            outputs += [
                linalg.solve_triangular(x, b, lower=lower, trans=trans, unit_diagonal=unit, b_ndim=b_ndim)
                for trans in (0, 1)
                for unit in (False, True)
            ]
            outputs.append(
                linalg.cho_solve((linalg.cholesky(x @ x.mT, lower=lower), lower), b, b_ndim=b_ndim)
            )
        outputs.append(linalg.solve(x, b, assume_a="tridiagonal", b_ndim=b_ndim))
        # Of a batch of vectors PyTensor's own graph for a diagonal matrix is wrong.
        if b_ndim == 2:
            outputs.append(linalg.solve(x * np.eye(N, dtype=dtype), b, assume_a="diagonal", b_ndim=b_ndim))
    values = matrices(dtype, 2, N, N)
    rhs = np.random.default_rng(0).integers(-5, 6, (2, N, 3)[: 1 + b_ndim]).astype(dtype)
    compare([a, b], outputs, [values, rhs])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lu_factors_solve(dtype: str) -> None:
    a, b = pt.matrix("a", dtype=dtype), pt.matrix("b", dtype=dtype)
    outputs = [linalg.lu_solve(linalg.lu_factor(a), b, trans=trans) for trans in (False, True)]
    values = np.random.default_rng(4).normal(size=(N, N)).astype(dtype)
    compare([a, b], outputs, [values, matrices(dtype, N, 3)])
    pivots = pt.ivector()
    for inverse in (False, True):
        assert_as_interpreted(
            PivotToPermutations(inverse=inverse)(pivots).owner, [np.array([2, 2, 3, 3], "int32")]
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 4, 4)])
def test_singular_and_eigenvectors_make_the_matrix_again(dtype: str, shape: tuple[int, ...]) -> None:
    x = pt.tensor("x", dtype=dtype, shape=(None,) * len(shape))
    value = np.random.default_rng(1).normal(size=shape).astype(dtype)
    for full in (False, True):
        u, s, vh = linalg.svd(x, full_matrices=full)
        compare([x], [abs(u[..., :3]), s, abs(vh[..., :3, :])], [value])
        k = min(shape[-2:])
        again = (u[..., :k] * s[..., None, :]) @ vh[..., :k, :]
        compare([x], [again], [value])
    symmetric = x @ x.mT
    for lower in (False, True):
        w, v = linalg.eigh(symmetric, lower=lower)
        compare([x], [w[..., -3:], (v * w[..., None, :]) @ v.mT], [value])


def test_eigenvalues_of_any_matrix_are_complex() -> None:
    x = pt.tensor3("x", dtype="float32")
    w, v = linalg.eig(x)
    f = pytensor.function([x], [w, v], mode=MODE)
    value = matrices("float32", 2, N, N)
    values, vectors = f(value)
    assert (values.dtype, vectors.dtype) == ("complex64", "complex64")
    np.testing.assert_allclose(value @ vectors, vectors * values[:, None], rtol=1e-4, atol=1e-4)
    expected = np.sort_complex(np.linalg.eigvals(value.astype("float64")))
    np.testing.assert_allclose(np.sort_complex(values), expected, rtol=1e-4)


def test_what_has_no_solution_is_nan_or_an_error_as_in_pytensor() -> None:
    x = pt.tensor3("x", dtype="float64")
    value = np.stack([np.eye(3), np.zeros((3, 3)), np.diag([1.0, -2.0, 3.0])])
    b = pt.constant(np.ones((3, 2)))
    outputs = [linalg.solve_triangular(x, b), linalg.solve_triangular(x, b, unit_diagonal=True)]
    outputs += [linalg.cholesky(x, on_error="nan"), linalg.lu_factor(x)[0]]
    compare([x], outputs, [value])
    solved = pytensor.function([x], linalg.solve(x, b), mode=MODE)(value)
    assert np.isnan(solved[1]).all()
    np.testing.assert_allclose(solved[[0, 2]], np.linalg.solve(value[[0, 2]], np.ones((3, 2))))
    with pytest.raises(np.linalg.LinAlgError, match="Singular matrix"):
        pytensor.function([x], linalg.inv(x), mode=MODE)(value)
    with pytest.raises(np.linalg.LinAlgError, match="expected square matrices, got 3 by 2"):
        pytensor.function([x], linalg.inv(x), mode=MODE)(value[..., :2])
    with pytest.raises(np.linalg.LinAlgError):
        pytensor.function([x], linalg.svd(x)[1], mode=MODE)(value * np.nan)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_is_not_finite_has_no_eigenvalues_and_no_factors(bad: float) -> None:
    x = pt.dmatrix("x")
    for function in (linalg.eigh, partial(linalg.eigvalsh, b=None), linalg.lu):
        for mode in (MODE, REFERENCE):
            with pytest.raises(ValueError, match="array must not contain infs or NaNs"):
                pytensor.function([x], function(x), mode=mode)(np.array([[1.0, bad], [0.5, 2.0]]))


def test_nothing_in_is_nothing_out() -> None:
    x, b = pt.matrix("x", dtype="float64"), pt.matrix("b", dtype="float64")
    outputs = [linalg.inv(x), linalg.det(x), linalg.cholesky(x), linalg.solve_triangular(x, b)]
    compare([x, b], [*outputs, linalg.cho_solve((x, True), b)], [np.zeros((0, 0)), np.zeros((0, 2))])


@pytest.mark.parametrize("rank", [3, 2])
def test_least_squares(rank: int) -> None:
    a, y, rcond = pt.dmatrix(), pt.dmatrix(), pt.dscalar()
    rng = np.random.default_rng(rank)
    value = rng.normal(size=(5, rank)) @ rng.normal(size=(rank, 3))
    for r in (1e-8, -1.0):
        node = lstsq(a, y, rcond)[0].owner
        if r > 0 or rank == 3:
            assert_as_interpreted(node, [value, rng.normal(size=(5, 2)), np.array(r)], 1e-9)


def test_tensor_equations() -> None:
    a, b = pt.tensor4("a", dtype="float64"), pt.matrix("b", dtype="float64")
    value = (np.random.default_rng(3).normal(size=(24, 24)) + 9 * np.eye(24)).reshape(4, 6, 8, 3)
    assert_as_interpreted(tensorinv(a).owner, [value], 1e-9)
    assert_as_interpreted(tensorsolve(a, b).owner, [value, np.ones((4, 6))], 1e-9)


GRADIENTS: dict[str, Callable[[Any], Any]] = {
    "inv": lambda x: linalg.inv(x).sum(),
    "pinv": lambda x: (linalg.pinv(x[:, :2]) ** 2).sum(),
    "det": lambda x: pt.log(abs(linalg.det(x))),
    "slogdet": lambda x: linalg.slogdet(x)[1],
    "cholesky": lambda x: (linalg.cholesky(x @ x.T) ** 3).sum(),
    "cholesky of the upper triangle": lambda x: (linalg.cholesky(x @ x.T, lower=False) ** 3).sum(),
    "solve": lambda x: (linalg.solve(x, x[0] + 1) ** 2).sum(),
    "solve positive": lambda x: (linalg.solve(x @ x.T, x, assume_a="pos") ** 2).sum(),
    "solve_triangular": lambda x: (linalg.solve_triangular(x, x + 1, lower=True) ** 2).sum(),
    "cho_solve": lambda x: (linalg.cho_solve((linalg.cholesky(x @ x.T), True), x) ** 2).sum(),
    "lu": lambda x: sum((y**2).sum() for y in linalg.lu(x)[1:]),
    "svd": lambda x: (linalg.svd(x, compute_uv=False) ** 3).sum(),
    "eigh": lambda x: (linalg.eigh(x @ x.T)[0] ** 2).sum() + (linalg.eigh(x @ x.T)[1] ** 2)[0].sum(),
    "expm": lambda x: linalg.expm(x / 5).sum(),
    "norm": lambda x: linalg.norm(x, "nuc", axis=(0, 1)),
    "block_diag": lambda x: (linalg.block_diag(x, x**2) ** 2).sum(),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name: str) -> None:
    x = pt.matrix("x", dtype="float64")
    value = matrices("float64", N, N) + np.random.default_rng(5).normal(size=(N, N))
    compare([x], [pytensor.grad(GRADIENTS[name](x), x)], [value])


def test_gradients_of_a_batch() -> None:
    x = pt.tensor3("x", dtype="float64")
    factor = linalg.cholesky(x @ x.mT)
    cost = (linalg.solve_triangular(factor, x[..., 0], lower=True, b_ndim=1) ** 2).sum() + linalg.inv(x).sum()
    compare([x], [pytensor.grad(cost, x)], [matrices("float64", 3, N, N)])


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: linalg.qr(x, pivoting=True)[0], "QR"),
        (lambda x: linalg.eigh(x, x @ x.T)[0], "Eigh"),
        (lambda x: linalg.schur(x)[0], "Schur"),
        (lambda x: lstsq(x, x[0], 1e-6)[0], "Lstsq: not supported on the device: of a vector"),
    ],
)
def test_what_torch_lacks_is_refused_by_name(function: Any, name: str) -> None:
    x = pt.matrix("x", dtype="float64")
    with pytest.raises(NotImplementedError, match=name):
        pytensor.function([x], function(x), mode=MODE)


def test_a_batch_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Size] = []
    det = torch.linalg.det
    monkeypatch.setattr(torch.linalg, "det", lambda x: (calls.append(x.shape), det(x))[1])
    x = pt.tensor3("x", dtype="float64")
    (got,) = on_device(linalg.det(x).owner, [np.tile(2 * np.eye(3), (300, 1, 1))])
    np.testing.assert_allclose(got, np.full(300, 8.0))
    assert calls == [(300, 3, 3)]


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_any_diagonal_of_a_block_matrix_is_its_own(offset: int) -> None:
    """PyTensor's rewrite gives the main one for all."""
    x, value = pt.matrix("x"), np.arange(1.0, 5.0).reshape(2, 2)
    blocks = np.block([[value, np.zeros((2, 2))], [np.zeros((2, 2)), value]])
    diagonal = pytensor.function(
        [x], pt.diagonal(pt.linalg.block_diag(x, x), offset=offset), mode=device.mode("cpu")
    )
    np.testing.assert_array_equal(diagonal(value), np.diagonal(blocks, offset))
