"""Initialisers, objectives, penalties, the generator and the small helpers, against NumPy and torch."""

import threading

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
import torch.nn.functional as F

from theanompi import device
from theanompi.lasagne import init, objectives, regularization
from theanompi.lasagne.layers import DenseLayer, InputLayer
from theanompi.lasagne.nonlinearities import sigmoid, softmax
from theanompi.lasagne.random import get_rng, set_rng
from theanompi.lasagne.utils import as_tuple, collect_shared_vars, create_param, int_types


def run(outputs, *inputs):
    """Evaluate at (variable, value) pairs."""
    variables, values = zip(*inputs, strict=True) if inputs else ((), ())
    return pytensor.function(list(variables), outputs, mode=device.mode())(*values)


@pytest.fixture(autouse=True)
def _seed():
    set_rng(np.random.default_rng(7))


CONV, DENSE = (64, 32, 3, 3), (300, 200)


@pytest.mark.parametrize(
    ("initializer", "shape", "std"),
    [
        (init.Normal(), DENSE, 0.01),
        (init.Normal(0.2), CONV, 0.2),
        (init.Uniform(std=0.3), CONV, 0.3),
        (init.Uniform(0.5), CONV, 1 / np.sqrt(12)),
        (init.Uniform((-0.25, 0.25)), CONV, 0.5 / np.sqrt(12)),
        (init.GlorotNormal(), DENSE, np.sqrt(2 / 500)),
        (init.GlorotNormal("relu"), CONV, np.sqrt(4 / (96 * 9))),
        (init.GlorotUniform(0.5), DENSE, 0.5 * np.sqrt(2 / 500)),
        (init.GlorotUniform(), CONV, np.sqrt(2 / (96 * 9))),
        (init.HeNormal("relu"), CONV, np.sqrt(2 / (32 * 9))),
        (init.HeNormal(), DENSE, np.sqrt(1 / 300)),
        (init.HeUniform(2), CONV, 2 * np.sqrt(1 / (32 * 9))),
    ],
)
def test_standard_deviation_and_mean(initializer, shape, std):
    sample = initializer(shape)
    assert (sample.dtype, sample.shape) == (np.float32, shape)
    error = 4 / np.sqrt(sample.size)  # four standard errors of the mean, in units of the deviation
    assert abs(sample.std() / std - 1) < error
    assert abs(sample.mean() / std) < error
    bounded = "Uniform" in type(initializer).__name__
    assert (abs(sample).max() <= np.sqrt(3) * std * 1.0001) == bounded


def test_normal_and_uniform_have_a_mean():
    assert abs(init.Normal(0.1, mean=3.0)((1000,)).mean() - 3) < 0.02
    assert init.Uniform(std=0.1, mean=3.0).range == pytest.approx((3 - 0.1 * 3**0.5, 3 + 0.1 * 3**0.5))


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3), (4, 2, 3, 3)])
def test_orthogonal(shape):
    w = init.Orthogonal("relu")(shape).reshape(shape[0], -1)
    small = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(small, 2 * np.eye(len(small)), atol=1e-5)


def test_constant():
    np.testing.assert_array_equal(init.Constant(0.3)((2, 2)), np.full((2, 2), 0.3, "float32"))


@pytest.mark.parametrize("initializer", [init.HeNormal(), init.GlorotUniform(), init.Orthogonal()])
def test_initialisers_that_need_a_matrix(initializer):
    what = type(initializer).__name__
    with pytest.raises(ValueError, match=rf"{what}: expected a shape of 2 or more dimensions, got \(3,\)"):
        initializer((3,))


def test_unknown_gain():
    with pytest.raises(ValueError, match="gain: expected a number or 'relu', got 'selu'"):
        init.HeNormal("selu")


def test_initialisers_draw_from_the_set_generator():
    draws = []
    for seed in (1, 1, 2):
        set_rng(np.random.default_rng(seed))
        draws.append(DenseLayer((None, 3), 2).W.get_value())
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    set_rng(np.random.RandomState(1))  # as Lasagne's recipes do
    assert init.Orthogonal()((3, 3)).shape == init.HeUniform()((3, 3)).shape


def test_without_a_generator_one_is_seeded_with_zero_in_each_context():
    set_rng(np.random.default_rng(5))
    draws = []
    thread = threading.Thread(target=lambda: draws.extend([get_rng().normal(), get_rng().normal()]))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(draws, np.random.default_rng(0).normal(size=2))
    assert get_rng().normal() == np.random.default_rng(5).normal()


def test_set_rng_refuses_a_seed():
    with pytest.raises(ValueError, match="set_rng: expected a numpy.random.Generator or RandomState, got 3"):
        set_rng(3)


PREDICTIONS = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.3, 0.4, 0.3]], "float32")
LABELS = np.array([0, 1, 2])


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
@pytest.mark.parametrize("from_softmax", [True, False])
def test_categorical_crossentropy_of_labels(dtype, from_softmax):
    x, labels = pt.fmatrix(), pt.vector(dtype=dtype)
    loss = objectives.categorical_crossentropy(softmax(x) if from_softmax else x, labels)
    value, gradient = run(
        [loss, pytensor.grad(loss.sum(), x)], (x, PREDICTIONS), (labels, LABELS.astype(dtype))
    )
    leaf = torch.tensor(PREDICTIONS, requires_grad=True)
    logits = leaf if from_softmax else leaf.log()
    rows = torch.log_softmax(logits, 1) if from_softmax else logits
    expected = F.nll_loss(rows, torch.tensor(LABELS), reduction="none")
    expected.sum().backward()
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-5)
    np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("from_softmax", [True, False])
def test_categorical_crossentropy_of_distributions(from_softmax):
    x, targets = pt.fmatrix(), pt.fmatrix()
    loss = objectives.categorical_crossentropy(softmax(x) if from_softmax else x, targets)
    q = np.array([[0.5, 0.5, 0], [0, 1, 0], [0.2, 0.3, 0.5]], "float32")
    value, gradient = run([loss, pytensor.grad(loss.sum(), x)], (x, PREDICTIONS), (targets, q))
    leaf = torch.tensor(PREDICTIONS, requires_grad=True)
    logs = torch.log_softmax(leaf, 1) if from_softmax else leaf.log()
    expected = -(torch.tensor(q) * logs).sum(1)
    expected.sum().backward()
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-5)
    np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-5, atol=1e-7)


def test_crossentropies_from_logits_do_not_overflow():
    x, labels, targets = pt.fmatrix(), pt.lvector(), pt.fmatrix()
    losses = [
        objectives.categorical_crossentropy(softmax(x), labels),
        objectives.categorical_crossentropy(softmax(x), targets),
        objectives.binary_crossentropy(sigmoid(x), targets)[:, 0],
    ]
    gradients = [pytensor.grad(loss.sum(), x) for loss in losses]
    logits = np.array([[-200, 200]], "float32")
    one_hot = np.array([[1, 0]], "float32")
    values = run(losses + gradients, (x, logits), (labels, [0]), (targets, one_hot))
    np.testing.assert_allclose(np.concatenate(values[:3]), [400, 400, 200], rtol=1e-5)
    np.testing.assert_allclose(values[3], [[-1, 1]], atol=1e-6)
    np.testing.assert_allclose(values[4], [[-1, 1]], atol=1e-6)
    np.testing.assert_allclose(values[5], [[-1, 0]], atol=1e-6)


@pytest.mark.parametrize("from_sigmoid", [True, False])
def test_binary_crossentropy(from_sigmoid):
    x, bits = pt.fmatrix(), pt.lmatrix()
    loss = objectives.binary_crossentropy(sigmoid(x) if from_sigmoid else x, bits)
    t = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1]])
    value, gradient = run([loss, pytensor.grad(loss.sum(), x)], (x, PREDICTIONS), (bits, t))
    leaf = torch.tensor(PREDICTIONS, requires_grad=True)
    p = torch.sigmoid(leaf) if from_sigmoid else leaf
    expected = F.binary_cross_entropy(p, torch.tensor(t, dtype=torch.float32), reduction="none")
    expected.sum().backward()
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-5)
    np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-5, atol=1e-6)


def test_squared_error_of_a_column_and_a_vector():
    column, vector = pt.TensorType("float32", shape=(None, 1))(), pt.lvector()
    value = run(objectives.squared_error(column, vector), (column, np.float32([[1], [2]])), (vector, [3, 5]))
    np.testing.assert_array_equal(value, [[4], [9]])


def test_categorical_accuracy():
    x, labels, one_hot = pt.fmatrix(), pt.lvector(), pt.fmatrix()
    rng = np.random.default_rng(0)
    scores = rng.integers(6, size=(200, 7)).astype("float32")  # with ties
    y = rng.integers(7, size=200)
    for k in (1, 2, 5, 7):
        got = run(objectives.categorical_accuracy(x, labels, top_k=k), (x, scores), (labels, y))
        expected = [
            label in np.argsort(-row, kind="stable")[:k] for row, label in zip(scores, y, strict=True)
        ]
        np.testing.assert_array_equal(got, expected)
        hot = np.eye(7, dtype="float32")[y]
        again = run(objectives.categorical_accuracy(x, one_hot, top_k=k), (x, scores), (one_hot, hot))
        np.testing.assert_array_equal(again, expected)
    assert got.dtype == np.float32


def test_categorical_accuracy_of_nan_is_zero():
    x, labels = pt.fmatrix(), pt.lvector()
    scores = np.float32([[np.nan, np.nan], [1, np.nan]])
    got = run(objectives.categorical_accuracy(x, labels), (x, scores), (labels, [0, 0]))
    np.testing.assert_array_equal(got, [0, 0])


@pytest.mark.parametrize("function", [objectives.categorical_crossentropy, objectives.categorical_accuracy])
def test_targets_of_the_wrong_rank_or_kind(function):
    message = rf"{function.__name__}: expected predictions \(n, classes\) and targets .* got predictions "
    with pytest.raises(ValueError, match=message + r"Matrix.* and targets Vector\(float32"):
        function(pt.fmatrix(), pt.fvector())
    with pytest.raises(ValueError, match=message + r"Tensor3"):
        function(pt.ftensor3(), pt.lvector())


def test_aggregate():
    loss, weights = np.float32([1, 2, 6]), np.float32([1, 0.5, 0])
    got = [run(objectives.aggregate(pt.constant(loss), pt.constant(weights), mode)) for mode in
           ("mean", "sum", "normalized_sum")]  # fmt: skip
    np.testing.assert_allclose(got, [2 / 3, 2, 2 / 1.5], rtol=1e-6)
    np.testing.assert_allclose(run(objectives.aggregate(pt.constant(loss))), 3)
    with pytest.raises(ValueError, match="aggregate: expected mode 'mean', .* got 'median'"):
        objectives.aggregate(pt.fvector(), mode="median")
    with pytest.raises(ValueError, match="aggregate: mode 'normalized_sum' needs weights, got None"):
        objectives.aggregate(pt.fvector(), mode="normalized_sum")


def test_penalties_by_tag():
    hidden = DenseLayer(InputLayer((None, 2)), 3, W=2.0, b=5.0)
    top = DenseLayer(hidden, 1, W=-1.0, b=5.0)
    l1, l2 = regularization.l1, regularization.l2
    penalties = [
        regularization.regularize_network_params(top, l1),
        regularization.regularize_network_params(top, l2),
        regularization.regularize_network_params(top, l1, tags={"regularizable": False}),
        regularization.regularize_layer_params(top, l2),
        regularization.regularize_layer_params([top, hidden], l2),
        regularization.regularize_layer_params_weighted({hidden: 0.5, top: 2}, l1),
        regularization.apply_penalty(hidden.W, l2),
        regularization.apply_penalty([hidden.W], lambda x, scale: scale * l1(x), scale=3),
    ]
    np.testing.assert_allclose(run(penalties), [15, 27, 20, 3, 27, 12, 24, 36])
    assert regularization.apply_penalty([], l2) == 0


def test_create_param_takes_what_lasagne_takes():
    shared = device.shared(np.ones((2, 3), "float32"))
    plain = pytensor.shared(np.ones((2, 3), "float32"))
    for spec in (0.5, np.full((2, 3), 0.5), init.Constant(0.5), lambda shape: np.full(shape, 0.5)):
        param = create_param(spec, (2, 3), "p")
        assert (param.name, param.dtype, param.get_value().sum()) == ("p", "float32", 3)
    for variable in (shared, plain, shared * 2):
        assert create_param(variable, (2, 3)) is variable
        assert create_param(lambda shape: variable, (2, 3)) is variable  # noqa: B023 - called at once


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        (0.0, (2, None), "parameter 'l.W': expected a shape of positive integers, got (2, None)"),
        (0.0, (2, 0), "parameter 'l.W': expected a shape of positive integers, got (2, 0)"),
        (np.ones(3), (2,), "parameter 'l.W': expected shape (2,), got an array of shape (3,)"),
        (
            pytensor.shared(np.ones(3, "float32"), name="s"),
            (2,),
            "parameter 'l.W': expected shape (2,), got s of shape (3,)",
        ),
    ],
)
def test_create_param_errors(spec, shape, message):
    with pytest.raises(ValueError) as error:
        create_param(spec, shape, "l.W")
    assert str(error.value) == message


def test_create_param_of_something_else():
    message = (
        "parameter 'l.W': expected a number, an array, a variable or a callable that returns one, got 'zeros'"
    )
    with pytest.raises(TypeError, match=message):
        create_param("zeros", (2,), "l.W")


def test_a_variable_without_a_name_gets_the_parameters():
    nameless, named = (pytensor.shared(np.ones(2, "float32"), name=name) for name in (None, "mine"))
    assert [create_param(v, (2,), "l.W").name for v in (nameless, named)] == ["l.W", "mine"]


def test_as_tuple():
    assert as_tuple(x=2, N=3) == as_tuple([2, 2, 2], 3, t=int) == as_tuple(np.int64(2), 3, int) == (2, 2, 2)
    assert type(as_tuple(np.int64(2), 1, int_types)[0]) is int
    assert as_tuple(["a", 1.5], 2, (str, float)) == ("a", 1.5)
    for value, kind, message in (
        ((1, 2.5), int, r"expected one int or 2 of them, got \(1, 2.5\)"),
        ("ab", float, "expected one float or 2 of them, got 'ab'"),
        (3, (str, float), "expected one str or float or 2 of them, got 3"),
    ):
        with pytest.raises(TypeError, match=message):
            as_tuple(value, 2, kind)
    with pytest.raises(ValueError, match=r"expected one int or 2 of them, got \(1, 2, 3\)"):
        as_tuple((1, 2, 3), 2, int)


def test_collect_shared_vars():
    a, b = (device.shared(np.float32(1), name=name) for name in "ab")
    assert collect_shared_vars([a * b, pt.fscalar() + b]) == [a, b]
    assert collect_shared_vars(b) == [b]
