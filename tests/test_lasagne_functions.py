"""Initialisers, objectives, penalties, the generator and the small helpers, against NumPy and torch."""

import contextvars
import threading

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
import torch.nn.functional as F

from theanompi import classification, device
from theanompi.lasagne import init, objectives, regularization
from theanompi.lasagne.layers import DenseLayer, InputLayer
from theanompi.lasagne.nonlinearities import sigmoid, softmax
from theanompi.lasagne.random import get_rng, set_rng
from theanompi.lasagne.utils import (
    as_theano_expression,
    as_tuple,
    collect_shared_vars,
    compute_norms,
    create_param,
    inspect_kwargs,
    int_types,
    one_hot,
    shared_empty,
)


def run(outputs, *inputs):
    """Evaluate at (variable, value) pairs."""
    variables, values = zip(*inputs, strict=True) if inputs else ((), ())
    return pytensor.function(list(variables), outputs, mode=device.mode())(*values)


CONV, DENSE = (64, 32, 3, 3), (300, 200)


@pytest.mark.parametrize(
    ("initializer", "shape", "std"),
    [
        (init.Normal(), DENSE, 0.01),
        (init.Normal(0.2), CONV, 0.2),
        (init.Uniform(std=0.3), CONV, 0.3),
        (init.Uniform(0.5), CONV, 1 / np.sqrt(12)),
        (init.Uniform([-0.25, 0.25]), CONV, 0.5 / np.sqrt(12)),
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


@pytest.mark.parametrize("rng", [np.random.default_rng(1), np.random.RandomState(1)])
def test_sparse(rng):
    set_rng(rng)
    w = init.Sparse(sparsity=0.25, std=0.5)((100, 40))
    assert w.dtype == np.float32
    np.testing.assert_array_equal((w != 0).sum(0), 25)
    assert abs(w[w != 0].std() - 0.5) < 0.05
    assert (w[:, 0] != w[:, 1]).any()
    with pytest.raises(RuntimeError, match=r"Sparse: expected a shape of 2 dimensions, got \(3, 3, 3\)"):
        init.Sparse()((3, 3, 3))


@pytest.mark.parametrize("kind", [init.GlorotNormal, init.GlorotUniform, init.HeNormal, init.HeUniform])
def test_filters_in_the_order_of_cuda_convnet(kind):
    """The fans are those of the same filters in the usual order, (out, in, rows, columns)."""
    std = kind("relu")((64, 32, 3, 3)).std()
    assert kind("relu", c01b=True)((32, 3, 3, 64)).std() == pytest.approx(std, rel=0.02)
    with pytest.raises(
        RuntimeError, match=rf"{kind.__name__}: c01b expects a shape of 4 dimensions, got \(3, 4\)"
    ):
        kind(c01b=True)((3, 4))


def test_constant():
    np.testing.assert_array_equal(init.Constant(0.3)((2, 2)), np.full((2, 2), 0.3, "float32"))


@pytest.mark.parametrize("initializer", [init.HeNormal(), init.GlorotUniform(), init.Orthogonal()])
def test_initialisers_that_need_a_matrix(initializer):
    what = type(initializer).__name__
    with pytest.raises(RuntimeError, match=rf"{what}: expected a shape of 2 or more dimensions, got \(3,\)"):
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


@pytest.mark.parametrize(
    "function",
    [objectives.categorical_crossentropy, objectives.categorical_accuracy, objectives.multiclass_hinge_loss],
)
def test_targets_may_be_arrays(function):
    x, labels = pt.fmatrix(), pt.lvector()
    of_arrays, of_variables = run(
        [function(x, LABELS), function(x, labels)], (x, PREDICTIONS), (labels, LABELS)
    )
    np.testing.assert_array_equal(of_arrays, of_variables)


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


@pytest.mark.parametrize("axis", [0, None])
def test_categorical_crossentropy_of_a_softmax_along_another_axis(axis):
    x, labels = pt.fmatrix(), pt.lvector()
    loss = objectives.categorical_crossentropy(pt.special.softmax(x, axis=axis), labels)
    scores = torch.tensor(PREDICTIONS if axis == 0 else PREDICTIONS.ravel())
    logarithms = torch.log_softmax(scores, 0).reshape(PREDICTIONS.shape)
    expected = F.nll_loss(logarithms, torch.tensor(LABELS), reduction="none")
    np.testing.assert_allclose(run(loss, (x, PREDICTIONS), (labels, LABELS)), expected, rtol=1e-5)


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


@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_categorical_accuracy(dtype):
    x, labels, one_hot = pt.fmatrix(), pt.vector(dtype=dtype), pt.fmatrix()
    rng = np.random.default_rng(0)
    scores = rng.integers(6, size=(200, 7)).astype("float32")  # with ties
    y = rng.integers(7, size=200)
    for k in (1, 2, 5, 7):
        got = run(objectives.categorical_accuracy(x, labels, top_k=k), (x, scores), (labels, y.astype(dtype)))
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


@pytest.mark.parametrize(
    "function",
    [objectives.categorical_crossentropy, objectives.categorical_accuracy, objectives.multiclass_hinge_loss],
)
def test_targets_of_the_wrong_rank_or_kind(function):
    message = rf"{function.__name__}: expected predictions \(n, classes\) and targets .* got predictions "
    with pytest.raises(TypeError, match=message + r"Matrix.* and targets Vector\(float32"):
        function(pt.fmatrix(), pt.fvector())
    with pytest.raises(TypeError, match=message + r"Tensor3"):
        function(pt.ftensor3(), pt.lvector())


def test_categorical_accuracy_of_sequences():
    x, labels = pt.ftensor3(), pt.lmatrix()
    rng = np.random.default_rng(1)
    scores, y = rng.normal(size=(4, 5, 3)).astype("float32"), rng.integers(3, size=(4, 5))
    got = run(objectives.categorical_accuracy(x, labels), (x, scores), (labels, y))
    np.testing.assert_array_equal(got, scores.argmax(-1) == y)


def test_the_trainers_errors_are_those_of_categorical_accuracy():
    """Also on ties, of which these scores have many: argmax takes the first."""
    x, labels = pt.fmatrix(), pt.lvector()
    rng = np.random.default_rng(0)
    scores, y = rng.integers(3, size=(200, 7)).astype("float32"), rng.integers(7, size=200)
    metrics = classification(x, labels).metrics
    error, error_top5 = run([metrics["error"], metrics["error_top5"]], (x, scores), (labels, y))
    np.testing.assert_array_equal(error, scores.argmax(1) != y)
    first = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(error_top5, (first != y[:, None]).all(1))
    assert error.dtype == np.float32


def test_hinge_losses():
    x, bits, labels = pt.fmatrix(), pt.lmatrix(), pt.lvector()
    rng = np.random.default_rng(2)
    scores = rng.normal(0, 2, size=(6, 4)).astype("float32")
    t, y = rng.integers(2, size=(6, 4)), rng.integers(4, size=6)
    one_hot = np.eye(4, dtype="float32")[y]
    hinge, multiclass = objectives.binary_hinge_loss, objectives.multiclass_hinge_loss
    losses = [
        hinge(x, bits, log_odds=True),
        hinge(x, bits, delta=0.3, log_odds=True),
        hinge(sigmoid(x), bits, log_odds=False),
        hinge(x, 2 * bits - 1, log_odds=True, binary=False),
        multiclass(x, labels),
        multiclass(x, one_hot, delta=0.5),
    ]
    gradients = [pytensor.grad(loss.sum(), x) for loss in losses]
    got = run(losses + gradients, (x, scores), (bits, t), (labels, y))
    leaf = torch.tensor(scores, requires_grad=True)
    sign = torch.tensor(2 * t - 1)
    right, others = leaf[range(6), y], leaf.masked_fill(torch.tensor(one_hot) > 0, -torch.inf)
    expected = [
        *(torch.relu(delta - sign * leaf) for delta in (1, 0.3, 1, 1)),
        *(torch.relu(delta + others.amax(1) - right) for delta in (1, 0.5)),
    ]
    for loss, gradient, reference in zip(got[:6], got[6:], expected, strict=True):
        assert loss.dtype == np.float32
        np.testing.assert_allclose(loss, reference.detach(), rtol=1e-4, atol=1e-5)
        (wanted,) = torch.autograd.grad(reference.sum(), leaf, retain_graph=True)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5)
    with pytest.warns(FutureWarning, match="binary_hinge_loss: expected log_odds=True or False, got None"):
        np.testing.assert_array_equal(run(hinge(x, bits), (x, scores), (bits, t)), got[0])


def test_huber_loss():
    x, targets = pt.TensorType("float32", shape=(None, 1))(), pt.fvector()
    p, t = np.float32([[0.2], [3], [-4], [1]]), np.float32([0, 0, 1, 1])
    for delta in (1, 2.5):
        loss = objectives.huber_loss(x, targets, delta=delta)
        value, gradient = run([loss, pytensor.grad(loss.sum(), x)], (x, p), (targets, t))
        leaf = torch.tensor(p, requires_grad=True)
        expected = F.huber_loss(leaf, torch.tensor(t)[:, None], reduction="none", delta=delta)
        expected.sum().backward()
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, expected.detach(), rtol=1e-6)
        np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-6)


def test_binary_accuracy():
    x, targets = pt.TensorType("float32", shape=(None, 1))(), pt.lvector()
    p, t = np.float32([[0.2], [0.5], [0.7], [0.1]]), np.array([0, 1, 0, 1])
    got = run(
        [objectives.binary_accuracy(x, targets), objectives.binary_accuracy(x, targets, threshold=0.05)],
        (x, p), (targets, t),
    )  # fmt: skip
    np.testing.assert_array_equal(got, [[[1], [1], [0], [0]], [[0], [1], [0], [1]]])


def test_targets_are_aligned_only_with_a_column():
    column, matrix, vector = pt.TensorType("float32", shape=(None, 1))(), pt.fmatrix(), pt.lvector()
    assert objectives.align_targets(column, vector)[1].type.shape == (None, 1)
    for predictions, targets in ((matrix, vector), (column, matrix), (vector, vector)):
        assert objectives.align_targets(predictions, targets) == (predictions, targets)
    assert objectives.align_targets(np.ones((3, 1), "float32"), np.arange(3))[1].type.shape == (3, 1)


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


def test_expressions_of_anything():
    x = pt.fvector()
    assert as_theano_expression(x) is x
    np.testing.assert_array_equal(
        run([as_theano_expression(v) for v in (2, [1.5, 2], np.eye(2))][1]), [1.5, 2]
    )
    with pytest.raises(
        TypeError, match="expected an expression, a number or an array, got <object object at"
    ):
        as_theano_expression(object())


def test_one_hot():
    x = pt.ivector()
    got = run([one_hot(x), one_hot(x, m=5)], (x, np.array([2, 0, 3], "int32")))
    for value, m in zip(got, (4, 5), strict=True):
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, np.eye(m)[[2, 0, 3]])


def test_norms():
    rng = np.random.default_rng(0)
    for shape, axes in (((3,), ()), ((3, 4), (0,)), ((3, 4, 2), (1, 2)), ((3, 4, 2, 5, 2), (1, 2, 3, 4))):
        w = rng.normal(size=shape).astype("float32")
        expected = np.linalg.norm(
            np.moveaxis(w, axes, range(len(axes))).reshape(-1, *np.delete(shape, axes)), axis=0
        )
        np.testing.assert_allclose(compute_norms(w), expected if axes else abs(w), rtol=1e-5)
        np.testing.assert_allclose(run(compute_norms(pt.constant(w))), compute_norms(w), rtol=1e-5)
    np.testing.assert_allclose(compute_norms(w, norm_axes=[0]).shape, (4, 2, 5, 2))
    with pytest.raises(ValueError, match="compute_norms: a 6-D tensor needs norm_axes, got None"):
        compute_norms(np.ones((1,) * 6))
    with pytest.raises(TypeError, match="compute_norms: expected an array or an expression, got list"):
        compute_norms([1, 2])


def test_an_empty_shared_variable_takes_any_shape():
    for variable, dtype in ((shared_empty(), "float32"), (shared_empty(2, dtype="int32"), "int32")):
        assert (variable.dtype, variable.get_value().shape) == (dtype, (1, 1))
        variable.set_value(np.ones((3, 4), dtype))
        assert run(variable.sum()) == 12


def test_optional_arguments():
    class Layer:
        def get_output_for(self, input, deterministic=False, *, mask=None, **kwargs):
            return input

    assert inspect_kwargs(Layer().get_output_for) == ["deterministic", "mask"]


def test_the_generator_has_the_methods_of_random_state():
    thread_local = contextvars.Context().run(get_rng)
    assert thread_local.randint(3) in range(3)
    assert thread_local.randint(5, 7, size=(2, 3)).shape == (2, 3)
    assert thread_local.rand(4).shape == thread_local.randn(4).shape == (4,)
    assert 0 <= thread_local.rand() < 1
    set_rng(new_rng=np.random.RandomState(1))


def test_collect_shared_vars():
    a, b = (device.shared(np.float32(1), name=name) for name in "ab")
    assert collect_shared_vars([a * b, pt.fscalar() + b]) == [a, b]
    assert collect_shared_vars(b) == [b]
