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


def test_a_name_that_is_nowhere_is_named() -> None:
    with pytest.raises(AttributeError, match="has binary_crossentropy, .*; it has no 'h_softmax'"):
        T.nnet.h_softmax  # noqa: B018
    with pytest.raises(AttributeError, match="expected a name of PyTensor's or Theano's, got 'nowhere'"):
        T.nowhere  # noqa: B018


def test_modules_of_pytensor_are_found() -> None:
    assert T.nlinalg is sys.modules["pytensor.tensor.nlinalg"]
    assert theano.gradient is pytensor.gradient


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
