"""Linear algebra: the same function for one matrix and, under PyTensor's `Blockwise`, for a batch of them.

What cannot be solved or factorised is an error or NaN exactly where it is in PyTensor, which asks LAPACK through NumPy
and SciPy. Eigenvectors and singular vectors are unique up to their sign only.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.tensor.linalg.constructors import BlockDiagonal
from pytensor.tensor.linalg.decomposition.cholesky import Cholesky
from pytensor.tensor.linalg.decomposition.eigen import Eig, Eigh, Eigvalsh
from pytensor.tensor.linalg.decomposition.lu import LU, LUFactor, PivotToPermutations
from pytensor.tensor.linalg.decomposition.qr import QR
from pytensor.tensor.linalg.decomposition.svd import SVD
from pytensor.tensor.linalg.inverse import MatrixInverse, MatrixPinv, TensorInv
from pytensor.tensor.linalg.products import Expm
from pytensor.tensor.linalg.solvers.general import Solve
from pytensor.tensor.linalg.solvers.lstsq import Lstsq, TensorSolve
from pytensor.tensor.linalg.solvers.psd import CholeskySolve
from pytensor.tensor.linalg.solvers.triangular import SolveTriangular
from pytensor.tensor.linalg.summary import Det, SLogDet

from theanompi.device.dispatch.base import batched_function, torch_function
from theanompi.device.ops.base import Context
from theanompi.device.scalars import torch_dtype
from theanompi.device.unsupported import Unsupported

Function = Callable[..., Any]
Rule = Callable[[Any, Apply, Context], Function]


def _register(*ops: type[Op]) -> Callable[[Rule], Rule]:
    """Register a rule for one matrix and for a batch: its function takes any axes before those of the core op."""

    def register(rule: Rule) -> Rule:
        for op in ops:
            torch_function.register(op)(rule)
            batched_function.register(op)(rule)
        return rule

    return register


def _dtype(node: Apply, output: int = 0) -> torch.dtype:
    """The floating dtype of an output, which the computation is in."""
    dtype = node.outputs[output].type.dtype
    if not dtype.startswith(("float", "complex")):
        raise Unsupported(str(node.op), f"of {dtype}; cast to float64")
    return torch_dtype(dtype)


def _is_complex(node: Apply) -> bool:
    return any(v.type.dtype.startswith("complex") for v in node.inputs)


def _square(x: torch.Tensor) -> None:
    if x.shape[-1] != x.shape[-2]:
        raise np.linalg.LinAlgError(f"expected square matrices, got {x.shape[-2]} by {x.shape[-1]}")


def _numpy_errors(function: Function) -> Function:
    """The function with NumPy's error where LAPACK does not converge."""

    def raising(*inputs: torch.Tensor) -> Any:
        try:
            return function(*inputs)
        except torch.linalg.LinAlgError as error:
            raise np.linalg.LinAlgError(str(error)) from None

    return raising


def _finite(x: torch.Tensor) -> None:
    """SciPy's error where LAPACK gives some values all the same."""
    if not bool(torch.isfinite(x).all()):
        raise ValueError("array must not contain infs or NaNs")


def _nan_where(failed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Matrices with NaN in place of those that failed."""
    return torch.where(failed[..., None, None], torch.nan, x)


@_register(MatrixInverse)
def _matrix_inverse(op: MatrixInverse, node: Apply, context: Context) -> Function:
    dtype = _dtype(node)

    def inverse(x: torch.Tensor) -> torch.Tensor:
        _square(x)
        inverted, info = torch.linalg.inv_ex(x.to(dtype))
        if bool((info != 0).any()):
            raise np.linalg.LinAlgError("Singular matrix")
        return inverted

    return inverse


@_register(MatrixPinv)
def _matrix_pinv(op: MatrixPinv, node: Apply, context: Context) -> Function:
    dtype = _dtype(node)
    # NumPy's bound on the singular values, which torch's is not.
    return _numpy_errors(lambda x: torch.linalg.pinv(x.to(dtype), rtol=1e-15, hermitian=op.hermitian))


@_register(Det)
def _det(op: Det, node: Apply, context: Context) -> Function:
    dtype = _dtype(node)
    return lambda x: torch.linalg.det(x.to(dtype))


@_register(SLogDet)
def _s_log_det(op: SLogDet, node: Apply, context: Context) -> Function:
    dtype = _dtype(node)
    return lambda x: tuple(torch.linalg.slogdet(x.to(dtype)))


@_register(Expm)
def _expm(op: Expm, node: Apply, context: Context) -> Function:
    dtype = _dtype(node)
    return lambda x: torch.linalg.matrix_exp(x.to(dtype))


def _cholesky(x: torch.Tensor, lower: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The factor of each matrix, of which one triangle is read, and where there is none."""
    _square(x)
    factor, info = torch.linalg.cholesky_ex(x if lower else x.mH)
    return factor if lower else factor.mH, info != 0


@_register(Cholesky)
def _cholesky_function(op: Cholesky, node: Apply, context: Context) -> Function:
    dtype = _dtype(node)

    def cholesky(x: torch.Tensor) -> torch.Tensor:
        factor, failed = _cholesky(x.to(dtype), op.lower)
        return _nan_where(failed, factor)

    return cholesky


def _solving(op: Any, node: Apply, solve: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Function:
    """The function of a matrix and of right-hand sides that are vectors or matrices."""
    dtype = _dtype(node)

    def function(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        _square(a)
        b = b[..., None] if op.b_ndim == 1 else b
        if a.shape[-1] != b.shape[-2]:
            raise ValueError(f"incompatible dimensions: {tuple(a.shape)} and {tuple(b.shape)}")
        x = solve(a.to(dtype), b.to(dtype))
        return x[..., 0] if op.b_ndim == 1 else x

    return function


@_register(SolveTriangular)
def _solve_triangular(op: SolveTriangular, node: Apply, context: Context) -> Function:
    def solve(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        x = torch.linalg.solve_triangular(a, b, upper=not op.lower, unitriangular=op.unit_diagonal)
        if op.unit_diagonal:
            return x
        return _nan_where((a.diagonal(0, -2, -1) == 0).any(-1), x)

    return _solving(op, node, solve)


@_register(CholeskySolve)
def _cholesky_solve(op: CholeskySolve, node: Apply, context: Context) -> Function:
    return _solving(op, node, lambda c, b: torch.cholesky_solve(b, c, upper=not op.lower))


def _solve(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    x, info = torch.linalg.solve_ex(a, b)
    return _nan_where(info != 0, x)


@_register(Solve)
def _solve_function(op: Solve, node: Apply, context: Context) -> Function:
    if _is_complex(node) and op.assume_a != "gen":
        raise Unsupported(str(op), "of complex numbers")

    def positive(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        factor, failed = _cholesky(a, op.lower)
        return _nan_where(failed, torch.cholesky_solve(b, factor, upper=not op.lower))

    def symmetric(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a = a if op.lower else a.mT
        return _solve(a.tril() + a.tril(-1).mT, b)

    solvers = {"pos": positive, "sym": symmetric, "her": symmetric}
    solvers |= {"tridiagonal": lambda a, b: _solve(a.tril(1).triu(-1), b)}
    return _solving(op, node, solvers.get(op.assume_a, _solve))


@_register(LU)
def _lu(op: LU, node: Apply, context: Context) -> Function:
    dtype = _dtype(node, 1)

    def lu(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        _finite(x)
        permutation, lower, upper = torch.linalg.lu(x.to(dtype))
        if op.permute_l:
            return permutation @ lower, upper
        if op.p_indices:
            return permutation.real.argmax(-1).to(torch.int32), lower, upper
        return permutation.real, lower, upper

    return lu


@_register(LUFactor)
def _lu_factor(op: LUFactor, node: Apply, context: Context) -> Function:
    dtype = _dtype(node)

    def lu_factor(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        factors, pivots, info = torch.linalg.lu_factor_ex(x.to(dtype))
        # LAPACK counts from 1, SciPy from 0.
        return _nan_where(info != 0, factors), pivots - 1

    return lu_factor


@torch_function.register(PivotToPermutations)
def _pivot_to_permutations(op: PivotToPermutations, node: Apply, context: Context) -> Function:
    def permutation(pivots: torch.Tensor) -> torch.Tensor:
        order = list(range(len(pivots)))
        for i, j in enumerate(pivots.tolist()):
            order[i], order[j] = order[j], order[i]
        inverse = torch.tensor(order, dtype=torch.int64, device=context.device)
        return inverse if op.inverse else torch.argsort(inverse)

    return permutation


@_register(QR)
def _qr(op: QR, node: Apply, context: Context) -> Function:
    dtype = _dtype(node)
    if op.pivoting:
        raise Unsupported(str(op), "torch does not pivot")

    def raw(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        factors, tau = torch.geqrf(x.to(dtype))
        return factors, tau, factors[..., : min(x.shape[-2:]), :].triu()

    def only_r(x: torch.Tensor) -> torch.Tensor:
        r = torch.linalg.qr(x.to(dtype), mode="r").R
        return torch.nn.functional.pad(r, (0, 0, 0, x.shape[-2] - r.shape[-2]))

    if op.mode == "raw":
        return raw
    if op.mode == "r":
        return only_r
    mode = {"full": "complete", "economic": "reduced"}[op.mode]
    return lambda x: tuple(torch.linalg.qr(x.to(dtype), mode=mode))


@_register(SVD)
def _svd(op: SVD, node: Apply, context: Context) -> Function:
    dtype = torch_dtype(np.result_type(*(v.type.dtype for v in node.outputs)).name)
    if not op.compute_uv:
        if _is_complex(node):
            return _numpy_errors(torch.linalg.svdvals)
        return _numpy_errors(lambda x: torch.linalg.svdvals(x.to(dtype)))
    return _numpy_errors(lambda x: tuple(torch.linalg.svd(x.to(dtype), full_matrices=op.full_matrices)))


@_register(Eigh, Eigvalsh)
def _eigh(op: Eigh | Eigvalsh, node: Apply, context: Context) -> Function:
    dtype, triangle = _dtype(node), "L" if op.lower else "U"
    if len(node.inputs) > 1:
        raise Unsupported(str(op), "torch has no generalized eigenvalue problem")
    if _is_complex(node):
        raise Unsupported(str(op), "of complex numbers")

    def eigh(x: torch.Tensor) -> Any:
        _square(x)
        _finite(x)
        if isinstance(op, Eigvalsh):
            return torch.linalg.eigvalsh(x.to(dtype), UPLO=triangle)
        return tuple(torch.linalg.eigh(x.to(dtype), UPLO=triangle))

    return _numpy_errors(eigh)


@_register(Eig)
def _eig(op: Eig, node: Apply, context: Context) -> Function:
    dtype = _dtype(node)
    computed = dtype if _is_complex(node) else dtype.to_real()
    return _numpy_errors(lambda x: tuple(torch.linalg.eig(x.to(computed))))


@_register(BlockDiagonal)
def _block_diagonal(op: BlockDiagonal, node: Apply, context: Context) -> Function:
    dtype = torch_dtype(node.outputs[0].type.dtype)

    def block_diagonal(*blocks: torch.Tensor) -> torch.Tensor:
        rows, columns = (sum(b.shape[axis] for b in blocks) for axis in (-2, -1))
        whole = torch.zeros(*blocks[0].shape[:-2], rows, columns, dtype=dtype, device=context.device)
        row = column = 0
        for b in blocks:
            whole[..., row : row + b.shape[-2], column : column + b.shape[-1]] = b
            row, column = row + b.shape[-2], column + b.shape[-1]
        return whole

    return block_diagonal


@torch_function.register(Lstsq)
def _lstsq(op: Lstsq, node: Apply, context: Context) -> Function:
    if node.inputs[1].type.ndim != 2:
        raise Unsupported(
            str(op), "of a vector, whose solution PyTensor takes for a matrix; give it a matrix"
        )

    def lstsq(a: torch.Tensor, b: torch.Tensor, rcond: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a, b = a.to(torch.float64), b.to(torch.float64)
        u, s, vh = torch.linalg.svd(a, full_matrices=False)
        bound = float(rcond) if float(rcond) >= 0 else torch.finfo(torch.float64).eps
        kept = s > bound * s.max() if s.numel() else s > 0
        x = vh.mT @ (torch.where(kept, 1 / s, 0)[:, None] * (u.mT @ b))
        rank = kept.sum().to(torch.int32)
        full = int(rank) == a.shape[1] < a.shape[0]
        residuals = ((b - a @ x) ** 2).sum(0) if full else b.new_empty(0)
        return x, residuals, rank, s

    return _numpy_errors(lstsq)


@torch_function.register(TensorInv)
def _tensor_inv(op: TensorInv, node: Apply, context: Context) -> Function:
    dtype = _dtype(node)
    return _numpy_errors(lambda a: torch.linalg.tensorinv(a.to(dtype), op.ind))


@torch_function.register(TensorSolve)
def _tensor_solve(op: TensorSolve, node: Apply, context: Context) -> Function:
    dtype = _dtype(node)
    return _numpy_errors(lambda a, b: torch.linalg.tensorsolve(a.to(dtype), b.to(dtype), dims=op.axes))
