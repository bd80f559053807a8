"""Every op against torch.nn.functional or NumPy loops; its gradient against finite differences."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
import torch.nn.functional as F
from keyed import keyed_bits, keyed_normal, keyed_uniform
from pytensor.gradient import verify_grad
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from tolerance import assert_close

from theanompi import device
from theanompi.device import ops
from theanompi.device.ops.random import Uniform

DEVICES = [
    "cpu",
    pytest.param(
        "cuda:0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
    ),
]
ON_EACH_DEVICE = pytest.mark.parametrize("place", DEVICES)


def data(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Distinct values, far enough apart that finite differences cross no kink."""
    rng = np.random.default_rng([seed, *shape])
    values = (rng.permutation(int(np.prod(shape))) + 0.5) / np.prod(shape) * 4 - 2
    return values.reshape(shape).astype(dtype)


def run(place: str, op: Callable[..., Any], *arguments: np.ndarray) -> Any:
    """Values of `op`, after checking that static shapes and dtypes are those of the values."""
    inputs = [pt.tensor(dtype=a.dtype.name, shape=a.shape) for a in arguments]
    outputs = op(*inputs)
    several = isinstance(outputs, tuple)
    variables = list(outputs) if several else [outputs]
    values = pytensor.function(inputs, variables, mode=device.mode(place))(*arguments)
    for variable, value in zip(variables, values, strict=True):
        assert variable.type.shape == value.shape and variable.dtype == value.dtype
    return values if several else values[0]


def check_gradient(op: Callable[..., Any], *arguments: np.ndarray, place: str = "cpu") -> None:
    verify_grad(
        op,
        [a.astype("float64") for a in arguments],
        rng=np.random.default_rng(1),
        mode=device.mode(place),
        abs_tol=1e-6,
    )


def torch_gradients(function: Callable[..., torch.Tensor], *arguments: np.ndarray) -> list[torch.Tensor]:
    leaves = [torch.from_numpy(a).clone().requires_grad_() for a in arguments]
    out = function(*leaves)
    weights = torch.cos(torch.arange(out.numel(), dtype=out.dtype)).reshape(out.shape)
    return list(torch.autograd.grad((out * weights).sum(), leaves))


def our_gradients(place: str, op: Callable[..., Any], *arguments: np.ndarray) -> list[np.ndarray]:
    inputs = [pt.tensor(dtype=a.dtype.name, shape=a.shape) for a in arguments]
    out = op(*inputs)
    weights = np.cos(np.arange(np.prod(out.type.shape), dtype=out.dtype)).reshape(out.type.shape)
    gradients = pytensor.grad((out * weights).sum(), inputs)
    return pytensor.function(inputs, gradients, mode=device.mode(place))(*arguments)


# Convolution

CONVOLUTIONS = [
    # images, filters, stride, padding, dilation, groups
    ((2, 3, 8, 8), (4, 3, 3, 3), 1, 1, 1, 1),
    ((2, 3, 9, 7), (4, 3, 3, 3), 2, 1, 1, 1),
    ((1, 3, 11, 10), (5, 3, 7, 7), 2, 3, 1, 1),
    ((2, 4, 5, 6), (3, 4, 1, 1), 2, 0, 1, 1),
    ((2, 4, 7, 9), (6, 2, 3, 2), (2, 1), (1, 0), 1, 2),
    ((1, 4, 6, 6), (4, 1, 3, 3), 1, 1, 1, 4),
    ((1, 2, 9, 11), (3, 2, 3, 3), (1, 3), (2, 1), (2, 3), 1),
]
# Fewer output pixels than channels: computed as products of matrices on the CPU.
SMALL_IMAGES = [
    ((2, 16, 3, 3), (17, 16, 3, 3), 3, 1, 1, 1),
    ((1, 16, 4, 2), (17, 16, 2, 3), (1, 2), (0, 1), (2, 1), 1),
    ((1, 8, 1, 1), (8, 8, 3, 3), 1, 1, 1, 1),
    ((2, 8, 3, 4), (16, 8, 1, 1), 2, 0, 1, 1),
]
CONVOLUTIONS += SMALL_IMAGES
# Only the gradient of the filters is.
CONVOLUTIONS += [((2, 8, 2, 2), (9, 8, 3, 3), 1, 1, 1, 1)]


def test_small_images_take_the_way_of_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: Any) -> None:
        raise AssertionError("torch's convolution was called")

    monkeypatch.setattr(torch, "conv2d", unexpected)
    for x, w, *geometry in SMALL_IMAGES:
        run("cpu", lambda a, b, geometry=geometry: ops.conv2d(a, b, *geometry), data(*x), data(*w))
    with pytest.raises(AssertionError, match="torch's convolution was called"):
        run("cpu", ops.conv2d, data(1, 8, 9, 9), data(9, 8, 3, 3))


def test_pixels_of_few_images_are_handed_over_as_if_of_sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a filter sees one pixel: oneDNN takes them, whatever the number of threads."""
    batches = []
    convolve, backward = torch.conv2d, torch.ops.aten.convolution_backward.default

    def forward_spy(images: torch.Tensor, *rest: Any) -> torch.Tensor:
        batches.append(len(images))
        return convolve(images, *rest)

    def backward_spy(gy: torch.Tensor, images: torch.Tensor, *rest: Any) -> Any:
        batches.append(len(images))
        return backward(gy, images, *rest)

    monkeypatch.setattr(torch, "conv2d", forward_spy)
    monkeypatch.setattr(torch.ops.aten.convolution_backward, "default", backward_spy)
    images, filters = data(3, 4, 4, 4).transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2), data(6, 4, 1, 1)
    got = run("cpu", ops.conv2d, images, filters)
    ours = our_gradients("cpu", ops.conv2d, images, filters)
    assert batches == [16, 16]
    monkeypatch.undo()
    assert_close(got, loop_conv2d(images, filters, 1, 0, 1, 1))
    for one, other in zip(ours, torch_gradients(F.conv2d, images, filters), strict=True):
        assert_close(one, other)


def loop_conv2d(
    x: np.ndarray, w: np.ndarray, stride: Any, padding: Any, dilation: Any, groups: int
) -> np.ndarray:
    (sy, sx), (py, px), (dy, dx) = (np.broadcast_to(v, 2) for v in (stride, padding, dilation))
    x = np.pad(x.astype("float64"), ((0, 0), (0, 0), (py, py), (px, px)))
    out, per_group, kh, kw = w.shape
    height = (x.shape[2] - dy * (kh - 1) - 1) // sy + 1
    width = (x.shape[3] - dx * (kw - 1) - 1) // sx + 1
    y = np.zeros((len(x), out, height, width))
    for o in range(out):
        first = o // (out // groups) * per_group
        for i in range(height):
            for j in range(width):
                window = x[:, first : first + per_group, i * sy :: dy, j * sx :: dx][:, :, :kh, :kw]
                y[:, o, i, j] = (window * w[o]).sum((1, 2, 3))
    return y.astype(w.dtype)


@ON_EACH_DEVICE
@pytest.mark.parametrize(("x", "w", "stride", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_conv2d(place: str, x: Any, w: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> None:
    geometry = (stride, padding, dilation, groups)
    images, filters = data(*x), data(*w)
    got = run(place, lambda a, b: ops.conv2d(a, b, *geometry), images, filters)
    assert_close(got, loop_conv2d(images, filters, *geometry), device=place)
    ours = our_gradients(place, lambda a, b: ops.conv2d(a, b, *geometry), images, filters)
    theirs = torch_gradients(lambda a, b: F.conv2d(a, b, None, *geometry), images, filters)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, device=place)


@pytest.mark.parametrize(
    ("x", "w", "stride", "padding", "dilation", "groups"),
    [
        ((1, 2, 5, 4), (2, 2, 3, 2), (2, 1), (1, 0), 1, 1),
        ((2, 2, 4, 4), (2, 1, 2, 2), 1, 1, 1, 2),
        ((1, 1, 6, 6), (2, 1, 2, 2), 2, 1, 2, 1),
    ],
)
def test_conv2d_gradients_by_finite_differences(
    x: Any, w: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    def conv(a: Any, b: Any) -> Any:
        return ops.conv2d(a, b, stride, padding, dilation, groups)

    images, filters = data(*x), data(*w)
    check_gradient(conv, images, filters)
    out = loop_conv2d(images, filters, stride, padding, dilation, groups)

    def gradient_of(which: int) -> Callable[..., Any]:
        def gradient(a: Any, b: Any, g: Any) -> Any:
            return pytensor.grad(None, (a, b)[which], known_grads={conv(a, b): g})

        return gradient

    # The second derivative: Conv2dGrad's own pullback, through each of its outputs.
    for which in (0, 1):
        check_gradient(gradient_of(which), images, filters, data(*out.shape))


@pytest.mark.parametrize(
    ("message", "x", "w", "arguments"),
    [
        (r"conv2d: images: expected 4 dimensions", (3, 8, 8), (4, 3, 3, 3), {}),
        (r"conv2d: filters: expected 4 dimensions", (1, 3, 8, 8), (4, 3, 3), {}),
        (r"conv2d: input channels: expected 3 .*\(3 x 1 groups\), got 5", (1, 5, 8, 8), (4, 3, 3, 3), {}),
        (
            r"conv2d: input channels: expected 6 .*\(3 x 2 groups\), got 3",
            (1, 3, 8, 8),
            (4, 3, 3, 3),
            {"groups": 2},
        ),
        (
            r"conv2d: output channels: expected a multiple of 2 groups, got 3",
            (1, 6, 8, 8),
            (3, 3, 3, 3),
            {"groups": 2},
        ),
        (r"conv2d: output size: expected at least 1 x 1, got \[0, 6\]", (1, 3, 2, 8), (4, 3, 3, 3), {}),
        (r"conv2d: stride: expected at least 1, got \(0, 0\)", (1, 3, 8, 8), (4, 3, 3, 3), {"stride": 0}),
        (
            r"conv2d: padding: expected at least 0, got \(0, -1\)",
            (1, 3, 8, 8),
            (4, 3, 3, 3),
            {"padding": (0, -1)},
        ),
        (r"conv2d: dilation: expected at least 1", (1, 3, 8, 8), (4, 3, 3, 3), {"dilation": 0}),
        (r"conv2d: groups: expected at least 1, got \(0,\)", (1, 3, 8, 8), (4, 3, 3, 3), {"groups": 0}),
        (
            r"conv2d: stride: expected one integer or two, got \(1, 2, 3\)",
            (1, 3, 8, 8),
            (4, 3, 3, 3),
            {"stride": (1, 2, 3)},
        ),
    ],
)
def test_conv2d_refuses(message: str, x: Any, w: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        ops.conv2d(data(*x), data(*w), **arguments)


def test_conv2d_refuses_mixed_dtypes() -> None:
    with pytest.raises(
        ValueError, match="conv2d: filters: expected the dtype of the images, float32, got float64"
    ):
        ops.conv2d(data(1, 3, 8, 8), data(4, 3, 3, 3, dtype="float64"))


# Convolution of one and three dimensions, and transposed

OTHER_CONVOLUTIONS = [
    # images, filters, stride, padding, dilation, groups
    ((2, 4, 9), (6, 2, 3), 2, 1, 1, 2),
    ((1, 3, 8), (4, 3, 2), 1, (2,), 3, 1),
    ((1, 2, 5, 6, 4), (3, 2, 3, 2, 1), (2, 1, 1), (1, 0, 2), (1, 2, 1), 1),
    ((2, 4, 3, 4, 4), (4, 2, 2, 2, 2), 1, 0, 1, 2),
]


@ON_EACH_DEVICE
@pytest.mark.parametrize(("x", "w", "stride", "padding", "dilation", "groups"), OTHER_CONVOLUTIONS)
def test_conv_of_one_and_three_dimensions(
    place: str, x: Any, w: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    axes = len(x) - 2
    ours = ops.conv1d if axes == 1 else ops.conv3d
    theirs = F.conv1d if axes == 1 else F.conv3d
    geometry = (stride, padding, dilation, groups)
    images, filters = data(*x), data(*w)
    expected = theirs(torch.tensor(images), torch.tensor(filters), None, *geometry)
    assert_close(run(place, lambda a, b: ours(a, b, *geometry), images, filters), expected, device=place)
    got = our_gradients(place, lambda a, b: ours(a, b, *geometry), images, filters)
    wanted = torch_gradients(lambda a, b: theirs(a, b, None, *geometry), images, filters)
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, other, device=place)


TRANSPOSED = [
    # images, filters, stride, padding, dilation, groups, extra
    ((2, 4, 5), (4, 3, 3), 2, 1, 1, 1, 1),
    ((2, 4, 3, 4), (4, 3, 3, 2), (2, 3), (1, 0), 1, 1, (1, 2)),
    ((1, 4, 4, 3), (4, 2, 2, 2), 1, 0, 2, 2, 0),
    ((1, 2, 2, 3, 2), (2, 3, 2, 3, 2), (1, 2, 2), (0, 1, 0), 1, 1, (0, 1, 0)),
]


@ON_EACH_DEVICE
@pytest.mark.parametrize(("x", "w", "stride", "padding", "dilation", "groups", "extra"), TRANSPOSED)
def test_transposed_conv(
    place: str, x: Any, w: Any, stride: Any, padding: Any, dilation: Any, groups: int, extra: Any
) -> None:
    theirs = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(x) - 3]
    images, filters = data(*x), data(*w)

    def transposed(a: Any, b: Any) -> Any:
        return ops.transposed_conv(a, b, stride, padding, dilation, groups, extra)

    def reference(a: Any, b: Any) -> torch.Tensor:
        return theirs(a, b, None, stride, padding, extra, groups, dilation)

    expected = reference(torch.tensor(images), torch.tensor(filters))
    assert_close(run(place, transposed, images, filters), expected, device=place)
    got, wanted = (
        our_gradients(place, transposed, images, filters),
        torch_gradients(reference, images, filters),
    )
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, other, device=place)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (
            r"conv1d: images: expected 3 dimensions \(n, channels, length\)",
            lambda: ops.conv1d(data(2, 2), 0.0),
        ),
        (
            r"conv3d: stride: expected one integer or three, got \(1, 2\)",
            lambda: ops.conv3d(data(1, 1, 2, 2, 2), data(1, 1, 1, 1, 1), stride=(1, 2)),
        ),
        (
            r"transposed_conv2d: input channels: expected 4 as the filters, got 3",
            lambda: ops.transposed_conv(data(1, 3, 2, 2), data(4, 3, 2, 2)),
        ),
        (
            r"transposed_conv1d: extra: expected at least 0 and less than the stride \(2,\), got \(2,\)",
            lambda: ops.transposed_conv(data(1, 3, 2), data(3, 3, 2), stride=2, extra=2),
        ),
        (
            r"transposed_conv1d: output size",
            lambda: ops.transposed_conv(data(1, 3, 1), data(3, 1, 2), padding=1),
        ),
        (
            r"transposed_conv: images: expected 3 to 5 dim",
            lambda: ops.transposed_conv(data(3, 1), data(3, 1)),
        ),
    ],
)
def test_other_convolutions_refuse(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# Pooling

POOLS = [
    # images, window, stride, padding, ceil
    ((2, 3, 8, 8), 2, None, 0, False),
    ((2, 3, 9, 7), 3, 2, 1, False),
    ((2, 3, 9, 7), 3, 2, 1, True),
    ((1, 2, 8, 11), (3, 2), (2, 3), (1, 0), True),
    ((1, 2, 5, 5), 2, 3, 1, True),
    ((1, 2, 6, 6), 3, 2, 0, True),
    ((1, 1, 7, 4), (7, 4), 1, 0, False),
    # More padding than half the window.
    ((1, 2, 5, 4), 3, 1, 2, False),
    ((2, 1, 4, 5), (2, 3), 2, (1, 2), False),
]


def loop_pool2d(x: np.ndarray, size: Any, stride: Any, padding: Any, mode: str, ceil: bool) -> np.ndarray:
    """Torch's ceil mode: windows that begin beyond the image and its near padding do not exist."""
    stride = size if stride is None else stride
    (ky, kx), (sy, sx), (py, px) = (np.broadcast_to(v, 2) for v in (size, stride, padding))
    lengths = []
    for length, k, s, p in ((x.shape[2], ky, sy, py), (x.shape[3], kx, sx, px)):
        starts = [a for a in range(-p, length, s) if ceil or a + k <= length + p]
        # In ceil mode the first window that reaches the far border is the last.
        reaching = [i for i, a in enumerate(starts) if a + k >= length + p]
        lengths.append(starts[: reaching[0] + 1] if reaching else starts)
    y = np.zeros((*x.shape[:2], len(lengths[0]), len(lengths[1])))
    for i, a in enumerate(lengths[0]):
        for j, b in enumerate(lengths[1]):
            window = x[:, :, max(a, 0) : a + ky, max(b, 0) : b + kx].astype("float64")
            if mode == "max":
                y[:, :, i, j] = window.max((2, 3))
            elif mode == "sum":
                y[:, :, i, j] = window.sum((2, 3))
            else:
                inside = min(a + ky, x.shape[2] + py) - a, min(b + kx, x.shape[3] + px) - b
                count = (
                    inside[0] * inside[1] if mode == "average_inc_pad" else window.shape[2] * window.shape[3]
                )
                y[:, :, i, j] = window.sum((2, 3)) / count
    return y.astype(x.dtype)


def torch_pool2d(
    mode: str, size: Any, stride: Any, padding: Any, ceil: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Torch's pooling; what it does not pad by itself it gets padded."""
    pad = np.broadcast_to(padding, 2)
    if any(2 * pad > np.broadcast_to(size, 2)):
        border = (pad[1], pad[1], pad[0], pad[0])
        inside = torch_pool2d("sum" if mode == "average_exc_pad" else mode, size, stride, 0, ceil)
        value = -np.inf if mode == "max" else 0.0
        if mode != "average_exc_pad":
            return lambda x: inside(F.pad(x, border, value=value))
        return lambda x: inside(F.pad(x, border)) / inside(F.pad(torch.ones_like(x), border))
    if mode == "max":
        return lambda x: F.max_pool2d(x, size, stride, padding, ceil_mode=ceil)
    divisor = 1 if mode == "sum" else None
    return lambda x: F.avg_pool2d(x, size, stride, padding, ceil, mode == "average_inc_pad", divisor)


@ON_EACH_DEVICE
@pytest.mark.parametrize("mode", ["max", "average_inc_pad", "average_exc_pad", "sum"])
@pytest.mark.parametrize(("shape", "size", "stride", "padding", "ceil"), POOLS)
def test_pool2d(place: str, mode: str, shape: Any, size: Any, stride: Any, padding: Any, ceil: bool) -> None:
    x = data(*shape) + np.float32(0.3)

    def pool(v: Any) -> Any:
        return ops.pool2d(v, size, stride, padding, mode, ceil)

    assert_close(run(place, pool, x), loop_pool2d(x, size, stride, padding, mode, ceil), device=place)
    (ours,) = our_gradients(place, pool, x)
    (theirs,) = torch_gradients(torch_pool2d(mode, size, stride, padding, ceil), x)
    assert_close(ours, theirs, device=place)


@pytest.mark.parametrize("mode", ["max", "average_inc_pad", "average_exc_pad"])
@pytest.mark.parametrize("ceil", [False, True])
def test_pool2d_shape_of_every_small_size(mode: str, ceil: bool) -> None:
    for length in range(3, 9):
        for size in (2, 3):
            for stride in (1, 2, 3):
                for padding in range(size // 2 + 1):
                    x = pt.tensor(dtype="float32", shape=(1, 1, length, length + 1))
                    static = ops.pool2d(x, size, stride, padding, mode, ceil).type.shape
                    run_time = torch_pool2d(mode, size, stride, padding, ceil)(torch.zeros(x.type.shape))
                    assert static == tuple(run_time.shape), (length, size, stride, padding)


@pytest.mark.parametrize("mode", ["max", "average_inc_pad", "average_exc_pad", "sum"])
def test_wide_padding_takes_images_whose_shape_is_not_known(mode: str) -> None:
    x, value = pt.tensor4(dtype="float32"), data(2, 3, 5, 4)
    (got,) = pytensor.function([x], [ops.pool2d(x, 3, 2, 2, mode)], mode=device.mode("cpu"))(value)
    assert_close(got, loop_pool2d(value, 3, 2, 2, mode, False))


@pytest.mark.parametrize("mode", ["max", "average_inc_pad", "average_exc_pad"])
def test_pool2d_gradients_by_finite_differences(mode: str) -> None:
    check_gradient(lambda x: ops.pool2d(x, 3, 2, 1, mode, True), data(1, 2, 5, 6))
    check_gradient(lambda x: ops.pool2d(x, (2, 3), (1, 2), 0, mode), data(2, 1, 4, 5))


@ON_EACH_DEVICE
@pytest.mark.parametrize("mode", ["max", "average_exc_pad", "sum"])
def test_pool_of_one_and_three_dimensions(place: str, mode: str) -> None:
    signal, volume = data(2, 3, 7), data(1, 2, 5, 4, 6)
    divisor = 1 if mode == "sum" else None

    def pool3d(x: torch.Tensor) -> torch.Tensor:
        if mode == "max":
            return F.max_pool3d(x, (2, 3, 2), (2, 1, 2), (1, 1, 0), ceil_mode=True)
        return F.avg_pool3d(x, (2, 3, 2), (2, 1, 2), (1, 1, 0), True, False, divisor)

    def pool1d(x: torch.Tensor) -> torch.Tensor:
        if mode == "max":
            return F.max_pool1d(x, 3, 2, 1)
        return F.avg_pool2d(x[..., None], (3, 1), (2, 1), (1, 0), False, False, divisor)[..., 0]

    cases: Sequence[tuple[Any, Any, np.ndarray]] = [
        (lambda x: ops.pool1d(x, 3, 2, 1, mode), pool1d, signal),
        (lambda x: ops.pool3d(x, (2, 3, 2), (2, 1, 2), (1, 1, 0), mode, True), pool3d, volume),
    ]
    for ours, theirs, x in cases:
        assert_close(run(place, ours, x), theirs(torch.tensor(x)), device=place)
        assert_close(our_gradients(place, ours, x)[0], torch_gradients(theirs, x)[0], device=place)


@pytest.mark.parametrize("mode", ["max", "average_inc_pad", "average_exc_pad", "sum"])
def test_second_derivative_of_pooling(mode: str) -> None:
    def gradient(x: Any, g: Any) -> Any:
        return pytensor.grad(None, x, known_grads={ops.pool2d(x, 3, 2, 1, mode): g})

    check_gradient(gradient, data(1, 1, 5, 5), data(1, 1, 3, 3))


def test_third_derivative_of_max_pooling() -> None:
    def gradient(x: Any, g: Any) -> Any:
        first = pytensor.grad(None, x, known_grads={ops.pool2d(x, 2): g})
        return pytensor.grad((first * x).sum(), g)

    check_gradient(gradient, data(1, 1, 4, 4), data(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (
            r"pool2d: mode: expected one of max, average_inc_pad, average_exc_pad, sum, got 'min'",
            {"size": 2, "mode": "min"},
        ),
        (
            r"pool2d: padding: expected less than the window \(3, 3\), got \(3, 3\)",
            {"size": 3, "padding": 3},
        ),
        (r"pool2d: padding in ceil mode", {"size": 3, "padding": 2, "ceil_mode": True}),
        (r"pool2d: padding", {"size": 3, "padding": -1}),
        (r"pool2d: window: expected at most the padded image \[4, 4\], got \(5, 5\)", {"size": 5}),
        (r"pool2d: size and stride: expected at least 1", {"size": 2, "stride": 0}),
        (r"pool2d: size: expected one integer or two", {"size": (2, 2, 2)}),
    ],
)
def test_pool2d_refuses(message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        ops.pool2d(data(1, 1, 4, 4), **arguments)


def test_pool2d_refuses_vectors() -> None:
    with pytest.raises(ValueError, match="pool2d: images: expected 4 dimensions"):
        ops.pool2d(data(4, 4), 2)


# Batch normalisation


def numpy_batch_norm(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float
) -> tuple[np.ndarray, ...]:
    axes = (0, *range(2, x.ndim))
    shape = (1, -1, *(1,) * (x.ndim - 2))
    mean = x.astype("float64").mean(axes)
    inv_std = 1 / np.sqrt(((x - mean.reshape(shape)) ** 2).mean(axes) + epsilon)
    y = (x - mean.reshape(shape)) * (gamma * inv_std).reshape(shape) + beta.reshape(shape)
    return tuple(v.astype(x.dtype) for v in (y, mean, inv_std))


@ON_EACH_DEVICE
@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (6, 3), (1, 3, 2, 2), (5, 1, 1, 1)])
@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_batch_norm(place: str, shape: tuple[int, ...], epsilon: float) -> None:
    x, gamma, beta = data(*shape) + np.float32(0.3), data(shape[1], seed=1), data(shape[1], seed=2)
    got = run(place, lambda *v: ops.batch_norm(*v, epsilon), x, gamma, beta)
    for one, other in zip(got, numpy_batch_norm(x, gamma, beta, epsilon), strict=True):
        assert_close(one, other, device=place)
    # In float64: the terms of the gradient with respect to x nearly cancel.
    x, gamma, beta = (v.astype("float64") for v in (x, gamma, beta))
    ours = our_gradients(place, lambda *v: ops.batch_norm(*v, epsilon)[0], x, gamma, beta)
    theirs = torch_gradients(
        lambda a, b, c: F.batch_norm(a, None, None, b, c, True, 0.0, epsilon), x, gamma, beta
    )
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, device=place)


@pytest.mark.parametrize("shape", [(3, 2, 2, 3), (5, 2)])
@pytest.mark.parametrize("outputs", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_batch_norm_gradients_by_finite_differences(shape: tuple[int, ...], outputs: Sequence[int]) -> None:
    def combined(x: Any, gamma: Any, beta: Any) -> Any:
        results = ops.batch_norm(x, gamma, beta, 1e-3)
        # Every output's share of the gradient goes into one vector.
        shares = [results[i].mean((0, *range(2, x.ndim))) ** 2 if i == 0 else results[i] for i in outputs]
        weighted = [results[0][0].sum() * gamma] if 0 in outputs else []
        return sum(shares + weighted, 0 * beta + 0 * gamma)

    check_gradient(combined, data(*shape), data(shape[1], seed=1), data(shape[1], seed=2))


def test_batch_norm_of_one_output_alone_needs_no_cotangent_of_the_others() -> None:
    x = pt.tensor("x", dtype="float64", shape=(4, 2))
    y, mean, inv_std = ops.batch_norm(x, np.ones(2), np.zeros(2))
    value = data(4, 2, dtype="float64")
    f = pytensor.function([x], pytensor.grad(mean.sum(), x), mode=device.mode("cpu"))
    assert_close(f(value), np.full((4, 2), 0.25))


@pytest.mark.parametrize("shape", [(3, 2, 2, 3), (5, 2)])
@pytest.mark.parametrize("output", [0, 1, 2])
def test_second_derivative_of_batch_norm(shape: tuple[int, ...], output: int) -> None:
    def gradient(x: Any, gamma: Any, beta: Any, g: Any) -> Any:
        y = ops.batch_norm(x, gamma, beta, 1e-3)[0]
        return pytensor.grad(None, [x, gamma, beta], known_grads={y: g})[output]

    check_gradient(
        gradient, data(*shape), data(shape[1], seed=1), data(shape[1], seed=2), data(*shape, seed=3)
    )


@ON_EACH_DEVICE
@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (6, 3), (1, 3, 2, 2), (5, 1, 1, 1)])
def test_normalize(place: str, shape: tuple[int, ...]) -> None:
    x, vectors = data(*shape), [data(shape[1], seed=seed) for seed in range(1, 5)]
    vectors[3] = np.abs(vectors[3]) + np.float32(0.1)

    def theirs(x: torch.Tensor, *vectors: torch.Tensor) -> torch.Tensor:
        gamma, beta, mean, inv_std = (v.view(-1, *(1,) * (x.ndim - 2)) for v in vectors)
        return gamma * (x - mean) * inv_std + beta

    assert_close(
        run(place, ops.normalize, x, *vectors), theirs(*map(torch.tensor, (x, *vectors))), device=place
    )
    found = our_gradients(place, ops.normalize, x, *vectors)
    for one, other in zip(found, torch_gradients(theirs, x, *vectors), strict=True):
        assert_close(one, other, device=place)


def test_gradient_of_normalize_where_its_operands_are_made_of_its_input() -> None:
    def normalized(x: Any) -> Any:
        return ops.normalize(x, x.sum(0), x[0], x.mean(0), (x**2).sum(0)) ** 2

    check_gradient(normalized, data(4, 3))


def test_normalize_is_written_out_and_fused_with_what_follows() -> None:
    x, vector = pt.tensor("x", dtype="float32", shape=(2, 3, 4, 4)), device.shared(data(3))
    y = ops.normalize(x, vector, vector, vector, vector) + pt.exp(x)
    nodes = pytensor.function([x], y, mode=device.mode("cpu")).maker.fgraph.toposort()
    whole = [n for n in nodes if n.outputs[0].ndim == 4 and not isinstance(n.op, DimShuffle)]
    assert [type(n.op) for n in whole] == [Elemwise]


@pytest.mark.parametrize(
    ("message", "x", "gamma"),
    [
        (r"batch_norm: input: expected 2 or 4 dimensions", data(2, 3, 4), data(3)),
        (r"batch_norm: gamma: expected a vector of 3 channels", data(2, 3), data(4)),
        (r"batch_norm: gamma: expected a vector of 3 channels", data(2, 3), data(1, 3)),
        (
            r"batch_norm: gamma: expected the dtype of the input, float32, got float64",
            data(2, 3),
            data(3, dtype="float64"),
        ),
    ],
)
def test_batch_norm_refuses(message: str, x: np.ndarray, gamma: np.ndarray) -> None:
    with pytest.raises(ValueError, match=message):
        ops.batch_norm(x, gamma, data(3))


# Rectifier


@ON_EACH_DEVICE
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4, 5)])
def test_relu(place: str, shape: tuple[int, ...]) -> None:
    x = data(*shape) if shape else np.array(-0.5, "float32")
    assert_close(run(place, ops.relu, x), np.maximum(x, np.float32(0)), device=place)
    (ours,) = our_gradients(place, ops.relu, x)
    (theirs,) = torch_gradients(torch.relu, x)
    assert_close(ours, theirs, device=place)


def test_relu_at_zero_and_nan() -> None:
    x = np.array([0.0, -0.0, np.nan], "float32")
    np.testing.assert_array_equal(run("cpu", ops.relu, x), x)
    assert our_gradients("cpu", ops.relu, np.zeros(2, "float32"))[0].tolist() == [0, 0]


def test_relu_gradients_by_finite_differences() -> None:
    check_gradient(ops.relu, data(3, 4))

    def gradient(x: Any, g: Any) -> Any:
        return pytensor.grad(None, x, known_grads={ops.relu(x): g})

    check_gradient(gradient, data(3, 4), data(3, 4, seed=1))


def test_relu_does_not_write_into_what_is_read_again() -> None:
    x = device.shared(data(3, 4))
    h = pt.tanh(x)
    got = pytensor.function([], [ops.relu(h), h, ops.relu(x), x], mode=device.mode("cpu"))()
    value = data(3, 4)
    expected = [np.maximum(np.tanh(value), 0), np.tanh(value), np.maximum(value, 0), value]
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other)
    assert_close(x.get_value(), value)


@ON_EACH_DEVICE
@pytest.mark.parametrize("shape", [(), (2, 3, 4, 5)])
@pytest.mark.parametrize("slope", [0.2, 0.0, -0.5, 2.0])
def test_leaky_relu(place: str, shape: tuple[int, ...], slope: float) -> None:
    x = data(*shape) if shape else np.array(-0.5, "float32")

    def ours(x: Any) -> Any:
        return ops.leaky_relu(2 * x, slope)

    def theirs(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, 2 * x, 2 * slope * x)

    assert_close(run(place, ours, x), theirs(torch.tensor(x)), device=place)
    assert_close(our_gradients(place, ours, x)[0], torch_gradients(theirs, x)[0], device=place)


def test_second_derivative_of_leaky_relu() -> None:
    def gradient(x: Any, g: Any) -> Any:
        return pytensor.grad(None, x, known_grads={ops.leaky_relu(x, 0.2) ** 3: g})

    check_gradient(gradient, data(3, 4), data(3, 4, seed=1))


def test_leaky_relu_refuses_integers() -> None:
    with pytest.raises(ValueError, match="leaky_relu: input: expected floats, got"):
        ops.leaky_relu(pt.ivector(), 0.1)


# Cross-entropy


@ON_EACH_DEVICE
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_softmax_cross_entropy(place: str, scale: float) -> None:
    logits, labels = data(5, 7) * np.float32(scale), np.array([0, 6, 3, 3, 1])
    got = run(place, ops.softmax_cross_entropy, logits, labels)
    wide = logits.astype("float64")
    largest = wide.max(1)
    expected = largest + np.log(np.exp(wide - largest[:, None]).sum(1)) - wide[np.arange(5), labels]
    assert_close(got, expected.astype("float32"), device=place)
    x = pt.matrix("x", dtype="float32")
    g = np.array([1, 2, -1, 0.5, 0], "float32")
    gradient = pytensor.grad((ops.softmax_cross_entropy(x, labels) * g).sum(), x)
    softmax = np.exp(wide - largest[:, None]) / np.exp(wide - largest[:, None]).sum(1, keepdims=True)
    expected = (softmax - np.eye(7)[labels]) * g[:, None]
    ours = pytensor.function([x], gradient, mode=device.mode(place))(logits)
    assert_close(ours, expected.astype("float32"), device=place)


def test_softmax_cross_entropy_gradient_by_finite_differences() -> None:
    check_gradient(lambda x: ops.softmax_cross_entropy(x, np.array([0, 3, 2])), data(3, 4))


def test_second_derivative_of_softmax_cross_entropy() -> None:
    def gradient(x: Any, g: Any) -> Any:
        loss = ops.softmax_cross_entropy(x, np.array([0, 3, 2]))
        return pytensor.grad(None, x, known_grads={loss: g})

    check_gradient(gradient, data(3, 4), data(3))


@pytest.mark.parametrize(
    ("message", "logits", "labels"),
    [
        (r"softmax_cross_entropy: logits: expected 2 dimensions \(n, classes\)", data(3), np.arange(3)),
        (r"softmax_cross_entropy: labels: expected an int64 vector", data(3, 4), np.eye(3, dtype="int64")),
        (r"softmax_cross_entropy: labels: expected an int64 vector", data(3, 4), np.arange(3, dtype="int32")),
    ],
)
def test_softmax_cross_entropy_refuses(message: str, logits: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=message):
        ops.softmax_cross_entropy(logits, labels)


@pytest.mark.parametrize("label", [4, -1, -100])
def test_a_label_that_is_no_class_is_named(label: int) -> None:
    """Also the one that torch leaves out of a loss without a word."""
    with pytest.raises(
        IndexError, match=rf"^softmax_cross_entropy: labels: expected .* 0 to 3, got {label};"
    ):
        ops.softmax_cross_entropy(device.shared(data(3, 4)), np.array([1, label, 0])).eval()


# Dropout


def numpy_dropout_mask(keys: np.ndarray, shape: Sequence[int], p: float, salt: int) -> np.ndarray:
    kept = keyed_bits(keys, shape, salt) >= np.uint64(int(p * (1 << 24)))
    return np.where(kept, np.float32(1 / (1 - p)), np.float32(0)).astype("float32")


KEYS = np.array([0, 1, -1, 2**62 + 12345, -(2**63)])


@ON_EACH_DEVICE
@pytest.mark.parametrize(
    ("shape", "p", "salt"), [((7,), 0.5, 0), ((2, 3, 5), 0.25, 3), ((), 0.9, 12345), ((4,), 0.0, 1)]
)
def test_dropout_mask(place: str, shape: tuple[int, ...], p: float, salt: int) -> None:
    got = run(place, lambda keys: ops.dropout_mask(keys, shape, p, salt), KEYS)
    np.testing.assert_array_equal(got, numpy_dropout_mask(KEYS, shape, p, salt))


@ON_EACH_DEVICE
def test_uniform_and_normal_numbers_of_a_key(place: str) -> None:
    got = run(place, lambda keys: ops.uniform(keys, (2, 3), 5), KEYS)
    np.testing.assert_array_equal(got, keyed_uniform(KEYS, (2, 3), 5).astype("float32"))
    got = run(place, lambda keys: ops.normal(keys, (3,), 5), KEYS)
    np.testing.assert_allclose(got, keyed_normal(KEYS, (3,), 5), rtol=1e-5, atol=1e-6)


def test_uniform_numbers_are_never_0_or_1() -> None:
    extremes = Uniform((), 0).of_bits(torch.tensor([0, 2**24 - 1])).numpy()
    assert extremes[0] > 0
    assert extremes[1] < 1


def test_dropout_mask_of_a_sample_depends_on_its_key_alone() -> None:
    def mask(keys: np.ndarray, salt: int = 1) -> np.ndarray:
        return run("cpu", lambda k: ops.dropout_mask(k, (100,), 0.5, salt), keys)

    whole = mask(KEYS)
    np.testing.assert_array_equal(mask(KEYS[[3, 1]]), whole[[3, 1]])
    assert (mask(KEYS, salt=2) != whole).any(1).all()
    assert mask(KEYS[:0]).shape == (0, 100)


@ON_EACH_DEVICE
def test_sizes_of_a_dropout_mask_may_be_known_later(place: str) -> None:
    rows = pt.lscalar("rows")
    mask = ops.dropout_mask(pt.constant(KEYS), (1, rows, 3), 0.5, 7)
    assert mask.type.shape == (len(KEYS), 1, None, 3)
    function = pytensor.function([rows], mask, mode=device.mode(place))
    np.testing.assert_array_equal(function(2), numpy_dropout_mask(KEYS, (1, 2, 3), 0.5, 7))


def test_dropout_mask_statistics() -> None:
    """Frequency, and no correlation between neighbours along samples, elements or salts."""
    n, size, p = 400, 250, 0.3
    first, second = (
        run("cpu", lambda k, s=s: ops.dropout_mask(k, (size,), p, s), np.arange(n)) == 0 for s in (1, 2)
    )
    deviation = np.sqrt(p * (1 - p) / (n * size))
    assert abs(first.mean() - p) < 4 * deviation
    for a, b in ((first[1:], first[:-1]), (first[:, 1:], first[:, :-1]), (first, second)):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)


def test_dropout_mask_refuses() -> None:
    with pytest.raises(ValueError, match=r"dropout_mask: p: expected a probability in \[0, 1\), got 1"):
        ops.dropout_mask(KEYS, (3,), 1, 0)
    with pytest.raises(ValueError, match="dropout_mask: keys: expected an int64 vector"):
        ops.dropout_mask(KEYS.astype("float32"), (3,), 0.5, 0)


# In other modes


def test_ops_run_in_other_pytensor_modes_too() -> None:
    x, w = pt.tensor(dtype="float32", shape=(2, 3, 6, 6)), pt.tensor(dtype="float32", shape=(4, 3, 3, 3))
    y = ops.pool2d(
        ops.relu(ops.batch_norm(ops.conv2d(x, w), np.ones(4, "float32"), np.zeros(4, "float32"))[0]), 2
    )
    outputs = [y, *pytensor.grad((y**2).sum(), [x, w])]
    values = data(2, 3, 6, 6), data(4, 3, 3, 3)
    ours = pytensor.function([x, w], outputs, mode=device.mode("cpu"))(*values)
    theirs = pytensor.function([x, w], outputs, mode="FAST_COMPILE")(*values)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)
