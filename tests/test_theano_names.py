"""What Theano's scripts find under its names, against torch and NumPy."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytensor
import pytest
import torch
import torch.nn.functional as F

from theanompi import device
from theanompi.device import shared

# Its import sets floatX for the whole process, where other tests expect PyTensor's own.
with pytensor.config.change_flags(floatX="float32"):
    import theanompi.theano as theano
    import theanompi.theano.tensor as T  # noqa: N812
    from theanompi.theano.sandbox.rng_mrg import MRG_RandomStreams
    from theanompi.theano.tensor.shared_randomstreams import RandomStreams
    from theanompi.theano.tensor.signal.downsample import max_pool_2d
    from theanompi.theano.tensor.signal.pool import pool_2d


@pytest.fixture(autouse=True)
def single_precision() -> Iterator[None]:
    with pytensor.config.change_flags(floatX="float32"):
        yield


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=shape).astype("float32")


def test_the_import_makes_floatx_float32_unless_it_is_set_and_the_example_runs() -> None:
    program = """
import doctest, sys
import theanompi.theano
from theanompi.theano.tensor import shared_randomstreams
if sys.argv[1:]:
    assert theanompi.theano.config.floatX == sys.argv[1], theanompi.theano.config.floatX
else:
    assert theanompi.theano.config.floatX == "float32"
    for module in (theanompi.theano, shared_randomstreams):
        ran = doctest.testmod(module)
        assert ran.attempted and not ran.failed
"""
    for flags, arguments in (("", []), ("floatX=float64", ["float64"])):
        command = ["env", f"PYTENSOR_FLAGS={flags}", sys.executable, "-c", program, *arguments]
        subprocess.run(command, check=True, timeout=120)


X = values(5, 4)
FUNCTIONS = {
    "sigmoid": (T.nnet.sigmoid, torch.sigmoid),
    "hard_sigmoid": (T.nnet.hard_sigmoid, lambda x: torch.clamp(0.2 * x + 0.5, 0, 1)),
    "softplus": (T.nnet.softplus, F.softplus),
    "softsign": (T.nnet.softsign, F.softsign),
    "softmax": (T.nnet.softmax, lambda x: F.softmax(x, 1)),
    "logsoftmax": (T.nnet.logsoftmax, lambda x: F.log_softmax(x, 1)),
    "relu": (T.nnet.relu, F.relu),
    "leaky": (lambda x: T.nnet.relu(x, 0.3), lambda x: F.leaky_relu(x, 0.3)),
    "leaky by a variable": (
        lambda x: T.nnet.relu(x, shared(np.float32(0.3))),
        lambda x: F.leaky_relu(x, 0.3),
    ),
    "leaky by column": (
        lambda x: T.nnet.relu(x, np.array([0.3, 0.2, 0.1, 0], "float32")),
        lambda x: torch.where(x > 0, x, x * torch.tensor([0.3, 0.2, 0.1, 0])),
    ),
    "elu": (T.nnet.elu, F.elu),
    "elu to another end": (lambda x: T.nnet.elu(x, 0.3), lambda x: F.elu(x, 0.3)),
    "softmax of a vector": (lambda x: T.nnet.softmax(x[0]), lambda x: F.softmax(x[:1], 1)),
    "logsoftmax of a vector": (lambda x: T.nnet.logsoftmax(x[0]), lambda x: F.log_softmax(x[:1], 1)),
    "selu": (T.nnet.selu, F.selu),
    "cross-entropy": (
        lambda x: T.nnet.categorical_crossentropy(T.nnet.softmax(x), np.arange(5) % 4),
        lambda x: F.cross_entropy(x, torch.arange(5) % 4, reduction="none"),
    ),
    "of bits": (
        lambda x: T.nnet.binary_crossentropy(T.nnet.sigmoid(x), np.float32(0.25)),
        lambda x: F.binary_cross_entropy(torch.sigmoid(x), torch.full_like(x, 0.25), reduction="none"),
    ),
    "of the sigmoid's input": (
        lambda x: T.nnet.sigmoid_binary_crossentropy(100 * x, np.float32(0.25)),
        lambda x: F.binary_cross_entropy_with_logits(100 * x, torch.full_like(x, 0.25), reduction="none"),
    ),
    "cross-entropy by Theano's keywords": (
        lambda x: T.nnet.categorical_crossentropy(coding_dist=T.nnet.softmax(x), true_dist=np.arange(5) % 4),
        lambda x: F.cross_entropy(x, torch.arange(5) % 4, reduction="none"),
    ),
    "of bits by Theano's keywords": (
        lambda x: T.nnet.binary_crossentropy(target=np.float32(0.25), output=T.nnet.sigmoid(x)),
        lambda x: F.binary_cross_entropy(torch.sigmoid(x), torch.full_like(x, 0.25), reduction="none"),
    ),
    "cross-entropy of classes": (
        lambda x: T.nnet.crossentropy_categorical_1hot(T.nnet.softmax(x), np.arange(5) % 4),
        lambda x: F.cross_entropy(x, torch.arange(5) % 4, reduction="none"),
    ),
    "cross-entropy of scores": (
        lambda x: T.nnet.crossentropy_softmax_1hot(x, np.arange(5) % 4)[0],
        lambda x: F.cross_entropy(x, torch.arange(5) % 4, reduction="none"),
    ),
    "softmax with biases": (
        lambda x: T.nnet.softmax_with_bias(x, np.float32([1, 0, 2, 0])),
        lambda x: F.softmax(x + torch.tensor([1, 0, 2, 0]), 1),
    ),
    "stacked, as once, one by one": (lambda x: T.stack(x[0], x[1]), lambda x: x[:2]),
    "stacked along an axis": (lambda x: T.stack([x[0], x[1]], 1), lambda x: x[:2].T),
    "stacked along an axis by its name": (lambda x: T.stack([x[0], x[1]], axis=1), lambda x: x[:2].T),
    "split into parts": (lambda x: T.split(x, [1, 3], 2, axis=1)[1], lambda x: x[:, 1:]),
    "reshaped": (lambda x: T.reshape(x, (2, -1), 2), lambda x: x.reshape(2, -1)),
    "tiled": (lambda x: T.tile(x, (2,), ndim=2), lambda x: x.tile(1, 2)),
    "inv": (T.inv, torch.reciprocal),
    "abs_": (T.abs_, torch.abs),
    "a name of PyTensor's": (T.tanh, torch.tanh),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_torchs_values(name: str) -> None:
    ours, theirs = FUNCTIONS[name]
    x = T.matrix("x")
    assert x.dtype == "float32"
    result = theano.function([x], ours(x), mode=device.mode("cpu"))(X)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, theirs(torch.from_numpy(X)).numpy(), rtol=2e-5, atol=1e-6)


def test_the_gradient_of_an_elu_is_a_number_however_large_its_input_is() -> None:
    x, as_written = T.vector("x"), theano.compile.Mode("py", None)
    f = theano.function([x], theano.grad(T.nnet.elu(x, 0.5).sum(), x), mode=as_written)
    np.testing.assert_allclose(f(np.array([200, -1], "float32")), [1, 0.5 * np.exp(-1)], rtol=1e-6)


@pytest.mark.parametrize("former", [False, True])
def test_images_are_convolved_and_pooled_under_former_names_of_arguments_too(former: bool) -> None:
    images, filters = values(2, 3, 7, 7), values(4, 3, 3, 3)
    x, w = T.tensor4("x"), T.tensor4("w")
    shapes = {"image_shape" if former else "input_shape": images.shape, "filter_shape": filters.shape}
    convolve = T.nnet.conv.conv2d if former else T.nnet.conv2d
    convolved = convolve(x, w, border_mode="half", subsample=(2, 1), **shapes)
    average: Any = {"ignore_border": True, "mode": "average_inc_pad"}
    if former:
        pooled = pool_2d(convolved, ds=(2, 2), st=(1, 2), padding=(1, 0), **average)
    else:
        pooled = pool_2d(convolved, (2, 2), stride=(1, 2), pad=(1, 0), **average)
    largest = max_pool_2d(convolved, (2, 2))
    got = theano.function([x, w], [pooled, largest])(images, filters)
    mirrored = torch.from_numpy(filters[:, :, ::-1, ::-1].copy())
    y = F.conv2d(torch.from_numpy(images), mirrored, stride=(2, 1), padding=1)
    expected = [F.avg_pool2d(y, 2, (1, 2), (1, 0)), F.max_pool2d(y, 2, ceil_mode=True)]
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-4, atol=1e-5)


def test_volumes_are_convolved_with_arguments_in_the_order_of_theano() -> None:
    volumes, filters = values(2, 3, 7, 6, 5), values(4, 3, 2, 3, 2)
    x, w = T.tensor5("x"), T.tensor5("w")
    convolved = T.nnet.conv3d(x, w, volumes.shape, filters.shape, "valid", (2, 1, 1), False, (2, 1, 3))
    got = theano.function([x, w], convolved)(volumes, filters)
    expected = F.conv3d(*map(torch.from_numpy, (volumes, filters)), stride=(2, 1, 1), dilation=(2, 1, 3))
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_films_are_convolved_with_time_before_the_channels() -> None:
    films, filters = values(2, 6, 3, 7, 5), values(4, 2, 3, 3, 2)
    x, w = T.tensor5("x"), T.tensor5("w")
    convolved = T.nnet.conv3d2d.conv3d(x, w, films.shape, filters.shape, "full")
    got = theano.function([x, w], convolved)(films, filters)
    mirrored = torch.from_numpy(filters[:, ::-1, :, ::-1, ::-1].copy())
    by_channel = [a.transpose(1, 2) for a in (torch.from_numpy(films), mirrored)]
    expected = F.conv3d(*by_channel, padding=(1, 2, 1)).transpose(1, 2)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", [pool_2d, max_pool_2d])
@pytest.mark.parametrize("shape", [(7, 5), (3, 7, 5), (2, 3, 7, 5), (2, 2, 3, 7, 5)])
def test_the_last_two_axes_are_pooled_with_the_border_unless_it_is_ignored(pool: Any, shape: Any) -> None:
    x, images = T.tensor("x", shape=(None,) * len(shape)), values(*shape)
    outputs = [pool(x, (2, 2)), pool(x, (2, 2), ignore_border=True), pool(x, (2, 2), mode="sum")]
    got = theano.function([x], outputs)(images)
    y = torch.from_numpy(images).reshape(-1, 1, *shape[-2:])
    summed = 4 * F.avg_pool2d(F.pad(y, (0, 1, 0, 1)), 2)
    for one, other in zip(got, [F.max_pool2d(y, 2, ceil_mode=True), F.max_pool2d(y, 2), summed], strict=True):
        np.testing.assert_allclose(one, other.reshape(*shape[:-2], *other.shape[-2:]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("border", ["valid", "half", "full", (1, 0)])
def test_the_transpose_of_a_convolution_has_the_size_that_it_is_given(border: Any) -> None:
    gradient, filters, size = values(2, 4, 4, 4), values(4, 3, 3, 2), (None, 3, 8, 7)
    pad = {"valid": (0, 0), "half": (1, 1), "full": (2, 1)}.get(border, border)
    # As long as the convolution makes 4 x 4 of, with a row and a column that it does not reach.
    rows, columns = 2 * 3 + 3 + 1 - 2 * pad[0], 2 * 3 + 2 + 1 - 2 * pad[1]
    g, w = T.tensor4("g"), T.TensorType("float32", shape=filters.shape)("w")
    size = (None, 3, rows, columns)
    op = T.nnet.abstract_conv.AbstractConv2d_gradInputs(
        imshp=size, kshp=filters.shape, subsample=(2, 2), border_mode=border, filter_flip=False
    )
    outputs = [
        T.nnet.conv2d_transpose(g, w, size, filters.shape, border, (2, 2), filter_flip=True),
        op(w, g, size[2:]),
    ]
    got = theano.function([g, w], outputs, mode=device.mode("cpu"))(gradient, filters)
    for one, kernel in zip(got, (filters[:, :, ::-1, ::-1].copy(), filters), strict=True):
        x, kernel = torch.from_numpy(gradient), torch.from_numpy(kernel)
        expected = F.conv_transpose2d(x, kernel, stride=2, padding=pad, output_padding=1)
        np.testing.assert_allclose(one, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_images_are_enlarged_linearly_between_pixels(ratio: int) -> None:
    x, images = T.tensor4("x"), values(2, 2, 3, 4)
    f = theano.function([x], T.nnet.abstract_conv.bilinear_upsampling(x, ratio), mode=device.mode("cpu"))
    expected = images
    for axis in (2, 3):
        n = images.shape[axis]
        pixels, places = ratio * np.arange(n) + (ratio - 1) // 2, np.arange(ratio * n)
        expected = np.apply_along_axis(lambda row: np.interp(places, pixels, row), axis, expected)  # noqa: B023
    np.testing.assert_allclose(f(images), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="expected a whole ratio, got frac_ratio="):
        T.nnet.abstract_conv.bilinear_upsampling(x, frac_ratio=(3, 2))


@pytest.mark.parametrize(
    "mode, step", [("valid", None), ("ignore_borders", (1, 2)), ("half", (2, 1)), ("full", None)]
)
def test_patches_of_images_are_rows_in_the_order_of_the_images(mode: str, step: Any) -> None:
    images, (height, width) = values(2, 3, 6, 7), (3, 2)
    x = T.tensor4("x")
    rows = T.nnet.neighbours.images2neibs(x, (height, width), step, mode)
    pad = {"half": (1, 1), "full": (2, 1)}.get(mode, (0, 0))
    padded = np.pad(images, [(0, 0), (0, 0), *((p, p) for p in pad)])
    down, across = step or (height, width)
    expected = [
        padded[i, c, r : r + height, s : s + width].ravel()
        for i in range(2)
        for c in range(3)
        for r in range(0, padded.shape[2] - height + 1, down)
        for s in range(0, padded.shape[3] - width + 1, across)
    ]
    np.testing.assert_array_equal(theano.function([x], rows, mode=device.mode("cpu"))(images), expected)


@pytest.mark.parametrize("mode, columns", [("valid", 8), ("ignore_borders", 9)])
def test_patches_are_put_together_again(mode: str, columns: int) -> None:
    images = values(2, 3, 6, columns)
    x = T.tensor4("x")
    rows = T.nnet.neighbours.images2neibs(x, (3, 2), mode=mode)
    again = T.nnet.neighbours.neibs2images(rows, (3, 2), x.shape, mode)
    images[:, :, :, 8:] = 0
    np.testing.assert_array_equal(theano.function([x], again, mode=device.mode("cpu"))(images), images)


@pytest.mark.parametrize("axes, over", [("per-activation", (0,)), ("spatial", (0, 2, 3)), ((0, 2), (0, 2))])
@pytest.mark.parametrize("whole", [False, True])
def test_batches_are_normalised_as_numpy_would(axes: Any, over: tuple[int, ...], whole: bool) -> None:
    x = values(5, 3, 4, 2)
    shape = [1 if axis in over else n for axis, n in enumerate(x.shape)]
    gamma, beta, mean, var = (np.abs(values(i, *shape)[0]) for i in (1, 2, 3, 4))
    given = [p if whole else p.squeeze(over) for p in (gamma, beta, mean, var)]
    v = [T.tensor("p", shape=(None,) * p.ndim) for p in given]
    inputs = T.tensor4("x")
    trained = T.nnet.bn.batch_normalization_train(inputs, v[0], v[1], axes, 1e-3, 0.3, v[2], v[3])
    assert len(T.nnet.bn.batch_normalization_train(inputs, v[0], v[1], axes)) == 3
    tested = T.nnet.bn.batch_normalization_test(inputs, *v, axes=axes, epsilon=1e-3)
    got = theano.function([inputs, *v], [*trained, tested], mode=device.mode("cpu"))(x, *given)
    wide = x.astype("float64")
    mu, sigma2, m = wide.mean(over, keepdims=True), wide.var(over, keepdims=True), x.size / mean.size
    expected = [
        (wide - mu) / np.sqrt(sigma2 + 1e-3) * gamma + beta,
        *(mu, 1 / np.sqrt(sigma2 + 1e-3)),
        *(0.7 * mean + 0.3 * mu, 0.7 * var + 0.3 * sigma2 * m / (m - 1)),
        (wide - mean) / np.sqrt(var + 1e-3) * gamma + beta,
    ]
    for i, (one, other) in enumerate(zip(got, expected, strict=True)):
        other = other if whole or i in (0, 5) else other.squeeze(over)
        assert one.shape == other.shape and one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-5)


def test_a_batch_is_normalised_by_what_it_is_given() -> None:
    x, row = T.matrix("x"), np.float32([[1, 2, 3, 4]])
    y = T.nnet.batch_normalization(x, row, 2 * row, x.mean(0, keepdims=True), row + 1)
    expected = (X - X.mean(0)) / (row + 1) * row + 2 * row
    f = theano.function([x], y, mode=device.mode("cpu"))
    np.testing.assert_allclose(f(X), expected, rtol=1e-4, atol=1e-6)
    for wrong, message in (
        ({"axes": "rows"}, "expected axes per-activation or"),
        ({}, "expected gamma of 2 or 1"),
    ):
        with pytest.raises(ValueError, match=message):
            T.nnet.bn.batch_normalization_train(x, T.tensor3(), T.tensor3(), **wrong)


def test_a_name_that_is_nowhere_is_named() -> None:
    with pytest.raises(AttributeError, match="expected one of its names, got 'h_softmax'; see .*logsoftmax"):
        T.nnet.h_softmax  # noqa: B018
    with pytest.raises(AttributeError, match="expected a name of PyTensor's or Theano's, got 'nowhere'"):
        T.nowhere  # noqa: B018


def test_modules_of_pytensor_are_found() -> None:
    assert T.nlinalg is sys.modules["pytensor.tensor.nlinalg"]
    assert theano.gradient.DisconnectedType is pytensor.gradient.DisconnectedType
    with pytest.raises(AttributeError, match="expected a name of PyTensor's or Theano's, got 'nowhere'"):
        theano.nowhere  # noqa: B018


LINES = """
from theanompi.theano import config, function, shared, tensor
from theanompi.theano.compile import SharedVariable
from theanompi.theano.compile.nanguardmode import NanGuardMode
from theanompi.theano.gof.graph import inputs
from theanompi.theano.gradient import consider_constant, disconnected_grad
from theanompi.theano.printing import Print, debugprint
from theanompi.theano.scan_module import until
from theanompi.theano.scan_module.scan_utils import until
from theanompi.theano.tensor.extra_ops import cumsum, to_one_hot
from theanompi.theano.tensor.nnet.abstract_conv import bilinear_upsampling
from theanompi.theano.tensor.nnet.bn import batch_normalization
from theanompi.theano.tensor.nnet.neighbours import images2neibs
from theanompi.theano.tensor.nnet.nnet import softmax
from theanompi.theano.tensor.nnet.sigm import sigmoid
from theanompi.theano.tensor.sharedvar import TensorSharedVariable
from theanompi.theano.updates import OrderedUpdates
from theanompi.theano.sparse import SparseType, SparseVariable, csr_matrix, structured_dot
import theanompi.theano.sparse
import theanompi.theano.tensor.slinalg
"""


@pytest.mark.parametrize("line", LINES.strip().splitlines())
def test_an_import_line_finds_what_pytensor_has_in_the_place_of_a_module(line: str) -> None:
    exec(line, {})


def test_a_module_of_pytensor_is_there_once() -> None:
    from theanompi.theano.compile import io, nanguardmode

    assert io is sys.modules["pytensor.compile.io"]
    assert nanguardmode.__name__ == "pytensor.compile.debug.nanguardmode" == nanguardmode.__spec__.name
    with pytest.raises(ModuleNotFoundError, match=r"theanompi\.theano\.sandbox\.cuda"):
        import theanompi.theano.sandbox.cuda  # noqa: F401


def test_a_graph_is_searched_as_with_gof() -> None:
    x, w = T.vector("x"), theano.shared(np.float32(2))
    y = 1 + w * x
    assert {v for v in theano.gof.graph.inputs([y]) if not isinstance(v, theano.gof.Constant)} == {x, w}
    assert {x, w, y} < set(theano.gof.graph.ancestors([y]))
    assert {x, y} < set(theano.gof.graph.variables([x, w], [y]))
    assert theano.gof.graph.io_toposort([x, w], [y])[-1] is y.owner


def test_a_loop_ends_where_its_condition_says() -> None:
    until = theano.scan_module.until
    powers, _ = theano.scan(
        lambda x: (2 * x, until(x > 5)), outputs_info=T.constant(np.float32(1)), n_steps=50
    )
    np.testing.assert_array_equal(theano.function([], powers, mode=device.mode("cpu"))(), [2, 4, 8, 16])


def test_what_is_considered_constant_has_a_gradient_of_zero() -> None:
    x = T.vector("x")
    y = theano.gradient.consider_constant(x**2)
    f = theano.function(
        [x], [y, T.grad((x * y + T.consider_constant(3 * x)).sum(), x)], mode=device.mode("cpu")
    )
    np.testing.assert_array_equal(f(np.float32([2, 3])), [[4, 9], [4, 9]])


def test_an_input_has_a_default_value_and_outputs_have_names() -> None:
    x, rate, scale = T.vector("x"), T.scalar("rate"), T.scalar("scale")
    inputs = [x, theano.In(rate, value=2), theano.Param(scale, default=10)]
    f = theano.function(inputs, {"sum": (x * rate).sum() * scale, "x": x}, mode=device.mode("cpu"))
    one = np.float32([1, 2])
    calls = [f(one), f(one, 3), f(one, scale=1), f(rate=5, x=one), f(one, 1, 1)]
    assert [float(call["sum"]) for call in calls] == [60, 90, 6, 150, 3]
    np.testing.assert_array_equal(calls[0]["x"], one)
    assert len(f.maker.fgraph.outputs) == 2
    with pytest.raises(TypeError, match="Missing input: x"):
        f()
    assert theano.function([x], [x], name="plain").name == "plain"


def test_flags_that_theano_had_are_pytensors_or_have_no_effect_with_a_word() -> None:
    config = theano.config
    assert config.floatX == "float32" and config.device == "cpu"
    assert config.scan.allow_gc == pytensor.config.scan__allow_gc
    with config.change_flags(floatX="float64"):
        assert T.matrix().dtype == "float64"
        config.floatX = "float32"
        assert pytensor.config.floatX == "float32"
    with pytensor.config.change_flags(scan__allow_gc=True):
        config.scan.allow_gc = False
        assert pytensor.config.scan__allow_gc is False
    with pytest.warns(
        UserWarning, match="config.dnn.conv.algo_fwd = 'small' has no effect: PyTensor has no such"
    ):
        config.dnn.conv.algo_fwd = "small"
    with pytest.warns(UserWarning, match="config.optimizer = 'None' has no effect: .* PYTENSOR_FLAGS"):
        config.optimizer = "None"
    with pytest.raises(AttributeError, match=r"theano\.config\.dnn\.enabled: PyTensor has no such flag"):
        config.dnn.enabled  # noqa: B018


def test_updates_are_added() -> None:
    a, b = theano.shared(1), theano.shared(2)
    first = theano.OrderedUpdates({a: a + 1})
    assert list(first + {b: b + 1}) == list([(a, first[a])] + theano.OrderedUpdates({b: b + 1})) == [a, b]
    with pytest.raises(KeyError, match="expected one update"):
        first + {a: a + 2}
    _, none = theano.map(lambda one: one, T.vector())
    assert isinstance(none, theano.OrderedUpdates) and list(none + first) == [a]


@pytest.mark.parametrize("streams", [RandomStreams, MRG_RandomStreams])
def test_random_numbers_go_by_the_seed_and_are_new_at_each_call(streams: type[RandomStreams]) -> None:
    def drawn(seed: int) -> Any:
        random = streams(seed)
        return theano.function([], [random.uniform((2000, 3), -1, 3), random.normal((2000, 3), 5, 2)])

    draw = drawn(1)
    first, second = draw(), draw()
    for one, other in zip(first, drawn(1)(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one in (second[0], drawn(2)()[0]):
        # Of so many numbers of 24 bits a few are the same by chance.
        assert np.isin(one, first[0]).mean() < 0.01
    uniform, normal = first
    assert uniform.dtype == normal.dtype == np.float32
    assert -1 < uniform.min() < -0.99 and 2.99 < uniform.max() < 3 and abs(uniform.mean() - 1) < 0.06
    assert abs(normal.mean() - 5) < 0.1 and abs(normal.std() - 2) < 0.1
    assert len(np.unique(uniform)) > 5990


def test_bits_and_columns_are_drawn_as_often_as_their_probabilities_say() -> None:
    random, x, p = RandomStreams(7), T.matrix("x"), T.vector("p")
    bits = random.binomial(x.shape, p=p, dtype=x.dtype)
    sums = random.binomial((4000,), n=3, p=0.25)
    # Probabilities whose sum is not 1, as it is by rounding, count by their share in it.
    rows = random.multinomial(pvals=T.tile(p / 2, (4000, 1)))
    twice = random.multinomial(n=2, pvals=T.tile(p / p.sum(), (4000, 1)), dtype="float32")
    probabilities = np.array([0.1, 0.4, 0.9], "float32")
    f = theano.function([x, p], [bits, sums, rows, twice])
    got_bits, got_sums, got_rows, got_twice = f(values(4000, 3), probabilities)
    assert got_bits.shape == (4000, 3) and got_bits.dtype == np.float32 and got_sums.dtype == np.int64
    np.testing.assert_allclose(got_bits.mean(0), probabilities, atol=0.03)
    np.testing.assert_allclose(
        np.bincount(got_sums) / 4000, [0.421875, 0.421875, 0.140625, 0.015625], atol=0.03
    )
    shares = probabilities / probabilities.sum()
    for times, drawn in ((1, got_rows), (2, got_twice)):
        assert (drawn.sum(1) == times).all()
        np.testing.assert_allclose(drawn.mean(0), times * shares, atol=0.04 * times)


def test_whole_numbers_and_orders_are_drawn_as_often_as_each_other() -> None:
    random, x = RandomStreams(7), T.matrix("x")
    p, words = np.float32([1, 2, 7]), np.int64([20, 50, 90])
    outputs = [
        random.random_integers((4000,), 3, 6),
        random.choice((4000,), 4),
        random.choice((2000, 2), words, p=p),
        random.permutation((4000,), 3),
        random.shuffle_row_elements(x),
        random.truncated_normal((4000,), 1, 2),
        random.binomial((4000,), prob=0.9),
    ]
    rows = np.arange(4000 * 3, dtype="float32").reshape(-1, 3)
    numbers, four, chosen, orders, shuffled, normal, bits = theano.function([x], outputs)(rows)
    np.testing.assert_allclose(np.bincount(numbers) / 4000, [0, 0, 0, *[0.25] * 4], atol=0.03)
    np.testing.assert_allclose(np.bincount(four) / 4000, [0.25] * 4, atol=0.03)
    assert chosen.shape == (2000, 2)
    found, counts = np.unique(chosen, return_counts=True)
    np.testing.assert_array_equal(found, words)
    np.testing.assert_allclose(counts / 4000, [0.1, 0.2, 0.7], atol=0.03)
    for drawn in (orders, shuffled - rows[:, :1]):
        found, counts = np.unique(drawn, axis=0, return_counts=True)
        assert len(found) == 6 and (np.sort(found, 1) == [0, 1, 2]).all()
        np.testing.assert_allclose(counts / 4000, [1 / 6] * 6, atol=0.03)
    # The standard deviation of a normal distribution that is cut at two of its own is 0.8796 of it.
    assert -3 <= normal.min() < -2.9 and 4.9 < normal.max() <= 5 and normal.dtype == np.float32
    assert abs(normal.mean() - 1) < 0.1 and abs(normal.std() - 2 * 0.8796) < 0.06
    assert abs(bits.mean() - 0.9) < 0.03
    with pytest.raises(ValueError, match="expected replace=True; permutation"):
        random.choice((2,), 5, replace=False)


def test_a_new_seed_counts_in_functions_that_are_compiled_too() -> None:
    random = RandomStreams(1)
    f = theano.function([], random.uniform((5,)), updates=random.updates())
    random.seed(4)
    first, second = f(), f()
    random.seed(4)
    assert (first != second).all() and (f() == first).all()


def test_a_scalar_is_drawn_too() -> None:
    f = theano.function([], RandomStreams(3).uniform())
    assert f().shape == () and f() != f()


def test_without_a_size_each_of_the_parameters_has_a_number_of_its_own() -> None:
    random, ends, p = RandomStreams(5), T.vector("ends"), T.matrix("p")
    outputs = [
        random.uniform(low=-ends, high=ends),
        random.normal(None, 0, ends),
        random.uniform(None, 0, T.shape_padright(ends)),
        random.binomial(p=p),
    ]
    uniform, normal, column, bits = theano.function([ends, p], outputs)(
        np.full(500, 3, "float32"), np.full((20, 50), 0.3, "float32")
    )
    assert uniform.shape == normal.shape == (500,) and column.shape == (500, 1) and bits.shape == (20, 50)
    assert len(np.unique(uniform)) == len(np.unique(normal)) == len(np.unique(column)) == 500
    assert -3 < uniform.min() < -2.9 and 2.9 < uniform.max() < 3 and abs(normal.std() - 3) < 0.3
    assert abs(bits.mean() - 0.3) < 0.05


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_of_no_dtype_are_of_floatx(dtype: str) -> None:
    with pytensor.config.change_flags(floatX=dtype):
        random = RandomStreams(3)
        drawn = [random.uniform((2,)), random.normal((2,), dtype=None), random.normal((2,), T.dscalar())]
    assert {x.dtype for x in drawn} == {dtype}


def test_a_loop_gives_its_updates_without_a_warning() -> None:
    random = RandomStreams(3)
    outputs, updates = theano.scan(
        lambda total: total + random.normal((3,)), outputs_info=[T.zeros((3,))], n_steps=4
    )
    f = theano.function([], outputs, updates=updates)
    first, second = f(), f()
    steps = np.diff(np.concatenate([np.zeros((1, 3)), first]), axis=0)
    assert len(np.unique(steps.round(5))) == 12
    assert not np.isclose(first, second).any()


def test_the_other_loops_are_there_without_a_warning_too() -> None:
    x, zero = T.vector("x"), T.constant(np.float32(0))
    doubled, _ = theano.map(lambda one: 2 * one, x)
    total, _ = theano.reduce(lambda one, total: total + one, x, zero)
    left, _ = theano.foldl(lambda one, total: one - total, x, zero)
    right, _ = theano.foldr(lambda one, total: one - total, x, zero)
    f = theano.function([x], [doubled, total, left, right], mode=device.mode("cpu"))
    got = f(np.array([1, 3, 7], "float32"))
    np.testing.assert_array_equal(got[0], [2, 6, 14])
    assert got[1:] == [11, 5, 5]


@pytest.mark.parametrize("attribute", [False, True])
def test_an_op_of_a_graph_has_the_gradient_that_it_is_given(attribute: bool) -> None:
    """Guided back-propagation, whose gradient passes where input and cotangent are positive."""

    def guided(inputs: Any, gradients: Any) -> tuple[Any]:
        (x,), (g,) = inputs, gradients
        return (g * (x > 0).astype(x.dtype) * (g > 0).astype(g.dtype),)

    inner = T.matrix()
    if attribute:
        op = theano.OpFromGraph([inner], [T.nnet.relu(inner)])
        op.grad = guided
    else:
        op = theano.OpFromGraph([inner], [T.nnet.relu(inner)], grad_overrides=guided)
    x, weights = T.matrix("x"), values(5, 4)[::-1]
    got = theano.function([x], theano.grad((op(x) * weights).sum(), x))(X)
    np.testing.assert_allclose(got, weights * (X > 0) * (weights > 0))


def test_a_copy_has_other_variables_in_the_place_of_some() -> None:
    x, y = T.vector("x"), T.vector("y")
    copied = theano.clone(2 * x + 1, replace={x: y**2})
    f = theano.function([y], copied, mode=device.mode("cpu"))
    np.testing.assert_allclose(f(np.array([1, 3], "float32")), [3, 19])


def test_a_copy_may_have_inputs_of_its_own_and_other_types() -> None:
    x, y = T.vector("x"), T.matrix("y")
    assert theano.clone(2 * x).owner.inputs[1] is x
    assert theano.clone(2 * x, share_inputs=False).owner.inputs[1] is not x
    assert theano.clone(2 * x, {x: T.dvector()}, strict=False).dtype == "float64"
    with pytest.raises(TypeError, match="Cannot convert"):
        theano.clone(2 * x, {x: y})


def test_axes_are_flattened_and_told_of_as_in_theano() -> None:
    x = T.tensor4("x")
    assert T.flatten(x, outdim=2).ndim == T.flatten(x, 2).ndim == 2
    assert T.flatten(x).ndim == 1
    assert T.addbroadcast(T.matrix(), 1).type.shape == (None, 1)
    assert T.patternbroadcast(x, (False, True, False, True)).type.shape == (None, 1, None, 1)
    assert T.unbroadcast(x, 0) is x
    assert theano.pp(T.vector("v") + T.vector("w")) == "(v + w)"
