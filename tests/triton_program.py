"""Every Triton kernel in Triton's interpreter, against float64 NumPy: one line of JSON for each case.

In a process of its own: TRITON_INTERPRET=1 counts when Triton is imported. New memory is filled with NaN.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytensor
import torch
from pytensor.scalar.basic import Composite
from pytensor.tensor.basic import Alloc
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.type import TensorType

from theanompi import device
from theanompi.device import ops
from theanompi.device.elemwise import _Expression
from theanompi.device.fusion import GPU_TAG
from theanompi.device.ops import norm as norms
from theanompi.device.ops.activation import Relu, ReluGrad
from theanompi.device.ops.base import Context
from theanompi.device.ops.fused import (
    BiasedRelu,
    BiasedReluGrad,
    BlockEnd,
    JoinedBatchNormGrad,
    NormalizedCrop,
    PooledBatchNorm,
    PooledBatchNormGrad,
)
from theanompi.device.ops.norm import BatchNormGrad
from theanompi.device.ops.pool import MaxPoolPlaces, MaxPoolPlacesGrad
from theanompi.device.triton import crop, elemwise, norm, pool

Arrays = dict[str, np.ndarray]
EPSILON = 1e-3
RANDOM = np.random.default_rng(0)
# Several tiles of rows and of channels, the last ones cut; a single row; one channel.
SHAPES = [(2, 70, 11, 9), (396, 3), (1, 16), (5, 1)]


def tensor(shape: tuple[int, ...], dtype: torch.dtype, mean: float = 0) -> torch.Tensor:
    values = torch.from_numpy(RANDOM.normal(mean, 1, shape).astype(np.float32)).to(dtype)
    return values.contiguous(memory_format=norm.layout(len(shape)))


def vectors(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tensor((channels,), torch.float32, 1), tensor((channels,), torch.float32)


def rows(t: torch.Tensor) -> np.ndarray:
    """As a matrix of rows of channels, in float64."""
    values = t.double().numpy()
    return np.moveaxis(values, 1, -1).reshape(-1, t.shape[1])


def normalised(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x̂, mean and inv_std."""
    values = rows(x)
    mean, inv_std = values.mean(0), 1 / np.sqrt(values.var(0) + EPSILON)
    return (values - mean) * inv_std, mean, inv_std


def pulled_back(g: np.ndarray, x: torch.Tensor, gamma: torch.Tensor) -> np.ndarray:
    x_hat, _, inv_std = normalised(x)
    return gamma.double().numpy() * inv_std * (g - g.mean(0) - x_hat * (g * x_hat).mean(0))


def case(
    shape: tuple[int, ...], dtype: torch.dtype, rectify: bool, shortcut: str, two: bool, mask: str
) -> Iterator[tuple[str, torch.Tensor, np.ndarray]]:
    """What the kernels make of one layer, forward and backward, and what it should be."""
    x, residual, gy, gy2 = (tensor(shape, dtype, mean) for mean in (2, 0, 0, 0))
    gamma, beta = vectors(shape[1])
    gamma2, beta2 = vectors(shape[1])
    x_hat, mean_, inv_std_ = normalised(x)
    mean, inv_std = norm.statistics(x, EPSILON)
    yield "mean", mean, mean_
    yield "inv_std", inv_std, inv_std_
    y_ = x_hat * gamma.double().numpy() + beta.double().numpy()
    projection = None
    if shortcut == "projection":
        residual_hat, *_ = normalised(residual)
        y_ += residual_hat * gamma2.double().numpy() + beta2.double().numpy()
        projection = (gamma2, beta2, *norm.statistics(residual, EPSILON))
    elif shortcut == "sum":
        y_ += rows(residual)
    bits = torch.empty(norm.bits_shape(shape), dtype=torch.uint8)
    y = norm.apply(
        *(x, gamma, beta, mean, inv_std, residual if shortcut else None),
        projection=projection,
        rectify=rectify,
        bits=bits,
    )
    yield "y", y, np.maximum(y_, 0) if rectify else y_
    passes = np.unpackbits(bits.numpy(), axis=2, bitorder="little").transpose(1, 0, 2)
    passes = passes.reshape(len(y_), -1)[:, : shape[1]]
    yield "bits", torch.from_numpy(passes), y_ > 0
    g_ = rows(gy) + two * rows(gy2)
    # Where it is 0 up to rounding, y itself decides.
    g_ = g_ * (rows(y) > 0) if rectify else g_
    common: dict[str, Any] = {"gy2": gy2 if two else None}
    if rectify:
        common |= {mask: {"beta": beta, "y": y, "bits": bits}[mask]}
    g = torch.empty_like(x)
    statistics2 = None if projection is None else (residual, *projection[2:])
    sums = norm.sums(gy, x, gamma, mean, inv_std, **common, projection=statistics2, g=g)
    yield "g", g, g_
    yield "g_beta", sums[0], g_.sum(0)
    yield "g_gamma", sums[1], (g_ * x_hat).sum(0)
    second = None
    if projection is not None:
        yield "g_gamma2", sums[2], (g_ * residual_hat).sum(0)
        gx2 = torch.empty_like(residual)
        second = (residual, gamma2, *projection[2:], sums[2], gx2)
    gx = norm.gradient(gy, x, gamma, mean, inv_std, sums[0], sums[1], **common, projection=second)
    yield "gx", gx, pulled_back(g_, x, gamma)
    if projection is not None:
        yield "gx2", gx2, pulled_back(g_, residual, gamma2)


def whole(dtype: torch.dtype, keep: bool, overwrite: bool) -> Iterator[tuple[str, torch.Tensor, np.ndarray]]:
    """`forward` and `backward`, as the graph's nodes call them."""
    shape = (3, 5, 4, 7)
    x, residual = tensor(shape, dtype, 2), tensor(shape, dtype)
    # A cotangent in another layout.
    gy = tensor(shape, dtype).contiguous() if not overwrite else tensor(shape, dtype)
    gamma, beta = vectors(5)
    x_hat, mean_, inv_std_ = normalised(x)
    y_ = np.maximum(x_hat * gamma.double().numpy() + beta.double().numpy() + rows(residual), 0)
    g_ = rows(gy) * (y_ > 0)
    before = residual.data_ptr(), gy.data_ptr()
    y, mean, inv_std = norm.forward(
        x, gamma, beta, residual, epsilon=EPSILON, rectify=True, overwrite=overwrite
    )
    gx, g_gamma, g_beta, g = norm.backward(gy, x, gamma, mean, inv_std, y, keep=keep, overwrite=overwrite)
    taken = (y.data_ptr(), (g if keep else gx).data_ptr()) == before
    yield "memory taken", torch.tensor([float(taken)]), np.array([float(overwrite)])
    yield "y", y, y_
    yield "gx", gx, pulled_back(g_, x, gamma)
    yield "g_gamma", g_gamma, (g_ * x_hat).sum(0)
    yield "g_beta", g_beta, g_.sum(0)
    if keep:
        yield "g", g, g_


def biased(
    shape: tuple[int, ...], dtype: torch.dtype, overwrite: bool
) -> Iterator[tuple[str, torch.Tensor, np.ndarray]]:
    """A bias and a rectifier, and their gradients, the cotangent in another layout unless it may be written over."""
    x, gy = tensor(shape, dtype), tensor(shape, dtype)
    (bias, _), before = vectors(shape[1]), (x.data_ptr(), gy.data_ptr())
    gy = gy if overwrite else gy.contiguous()
    y_ = np.maximum(rows(x) + bias.double().numpy(), 0)
    y = norm.biased(x, bias, overwrite=overwrite)
    g_ = rows(gy) * (rows(y) > 0)
    g, g_bias = norm.biased_backward(gy, y, overwrite=overwrite)
    yield "y", y, y_
    yield "g", g, g_
    yield "g_bias", g_bias, g_.sum(0)
    taken = (y.data_ptr(), g.data_ptr()) == before
    yield "memory taken", torch.tensor([float(taken)]), np.array([float(overwrite)])


def pooled(
    shape: tuple[int, ...], dtype: torch.dtype, geometry: tuple[tuple[int, int], ...], out: tuple[int, int]
) -> Iterator[tuple[str, torch.Tensor, np.ndarray]]:
    """Maxima, many of them equal to another of their window, where they are, and the gradient."""
    x = (tensor(shape, torch.float32) * 2).round().to(dtype)
    (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w) = geometry
    n, channels, height, width = shape
    y, places = pool.forward(x, *geometry, out)
    gy = tensor(y.shape, dtype)
    values, cotangents = x.double().numpy(), gy.double().numpy()
    y_, places_ = np.full((n, channels, *out), -np.inf), np.zeros((n, channels, *out))
    gx_ = np.zeros(shape)
    for i, c, row, at in np.ndindex(*y_.shape):
        best = None
        for place, (down, along) in enumerate(np.ndindex(kernel_h, kernel_w)):
            source = i, c, row * stride_h - pad_h + down, at * stride_w - pad_w + along
            inside = 0 <= source[2] < height and 0 <= source[3] < width
            if inside and (best is None or values[source] > y_[i, c, row, at]):
                best, y_[i, c, row, at], places_[i, c, row, at] = source, values[source], place
        gx_[best] += cotangents[i, c, row, at]
    yield "y", y, y_
    yield "places", places, places_
    yield "gx", pool.backward(gy, x, places, *geometry), gx_


BOXES = np.array(
    [
        # Made smaller, mirrored; enlarged, over the border; as it is; of fractions, and far outside.
        [0, 0, 11, 13, 1, 11, 13],
        [-2, 8.5, 3, 6, 0, 9, 12],
        [2, 3, 7, 7, 0, 11, 13],
        [1.3, -4, 9.1, 30.6, 1, 10, 13],
    ],
    np.float32,
)


def triangles(start: float, length: float, extent: float, count: int, size: int) -> np.ndarray:
    """What each of `count` pixels counts in each of `size` outputs."""
    centre = start + length * (np.arange(size)[:, None] + 0.5) / size
    weights = np.maximum(1 - np.abs(np.arange(count) + 0.5 - centre) / max(1, length / size), 0)
    weights[:, int(extent) :] = 0
    weights *= (centre >= 0) & (centre <= extent)
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)


def cropped(
    dtype: torch.dtype, channels: int, affine: bool
) -> Iterator[tuple[str, torch.Tensor, np.ndarray]]:
    images, size = RANDOM.integers(0, 256, (4, channels, 11, 13), np.uint8), 7
    scale, shift = vectors(channels)
    y_ = np.empty((4, channels, size, size))
    for image, box, out in zip(images, BOXES.astype(np.float64), y_, strict=True):
        rows, columns = (triangles(box[i], box[i + 2], box[i + 5], (11, 13)[i], size) for i in (0, 1))
        out[:] = rows @ image.astype(np.float64) @ (columns[::-1] if box[4] else columns).T
    y_ = y_ * scale.double().numpy()[:, None, None] + shift.double().numpy()[:, None, None] if affine else y_
    both = (scale, shift) if affine else ()
    yield (
        "y",
        crop.crop(torch.from_numpy(images), torch.from_numpy(BOXES), *both, size=size, dtype=dtype),
        y_,
    )


def graph_of_a_crop() -> Iterator[tuple[str, torch.Tensor, np.ndarray]]:
    """A crop, normalised and read by a convolution, as a graph with the rewrites for GPUs and without."""
    images = device.shared(RANDOM.integers(0, 256, (4, 3, 11, 13), np.uint8))
    scale, shift = (v.numpy()[None, :, None, None] for v in vectors(3))
    filters = device.shared(tensor((2, 3, 3, 3), torch.float32).numpy())
    out = ops.conv2d(ops.crop_resize(images, BOXES, 7) * scale + shift, filters)
    compute = pytensor.function([], out, mode=device.mode("cpu", "bf16").including(GPU_TAG))
    kinds = [node.op for node in compute.maker.fgraph.toposort()]
    assert any(isinstance(op, NormalizedCrop) and op.narrow for op in kinds) and len(kinds) == 2, kinds
    expected = pytensor.function([], out, mode=device.mode("cpu"))()
    yield "y", torch.from_numpy(compute()).bfloat16(), expected


def pooled_norm(
    shape: tuple[int, ...], dtype: torch.dtype, geometry: tuple[tuple[int, int], ...], out: tuple[int, int]
) -> Iterator[tuple[str, torch.Tensor, np.ndarray]]:
    """A normalisation, rectified and pooled, and its gradient, by steps in float64."""
    x, (gamma, beta) = tensor(shape, dtype, 2), vectors(shape[1])
    gy = tensor((*shape[:2], *out), dtype)
    leaf = x.double().requires_grad_()
    scales = [v.double().requires_grad_() for v in (gamma, beta)]
    y_ = torch.relu(torch.nn.functional.batch_norm(leaf, None, None, *scales, True, 0, EPSILON))
    y_ = torch.nn.functional.max_pool2d(y_, *geometry)
    y_.backward(gy.double())
    y, mean, inv_std, places = pool.normalised_forward(x, gamma, beta, *geometry, out, epsilon=EPSILON)
    yield "y", y, y_.detach().numpy()
    options = dict(zip(("size", "stride", "padding"), geometry, strict=True))
    gradients = pool.normalised_backward(gy, x, gamma, beta, mean, inv_std, places, **options)
    for name, got, wanted in zip(("gx", "g_gamma", "g_beta"), gradients, (leaf, *scales), strict=True):
        assert wanted.grad is not None
        yield name, got, wanted.grad.numpy()


def elementwise() -> Iterator[tuple[str, torch.Tensor, np.ndarray]]:
    """A step with momentum and more, in place: the same bits as in NumPy, one operation at a time."""
    shape = (3, 67, 5, 2)
    w, g, v = (tensor(shape, torch.float32) for _ in range(3))
    w[1, 2, 3, 0] = float("nan")
    n = torch.tensor([0.9])
    rate, floor = np.float32(0.0005), np.float32(1e-3)
    scalars = [pytensor.scalar.float32(name) for name in "wgvn"]

    def step(w: Any, g: Any, v: Any, n: Any, x: Any) -> tuple[Any, Any]:
        velocity = n * v + (g + rate * w)
        moved = x.scalar_maximum(w - velocity / (x.sqrt(abs(g)) + floor), np.float32(-2))
        return x.switch(velocity > w, moved, -moved), velocity

    op = Elemwise(Composite(scalars, list(step(*scalars, pytensor.scalar))))
    given = [TensorType("float32", shape=t.shape)() for t in (w, g, v)]
    node = op.make_node(*given, TensorType("float32", shape=(1,))().dimshuffle("x", "x", "x", 0))
    expression = _Expression(node, Context())
    graph = expression.inputs, expression.outputs, expression.nodes
    run = elemwise.in_one_pass(*graph, {expression.inputs[3]}, {1: 2}, lambda *_: "torch's calls")
    assert run(w.contiguous(), g, v, n) == "torch's calls"
    numpy = SimpleNamespace(scalar_maximum=np.maximum, sqrt=np.sqrt, switch=np.where)
    expected = step(*(t.numpy().copy() for t in (w, g, v, n)), numpy)
    results = run(w, g, v, n)
    yield "memory taken", torch.tensor([float(results[1] is v)]), np.ones(1)
    for name, got, wanted in zip(("w", "v"), results, expected, strict=True):
        assert got.stride() == w.stride()
        same = (got.numpy() == wanted) | (np.isnan(got.numpy()) & np.isnan(wanted))
        yield name, torch.from_numpy(same), np.ones(shape)


def error(got: torch.Tensor, expected: np.ndarray) -> float:
    """The largest error beside the largest value; not a number counts as infinite."""
    values = rows(got) if expected.ndim == 2 else got.double().numpy()
    worst = np.abs(values - expected).max() / max(np.abs(expected).max(), 1e-3)
    return float(np.nan_to_num(worst, nan=np.inf))


def report(name: str, run: Callable[[], Iterator[Any]]) -> None:
    """Run a case twice with the same numbers."""
    global RANDOM
    seed = sum(map(ord, name))
    found: list[list[tuple[str, torch.Tensor, np.ndarray]]] = []
    for _ in range(2):
        RANDOM = np.random.default_rng(seed)
        found.append(list(run()))
    same = all(torch.equal(a[1], b[1]) for a, b in zip(*found, strict=True))
    errors = {what: error(got, expected) for what, got, expected in found[0]}
    narrow = [what for what, got, _ in found[0] if got.dtype == torch.bfloat16]
    print(json.dumps({"case": name, "errors": errors, "narrow": narrow, "same": same}))


def graph() -> Iterator[tuple[str, torch.Tensor, np.ndarray]]:
    """Blocks' ends after two poolings, the first with a projection, as a graph with the rewrites for GPUs."""
    shape = (2, 5, 4, 3)
    image = tensor((2, 5, 8, 6), torch.float32)
    x = device.shared(image.numpy(), "x")
    scales = [vectors(5) for _ in range(6)]
    weights = tensor(shape, torch.float32)
    parameters = [device.shared(v.numpy()) for pair in scales for v in pair]
    leaves = [v.double().requires_grad_() for pair in scales for v in pair]

    def network(
        x: Any,
        pool: Callable[..., Any],
        normalise: Callable[[Any, int], Any],
        relu: Callable[[Any], Any],
    ) -> Any:
        pooled = pool(relu(normalise(pool(x, 3, 1, 1), 5)), 3, 2, 1)
        for i in (0, 2):
            shortcut = normalise(pooled * 2, 4) if i == 0 else pooled
            inner = relu(normalise(pooled, i))
            pooled = relu(normalise(inner, i + 1) + shortcut)
        return pooled

    def ours(v: Any, i: int) -> Any:
        return ops.batch_norm(v, *parameters[2 * i : 2 * i + 2], EPSILON)[0]

    def torchs(v: torch.Tensor, i: int) -> torch.Tensor:
        return torch.nn.functional.batch_norm(v, None, None, *leaves[2 * i : 2 * i + 2], True, 0, EPSILON)

    out = network(x, ops.pool2d, ours, ops.relu)
    mode = device.mode("cpu").including(GPU_TAG)
    gradients = pytensor.grad((out * weights.numpy()).sum(), [x, *parameters])
    compute = pytensor.function([], [out, *gradients], mode=mode)
    nodes = [node.op for node in compute.maker.fgraph.toposort()]
    made = [(op.mask, op.joined, op.projected) for op in nodes if isinstance(op, JoinedBatchNormGrad)]
    expected_nodes = [("beta", False, False)] * 2 + [("bits", False, False), ("bits", True, True)]
    assert sorted(made) == expected_nodes, nodes
    assert sum(isinstance(op, BlockEnd) for op in nodes) == 2, nodes
    assert not any(isinstance(op, BatchNormGrad) for op in nodes), nodes
    pooling = MaxPoolPlaces, MaxPoolPlacesGrad, PooledBatchNorm, PooledBatchNormGrad
    assert [sum(isinstance(op, kind) for op in nodes) for kind in pooling] == [1] * 4, nodes
    seen = image.double().requires_grad_()
    expected = network(seen, torch.nn.functional.max_pool2d, torchs, torch.relu)
    (expected * weights.double()).sum().backward()
    y, gx, *others = compute()
    yield "y", torch.from_numpy(y), expected.detach().numpy()
    assert seen.grad is not None
    yield "gx", torch.from_numpy(gx), seen.grad.numpy()
    wanted = [leaf.grad.numpy() for leaf in leaves if leaf.grad is not None]
    yield "gradients of the scales", torch.from_numpy(np.concatenate(others)), np.concatenate(wanted)


def branches() -> Iterator[tuple[str, torch.Tensor, np.ndarray]]:
    """Two modules of branches that are joined, as in GoogLeNet, after and between poolings, with rewrites for GPUs."""
    image = tensor((2, 5, 11, 9), torch.float32)
    x = device.shared(image.numpy(), "x")
    widths = (*(5,) * 5, *(15,) * 4)
    scales = [vectors(width) for width in widths]
    weights = tensor((2, 45, 3, 3), torch.float32)
    parameters = [device.shared(v.numpy()) for pair in scales for v in pair]
    leaves = [v.double().requires_grad_() for pair in scales for v in pair]

    def network(
        x: Any,
        pool: Callable[..., Any],
        rectified: Callable[[Any, int], Any],
        join: Callable[[list[Any]], Any],
    ) -> Any:
        top = pool(rectified(x, 0), 3, 2, 0, True)
        for first, last in ((1, False), (5, True)):
            inner = rectified(rectified(top * 2, first), first + 1)
            pooled = rectified(pool(top, 3, 1, 1, False), first + 2)
            top = join([rectified(top, first + 3), inner, pooled])
            top = top if last else pool(top, 3, 2, 1, True)
        return top

    def ours(v: Any, i: int) -> Any:
        return ops.relu(ops.batch_norm(v, *parameters[2 * i : 2 * i + 2], EPSILON)[0])

    def torchs(v: torch.Tensor, i: int) -> torch.Tensor:
        own = leaves[2 * i : 2 * i + 2]
        return torch.relu(torch.nn.functional.batch_norm(v, None, None, *own, True, 0, EPSILON))

    out = network(
        *(x, lambda v, size, stride, padding, ceil: ops.pool2d(v, size, stride, padding, ceil_mode=ceil)),
        *(ours, lambda vs: pytensor.tensor.concatenate(vs, 1)),
    )
    gradients = pytensor.grad((out * weights.numpy()).sum(), [x, *parameters])
    compute = pytensor.function([], [out, *gradients], mode=device.mode("cpu").including(GPU_TAG))
    nodes = [node.op for node in compute.maker.fgraph.toposort()]
    kinds = PooledBatchNorm, PooledBatchNormGrad, MaxPoolPlaces, MaxPoolPlacesGrad, JoinedBatchNormGrad
    assert [sum(isinstance(op, kind) for op in nodes) for kind in kinds] == [1, 1, 3, 3, 8], nodes
    seen = image.double().requires_grad_()
    expected = network(
        *(seen, lambda v, *geometry: torch.nn.functional.max_pool2d(v, *geometry[:3], 1, geometry[3])),
        *(torchs, lambda vs: torch.cat(vs, 1)),
    )
    (expected * weights.double()).sum().backward()
    y, gx, *others = compute()
    yield "y", torch.from_numpy(y), expected.detach().numpy()
    assert seen.grad is not None
    yield "gx", torch.from_numpy(gx), seen.grad.numpy()
    wanted = [leaf.grad.numpy() for leaf in leaves if leaf.grad is not None]
    yield "gradients of the scales", torch.from_numpy(np.concatenate(others)), np.concatenate(wanted)


def biases() -> Iterator[tuple[str, torch.Tensor, np.ndarray]]:
    """Biases before rectifiers, of pixels and of features, and a mean over pixels, with the rewrites for GPUs."""
    image, matrix, weights = (tensor(shape, torch.float32) for shape in ((2, 5, 4, 3), (5, 6), (2, 6)))
    x = device.shared(image.numpy(), "x")
    given = [vectors(5)[1], *vectors(5), matrix, vectors(6)[1]]
    parameters = [device.shared(v.numpy()) for v in given]
    b1, gamma, beta, w, b2 = parameters
    h = ops.relu(x * 2 + b1.dimshuffle("x", 0, "x", "x"))
    h = ops.relu(ops.batch_norm(h, gamma, beta, EPSILON)[0])
    out = ops.relu(pytensor.tensor.dot(h.mean((2, 3)), w) + b2)
    gradients = pytensor.grad((out * weights.numpy()).sum(), [x, *parameters])
    compute = pytensor.function([], [out, *gradients], mode=device.mode("cpu").including(GPU_TAG))
    nodes = [type(node.op) for node in compute.maker.fgraph.toposort()]
    kinds = BiasedRelu, BiasedReluGrad, JoinedBatchNormGrad, Relu, ReluGrad, Alloc
    assert [nodes.count(kind) for kind in kinds] == [2, 2, 1, 0, 0, 0], nodes
    leaves = [v.double().requires_grad_() for v in (image, *given)]
    pixels, b1, gamma, beta, w, b2 = leaves
    h = torch.relu(pixels * 2 + b1[:, None, None])
    h = torch.relu(torch.nn.functional.batch_norm(h, None, None, gamma, beta, True, 0, EPSILON))
    expected = torch.relu(h.mean((2, 3)) @ w + b2)
    (expected * weights.double()).sum().backward()
    y, *others = compute()
    yield "y", torch.from_numpy(y), expected.detach().numpy()
    for name, got, leaf in zip(("x", "b1", "gamma", "beta", "w", "b2"), others, leaves, strict=True):
        assert leaf.grad is not None
        yield f"gradient of {name}", torch.from_numpy(got), leaf.grad.numpy()


def not_numbers() -> Iterator[tuple[str, torch.Tensor, np.ndarray]]:
    """What is not a number must not become one."""
    x = tensor((40, 3), torch.float32)
    x[7, 1] = float("nan")
    y, *_ = norm.forward(x, *vectors(3), epsilon=EPSILON, rectify=True)
    yield "y", y.isnan().float(), np.tile([0.0, 1.0, 0.0], (40, 1))
    image = x.reshape(2, 3, 5, 4)
    pooled, _ = pool.forward(image, (3, 3), (2, 2), (1, 1), (3, 2))
    expected = torch.nn.functional.max_pool2d(image, 3, 2, 1)
    yield "pooled", pooled.isnan().double(), rows(expected.isnan())


def main() -> None:
    # New memory is filled with NaN, or the largest integer.
    torch.use_deterministic_algorithms(True)
    for dtype in (torch.float32, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        for shape in SHAPES:
            report(f"normalised {shape} {kind}", partial(case, shape, dtype, True, "", False, "bits"))
        options = [
            (False, "", True, "y"),
            (True, "", False, "beta"),
            (True, "sum", True, "y"),
            (True, "sum", False, "bits"),
            (True, "projection", True, "bits"),
        ]
        for rectify, shortcut, two, mask in options:
            name = f"rectify={rectify} shortcut={shortcut or None} two={two} mask={mask} {kind}"
            report(name, partial(case, (2, 67, 5, 4), dtype, rectify, shortcut, two, mask))
        for shape, overwrite in product([(2, 70, 11, 9), (396, 3)], (False, True)):
            report(f"biased {shape} overwrite={overwrite} {kind}", partial(biased, shape, dtype, overwrite))
        for keep, overwrite in product((False, True), repeat=2):
            report(f"keep={keep} overwrite={overwrite} {kind}", partial(whole, dtype, keep, overwrite))
        windows = [
            ((2, 67, 7, 5), ((3, 3), (2, 2), (1, 1)), (4, 3)),
            ((1, 3, 6, 9), ((2, 3), (2, 1), (0, 1)), (3, 9)),
            # In ceil mode the last windows reach over the border; there are inputs in no window.
            ((1, 2, 6, 6), ((3, 3), (2, 2), (0, 0)), (3, 3)),
            ((1, 2, 7, 7), ((2, 2), (3, 3), (0, 0)), (2, 2)),
        ]
        for shape, geometry, out in windows:
            report(f"pooled {shape} {geometry} {kind}", partial(pooled, shape, dtype, geometry, out))
    crop.ELEMENTS = 64
    for dtype, channels, affine in product((torch.float32, torch.bfloat16), (1, 3), (False, True)):
        name = f"cropped {channels} affine={affine} {str(dtype).removeprefix('torch.')}"
        report(name, partial(cropped, dtype, channels, affine))
    report("graph of a crop", graph_of_a_crop)
    report("element-wise", elementwise)
    for dtype in (torch.float32, torch.bfloat16):
        for shape, geometry, out in (
            ((2, 67, 7, 5), ((3, 3), (2, 2), (1, 1)), (4, 3)),
            ((1, 3, 6, 9), ((2, 3), (2, 1), (0, 1)), (3, 9)),
        ):
            name = f"pooled normalisation {shape} {geometry} {str(dtype).removeprefix('torch.')}"
            report(name, partial(pooled_norm, shape, dtype, geometry, out))
    # As if tensors of the CPU were a GPU's.
    norm.fit = lambda *tensors: len({t.shape for t in tensors}) == 1
    norms.rows.fit = lambda *tensors: False
    norms.triton.computes = lambda x: True
    torch.native_batch_norm = None
    report("graph", graph)
    report("graph of branches", branches)
    report("graph of biases", biases)
    # Pieces of several tiles.
    norm.PROGRAMS = 2
    report("large pieces", partial(case, (150, 3), torch.float32, True, "projection", True, "bits"))
    norm.PROGRAMS = 528
    # More pieces than the second stage takes at once.
    norm.ROWS, norm.PIECES = 2, 16
    report("many pieces", partial(case, (140, 1), torch.float32, True, "", False, "bits"))
    report("not a number", not_numbers)


if __name__ == "__main__":
    main()
