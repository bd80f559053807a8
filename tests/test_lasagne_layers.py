"""Every layer's output and gradients against plain torch."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
import torch.nn.functional as F
from layer_reference import check, close, draw, feed

from theanompi import device
from theanompi.lasagne import nonlinearities
from theanompi.lasagne.layers import (
    BatchNormLayer,
    BiasLayer,
    ConcatLayer,
    Conv2DLayer,
    DenseLayer,
    DimshuffleLayer,
    ElemwiseMergeLayer,
    ElemwiseSumLayer,
    FlattenLayer,
    GlobalPoolLayer,
    InputLayer,
    Layer,
    MaxPool2DLayer,
    MergeLayer,
    NINLayer,
    NonlinearityLayer,
    PadLayer,
    Pool2DLayer,
    ReshapeLayer,
    ScaleLayer,
    batch_norm,
    get_all_params,
    get_output,
    get_output_shape,
)


def test_dense():
    source, x = feed(4)
    layer = DenseLayer(source, 5, nonlinearity=nonlinearities.tanh)
    check(layer, [x], lambda x, W, b: torch.tanh(x @ W + b))
    assert layer.W.get_value().shape == (4, 5)


def test_dense_flattens_trailing_axes():
    source, x = feed(2, 3, 4)
    check(DenseLayer(source, 5), [x], lambda x, W, b: F.relu(x.reshape(3, 24) @ W + b))
    layer = DenseLayer(source, 5, num_leading_axes=-2, b=None, nonlinearity=None)
    assert layer.output_shape == (None, 2, 5)
    check(layer, [x], lambda x, W: x.reshape(3, 2, 12) @ W)


def test_dense_keeps_leading_axes():
    source, x = feed(2, 4)
    check(DenseLayer(source, 5, num_leading_axes=2, nonlinearity=None), [x], lambda x, W, b: x @ W + b)


@pytest.mark.parametrize("untie", [False, True])
def test_nin(untie):
    source, x = feed(4, 5, 2)
    layer = NINLayer(source, 6, untie_biases=untie, nonlinearity=None)
    assert layer.b.get_value().shape == ((6, 5, 2) if untie else (6,))
    check(
        layer,
        [x],
        lambda x, W, b: F.conv2d(x, W.T[:, :, None, None]) + (b if untie else b[:, None, None]),
    )


CONVOLUTIONS = {
    "defaults": ({}, {}),
    "int pad": ({"pad": 1}, {"padding": 1}),
    "tuple pad": ({"pad": (2, 0)}, {"padding": (2, 0)}),
    "valid": ({"pad": "valid"}, {}),
    "same": ({"pad": "same"}, {"padding": (1, 2)}),
    "same, strided": ({"pad": "same", "stride": 2}, {"padding": (1, 2), "stride": 2}),
    "full": ({"pad": "full"}, {"padding": (2, 4)}),
    "stride": ({"stride": (2, 1)}, {"stride": (2, 1)}),
    "dilation": ({"dilation": 2, "pad": "same"}, {"dilation": 2, "padding": (2, 4)}),
    "groups": ({"num_groups": 2}, {"groups": 2}),
}


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d(case, flip):
    ours, theirs = CONVOLUTIONS[case]
    source, x = feed(4, 9, 10)
    layer = Conv2DLayer(source, 6, (3, 5), flip_filters=flip, nonlinearity=None, **ours)
    assert layer.W.get_value().shape == (6, 2 if "num_groups" in ours else 4, 3, 5)
    check(layer, [x], lambda x, W, b: F.conv2d(x, W.flip(2, 3) if flip else W, b, **theirs))


def test_conv2d_flips_filters_by_default_as_lasagne_does():
    impulse = np.zeros((1, 1, 3, 3), "float32")
    impulse[0, 0, 1, 1] = 1
    taps = np.arange(9, dtype="float32").reshape(1, 1, 3, 3)
    layer = Conv2DLayer(InputLayer((1, 1, 3, 3)), 1, 3, pad="same", W=taps, nonlinearity=None)
    function = pytensor.function([], get_output(layer, impulse), mode=device.mode())
    close(function(), taps, "the impulse response of a convolution is the filter itself")


def test_conv2d_untied_biases():
    source, x = feed(2, 5, 6)
    layer = Conv2DLayer(source, 4, 3, untie_biases=True)
    assert layer.b.get_value().shape == (4, 3, 4)
    check(layer, [x], lambda x, W, b: F.relu(F.conv2d(x, W.flip(2, 3)) + b))


@pytest.mark.parametrize("pad", [0, 1])
def test_max_pool(pad):
    source, x = feed(2, 7, 8)
    check(MaxPool2DLayer(source, 3, stride=2, pad=pad), [x], lambda x: F.max_pool2d(x, 3, 2, pad))


@pytest.mark.parametrize("size", range(4, 12))
@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (2, 3), (3, 1), (1, 4)])
def test_max_pool_with_border_has_theanos_output_size(size, window, stride):
    """A window is pooled if it starts inside the image and the one before did not reach its end."""
    layer = MaxPool2DLayer(InputLayer((1, 1, size, size)), window, stride=stride, ignore_border=False)
    image = draw(1, 1, size, size)
    starts = [s for s in range(0, size, stride) if s == 0 or s - stride + window < size]
    expected = [[image[0, 0, r : r + window, c : c + window].max() for c in starts] for r in starts]
    got = get_output(layer, image)
    assert got.type.shape == layer.output_shape == (1, 1, len(starts), len(starts))
    close(pytensor.function([], got, mode=device.mode())()[0, 0], expected)


@pytest.mark.parametrize("mode", ["average_inc_pad", "average_exc_pad"])
def test_average_pool(mode):
    source, x = feed(2, 7, 8)
    count = mode == "average_inc_pad"
    layer = Pool2DLayer(source, (3, 2), stride=2, pad=1, mode=mode)
    check(layer, [x], lambda x: F.avg_pool2d(x, (3, 2), 2, 1, count_include_pad=count))


def test_pool_stride_is_the_window_by_default():
    source, x = feed(2, 7, 8)
    check(Pool2DLayer(source, 2), [x], lambda x: F.max_pool2d(x, 2))


def test_global_pool():
    source, x = feed(4, 3, 5)
    check(GlobalPoolLayer(source), [x], lambda x: x.mean((2, 3)))
    check(GlobalPoolLayer(source, pool_function=pt.max), [x], lambda x: x.amax((2, 3)))
    largest = GlobalPoolLayer(source, lambda pixels, axis: pt.sort(pixels, axis)[:, :, -2:].sum(axis))
    check(largest, [x], lambda x: x.flatten(2).topk(2).values.sum(2))


@pytest.mark.parametrize("shape", [(4,), (4, 5, 3)])
@pytest.mark.parametrize("epsilon", [1e-4, 0.5])
def test_batch_norm_training(shape, epsilon):
    source, x = feed(*shape)
    layer = BatchNormLayer(source) if epsilon == 1e-4 else BatchNormLayer(source, epsilon=epsilon)
    x *= np.sqrt(epsilon)  # a variance about as large as epsilon, so that epsilon matters

    def reference(x, gamma, beta):
        return F.batch_norm(x, None, None, gamma, beta, training=True, eps=epsilon)

    check(layer, [x], reference, batch_norm_update_averages=False)


def test_batch_norm_without_gamma_and_beta():
    source, x = feed(4, 5, 3)
    layer = BatchNormLayer(source, gamma=None, beta=None)
    check(
        layer,
        [x],
        lambda x: F.batch_norm(x, None, None, training=True, eps=1e-4),
        batch_norm_update_averages=False,
    )


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_batch_norm_of_whole_numbers(dtype, deterministic):
    x, wide = pt.matrix(dtype=dtype), pt.fmatrix()
    layer = BatchNormLayer((None, 3), mean=draw(3))
    got = [layer.get_output_for(v, deterministic=deterministic, batch_norm_statistics={}) for v in (x, wide)]
    value = np.arange(12).reshape(4, 3)
    f = pytensor.function([x, wide], got, mode=device.mode())
    of_integers, of_floats = f(value.astype(dtype), value.astype("float32"))
    assert of_integers.dtype == np.float32
    np.testing.assert_array_equal(of_integers, of_floats)


def test_batch_norm_over_other_axes():
    source, x = feed(4, 5)
    layer = BatchNormLayer(source, axes=0, epsilon=0.01)
    assert layer.gamma.get_value().shape == (4, 5)

    def reference(x, gamma, beta):
        flat = F.batch_norm(x.reshape(3, 20), None, None, gamma.reshape(20), beta.reshape(20), True, eps=0.01)
        return flat.reshape(3, 4, 5)

    check(layer, [x], reference, batch_norm_update_averages=False)


def test_batch_norm_deterministic_uses_the_averages():
    source, x = feed(4, 5, 3)
    layer = BatchNormLayer(source, mean=draw(4), inv_std=abs(draw(4)) + 0.5)
    mean, inv_std = torch.tensor(layer.mean.get_value()), torch.tensor(layer.inv_std.get_value())

    def reference(x, gamma, beta):
        # Some versions of torch refuse an epsilon of 0.
        return F.batch_norm(x, mean, inv_std**-2 - 1e-5, gamma, beta, training=False, eps=1e-5)

    check(layer, [x], reference, deterministic=True)
    check(layer, [x], reference, batch_norm_use_averages=True)


@pytest.mark.parametrize(
    "keywords",
    [{}, {"batch_norm_use_averages": True}, {"deterministic": True, "batch_norm_update_averages": True}],
)
@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5)])
def test_batch_norm_hands_out_statistics(shape, keywords):
    source, x = feed(*shape)
    x *= 0.01  # a variance about as large as epsilon
    layer = BatchNormLayer(source)
    statistics = {}
    get_output(layer, batch_norm_statistics=statistics, **keywords)
    assert list(statistics) == [layer.mean, layer.inv_std]
    function = pytensor.function([source.input_var], list(statistics.values()), mode=device.mode())
    mean, inv_std = function(x)
    over = (0, *range(2, x.ndim))
    close(mean, x.mean(over))
    close(inv_std, 1 / np.sqrt(x.var(over) + 1e-4))


@pytest.mark.parametrize("keywords", [{"deterministic": True}, {"batch_norm_update_averages": False}])
def test_batch_norm_hands_out_no_statistics(keywords):
    statistics = {}
    get_output(BatchNormLayer(InputLayer((None, 4))), batch_norm_statistics=statistics, **keywords)
    assert statistics == {}


@pytest.mark.parametrize(
    "keywords",
    [{}, {"batch_norm_use_averages": True}, {"deterministic": True, "batch_norm_update_averages": True}],
)
@pytest.mark.parametrize("shape", [(4, 3, 2), (4, 3), (4,)])
def test_batch_norm_moves_its_averages_by_itself(shape, keywords):
    """Also where the same function reads them for a second, deterministic output: that sees them as they were."""
    source, x = feed(*shape)
    layer = BatchNormLayer(source, alpha=0.3, mean=draw(4), inv_std=abs(draw(4)))
    before = layer.mean.get_value(), layer.inv_std.get_value()
    train, validate = get_output(layer, **keywords), get_output(layer, deterministic=True)
    both = pytensor.function([source.input_var], [train, validate])
    _, with_old_averages = both(x)
    over = (0, *range(2, x.ndim))
    close(layer.mean.get_value(), 0.7 * before[0] + 0.3 * x.mean(over))
    close(layer.inv_std.get_value(), 0.7 * before[1] + 0.3 / np.sqrt(x.var(over) + 1e-4))
    channels = (1, -1, *(1 for _ in over[1:]))
    close(with_old_averages, (x - before[0].reshape(channels)) * before[1].reshape(channels))
    after = layer.mean.get_value()
    pytensor.function([source.input_var], validate)(x)
    close(layer.mean.get_value(), after)


def test_batch_norm_that_updates_itself_costs_no_pass_over_its_output():
    source, _ = feed(4, 3, 2)
    network = NonlinearityLayer(BatchNormLayer(source))
    nodes = [
        len(pytensor.function([source.input_var], get_output(network, **keywords)).maker.fgraph.apply_nodes)
        for keywords in ({}, {"batch_norm_update_averages": False})
    ]
    assert nodes == [3, 1]


def test_batch_norm_tags():
    layer = BatchNormLayer(InputLayer((None, 4)), name="bn", alpha=0.3)
    assert layer.alpha == 0.3
    names = {
        tag: [p.name for p in layer.get_params(**{tag: True})] for tag in ("trainable", "batch_norm_stat")
    }
    assert names == {"trainable": ["bn.beta", "bn.gamma"], "batch_norm_stat": ["bn.mean", "bn.inv_std"]}
    assert layer.get_params(regularizable=True) == []
    decayed = batch_norm(DenseLayer((None, 4), 3, name="fc"), decays_gamma=True)
    assert [p.name for p in get_all_params(decayed, regularizable=True)] == ["fc.W", "fc_bn.gamma"]


def test_batch_norm_helper_moves_the_nonlinearity_and_drops_the_bias():
    source, x = feed(4)
    dense = DenseLayer(source, 5, name="fc", nonlinearity=nonlinearities.rectify)
    weights = dense.W.get_value()
    network = batch_norm(dense)
    assert [p.name for p in get_all_params(network)] == [
        *("fc.W", "fc_bn.beta", "fc_bn.gamma", "fc_bn.mean", "fc_bn.inv_std")
    ]
    assert (network.name, dense.b) == ("fc_bn_nonlin", None)
    got = pytensor.function(
        [source.input_var], get_output(network, batch_norm_statistics={}), mode=device.mode()
    )(x)
    close(got, F.relu(F.batch_norm(torch.tensor(x @ weights), None, None, training=True, eps=1e-4)))
    assert isinstance(batch_norm(MaxPool2DLayer(InputLayer((None, 2, 4, 4)), 2)), BatchNormLayer)


def test_bias_and_scale():
    source, x = feed(4, 5, 2)
    check(BiasLayer(source), [x], lambda x, b: x + b[:, None, None])
    check(BiasLayer(source, shared_axes=(0, -1)), [x], lambda x, b: x + b[:, :, None])
    check(ScaleLayer(source), [x], lambda x, scales: x * scales[:, None, None])
    check(ScaleLayer(source, shared_axes=0), [x], lambda x, scales: x * scales)
    assert ScaleLayer(source).get_params(regularizable=True) == []
    check(BiasLayer(source, b=None), [x], lambda x: x)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (nonlinearities.sigmoid, torch.sigmoid),
        (nonlinearities.softmax, lambda x: torch.softmax(x, -1)),
        (nonlinearities.tanh, torch.tanh),
        (nonlinearities.rectify, torch.relu),
        (nonlinearities.leaky_rectify, F.leaky_relu),
        (nonlinearities.very_leaky_rectify, lambda x: F.leaky_relu(x, 1 / 3)),
        (nonlinearities.LeakyRectify(0.2), lambda x: F.leaky_relu(x, 0.2)),
        (nonlinearities.elu, F.elu),
        (nonlinearities.selu, F.selu),
        (nonlinearities.SELU(0.5, 3), lambda x: 0.5 * torch.where(x > 0, x, 3 * torch.expm1(x.clamp(max=0)))),
        (nonlinearities.ScaledTanH(0.5, 2.27), lambda x: 2.27 * torch.tanh(0.5 * x)),
        (nonlinearities.ScaledTanh(), torch.tanh),
        (nonlinearities.softplus, F.softplus),
        (nonlinearities.linear, lambda x: x),
        (None, lambda x: x),
    ],
)
def test_nonlinearity(ours, theirs):
    source, x = feed(6)
    x[0, 0], x[0, 1] = 100, -100  # where a naive elu, softplus or sigmoid overflows
    check(NonlinearityLayer(source, ours), [x], theirs)


def test_elus_gradient_is_finite_without_any_rewrite():
    x = pt.fvector()
    gradient = pytensor.grad(nonlinearities.elu(x).sum(), x)
    unoptimised = pytensor.compile.Mode(linker="py", optimizer=None)
    close(pytensor.function([x], gradient, mode=unoptimised)(np.float32([200, -1])), [1, np.exp(-1)])


def test_elementwise_merge_and_sum():
    (one, x), (two, _) = feed(4), feed(4)
    y = draw(3, 4)[:, ::-1].copy()
    check(ElemwiseMergeLayer([one, two], pt.maximum), [x, y], torch.maximum)
    check(ElemwiseSumLayer([one, two]), [x, y], lambda x, y: x + y)
    check(ElemwiseSumLayer([one, two], coeffs=[2, 0.1]), [x, y], lambda x, y: 2 * x + 0.1 * y)
    check(ElemwiseSumLayer([one, two], coeffs=-1), [x, y], lambda x, y: -x - y)


def test_concat():
    (one, x), (two, y) = feed(4, 3), feed(2, 3)
    check(ConcatLayer([one, two]), [x, y], lambda x, y: torch.cat([x, y], 1))
    layer = ConcatLayer([one, one], axis=-1)
    assert layer.output_shape == (None, 4, 6)


@pytest.mark.parametrize(
    ("mode", "rows"), [("lower", slice(0, 3)), ("center", slice(1, 4)), ("upper", slice(2, 5))]
)
def test_cropping(mode, rows):
    (one, x), (two, y) = feed(2, 5), feed(2, 3)
    cropping = [None, None, mode]
    check(ElemwiseSumLayer([one, two], cropping=cropping), [x, y], lambda x, y: x[:, :, rows] + y)
    layer = ConcatLayer([one, two], cropping=cropping)
    check(layer, [x, y], lambda x, y: torch.cat([x[:, :, rows], y], 1))
    joined_axis_stays_whole = ConcatLayer([one, two], axis=2, cropping=cropping)
    check(joined_axis_stays_whole, [x, y], lambda x, y: torch.cat([x, y], 2))


def test_flatten():
    source, x = feed(2, 3, 4)
    check(FlattenLayer(source), [x], lambda x: x.reshape(3, 24))
    check(FlattenLayer(source, outdim=3), [x], lambda x: x.reshape(3, 2, 12))
    assert FlattenLayer(source, outdim=1).output_shape == (None,)


@pytest.mark.parametrize(
    ("shape", "built", "result"),
    [
        (([0], -1), (None, 24), (3, 24)),
        (([0], [2], 4, 2), (None, 3, 4, 2), (3, 3, 4, 2)),
        ((-1, 4), (None, 4), (18, 4)),
        (([0], 2, -1, 6), (None, 2, 2, 6), (3, 2, 2, 6)),
    ],
)
def test_reshape(shape, built, result):
    source, x = feed(2, 3, 4)
    layer = ReshapeLayer(source, shape)
    assert layer.output_shape == built
    got = pytensor.function([source.input_var], get_output(layer), mode=device.mode())(x)
    close(got, x.reshape(result))
    assert get_output_shape(layer, x.shape) == result


def test_reshape_refers_to_unknown_sizes():
    source = InputLayer((None, None, 4))
    layer = ReshapeLayer(source, ([1], [0], 2, 2))
    assert layer.output_shape == (None, None, 2, 2)
    x = draw(3, 5, 4)
    got = pytensor.function([source.input_var], get_output(layer), mode=device.mode())(x)
    close(got, x.reshape(5, 3, 2, 2))


def test_reshape_of_no_samples():
    layer = ReshapeLayer(InputLayer((None, 3, 4)), ([0], -1))
    assert get_output(layer, np.zeros((0, 3, 4), "float32")).eval(mode=device.mode()).shape == (0, 12)


def test_dimshuffle():
    source, x = feed(2, 1, 4)
    check(DimshuffleLayer(source, (3, "x", 0, 1)), [x], lambda x: x[:, :, 0].permute(2, 0, 1)[:, None])


def test_pad():
    source, x = feed(2, 3, 4)
    check(PadLayer(source, 1), [x], lambda x: F.pad(x, (1, 1, 1, 1)))
    layer = PadLayer(source, [(0, 2), 1], val=0.5)
    check(layer, [x], lambda x: F.pad(x, (1, 1, 0, 2), value=0.5))
    check(PadLayer(source, [1, 0, 2], batch_ndim=1), [x], lambda x: F.pad(x, (2, 2, 0, 0, 1, 1)))


def test_arguments_may_be_numpys():
    (one, x), (two, _) = feed(4, 5), feed(4, 5)
    check(ElemwiseSumLayer([one, two], coeffs=np.array([2, 0.1])), [x, x], lambda x, y: 2 * x + 0.1 * y)
    check(ElemwiseSumLayer([one, two], coeffs=np.float64(2)), [x, x], lambda x, y: 2 * x + 2 * y)
    check(DimshuffleLayer(one, np.array([2, 0, 1])), [x], lambda x: x.permute(2, 0, 1))
    check(PadLayer(one, np.array([1, 2]), batch_ndim=1), [x], lambda x: F.pad(x, (2, 2, 1, 1)))
    assert BatchNormLayer(one, axes=np.int64(0)).axes == BatchNormLayer(one, axes=np.array([0])).axes == (0,)


ERRORS = [
    (
        lambda: InputLayer((None, 0)),
        "unnamed InputLayer: expected an input shape of positive sizes, got (None, 0)",
    ),
    (
        lambda: InputLayer((None, 3), pt.ftensor4("x"), name="in"),
        "layer 'in': expected an input of shape (None, 3), got Tensor4(float32, shape=(?, ?, ?, ?))",
    ),
    (lambda: Layer([3, 4]), "unnamed Layer: expected a layer or a shape tuple as incoming, got [3, 4]"),
    (lambda: MergeLayer([], name="m"), "layer 'm': expected one or more incoming layers, got none"),
    (
        lambda: DenseLayer((None, 3), 2, num_leading_axes=2, name="fc"),
        "layer 'fc': expected num_leading_axes in [-2, 2) for an input of shape (None, 3), got 2",
    ),
    (
        lambda: DenseLayer((2, None, 3), 2, name="fc"),
        "layer 'fc': expected known sizes from axis 1 on, got (2, None, 3)",
    ),
    (
        lambda: DenseLayer((None, 3), 2, W=np.zeros((2, 3)), name="fc"),
        "parameter 'fc.W': expected shape (3, 2), got an array of shape (2, 3)",
    ),
    (
        lambda: NINLayer((None, None, 3), 2, name="nin"),
        "layer 'nin': expected an input (n, channels, …), got (None, None, 3)",
    ),
    (
        lambda: Conv2DLayer((None, 3), 2, 3, name="c"),
        "layer 'c': expected an input (n, channels, rows, columns), got (None, 3)",
    ),
    (
        lambda: Conv2DLayer((None, 3, 8, 8), 4, 3, num_groups=2, name="c"),
        "layer 'c': expected channels and filters divisible by num_groups=2, got 3 channels and 4 filters",
    ),
    (
        lambda: Conv2DLayer((None, 3, 2, 8), 4, 3, name="c"),
        "layer 'c': expected an image no smaller than the filters, got shape (None, 3, 2, 8) "
        "for filters of (3, 3), dilation (1, 1), pad (0, 0)",
    ),
    (
        lambda: Conv2DLayer((None, 3, 8, 8), 4, (3, 2), pad="same", name="c"),
        "layer 'c': pad='same' expects odd filter sizes, got (3, 2)",
    ),
    (
        lambda: Conv2DLayer((None, 3, 8, 8), 4, 3, pad="half", name="c"),
        "layer 'c': expected pad 'valid', 'same', 'full' or integers, got 'half'",
    ),
    (lambda: Conv2DLayer((None, 3, 8, 8), 4, (3, 3, 3)), "expected one int or 2 of them, got (3, 3, 3)"),
    (
        lambda: Pool2DLayer((None, 3, 8, 8), 2, mode="min", name="p"),
        "layer 'p': expected mode 'max', 'average_inc_pad', 'average_exc_pad' or 'sum', got 'min'",
    ),
    (
        lambda: Pool2DLayer((None, 3, 8, 8), 3, pad=3, name="p"),
        "layer 'p': expected pad of less than pool_size (3, 3), got (3, 3)",
    ),
    (
        lambda: Pool2DLayer((None, 3, 8, 8), 2, pad=1, ignore_border=False, name="p"),
        "layer 'p': ignore_border=False expects pad=0, got (1, 1)",
    ),
    (
        lambda: Pool2DLayer((None, 3, 2, 8), 3, name="p"),
        "layer 'p': expected an image no smaller than the window, got shape (None, 3, 2, 8) "
        "for pool_size (3, 3), pad (0, 0)",
    ),
    (
        lambda: GlobalPoolLayer((None, 3), name="g"),
        "layer 'g': expected an input (n, channels, …), got (None, 3)",
    ),
    (
        lambda: BatchNormLayer((None, None, 4), name="bn"),
        "layer 'bn': expected known sizes for all axes but (0, 2), got (None, None, 4)",
    ),
    (
        lambda: BiasLayer((None, 4), shared_axes=2, name="b"),
        "layer 'b': expected axes 'auto' or within 2 dimensions, got 2",
    ),
    (
        lambda: ElemwiseSumLayer([(None, 3), (None, 4)], name="sum"),
        "layer 'sum': expected equal sizes along axis 1, got input shapes [(None, 3), (None, 4)]",
    ),
    (
        lambda: ElemwiseSumLayer([(None, 3), (None, 3)], coeffs=[1], name="sum"),
        "layer 'sum': expected 2 coeffs, one for each input, got 1",
    ),
    (
        lambda: ConcatLayer([(None, 3, 2), (None, 4, 5)], name="cat"),
        "layer 'cat': expected equal sizes along axis 2, got input shapes [(None, 3, 2), (None, 4, 5)]",
    ),
    (
        lambda: ConcatLayer([(None, 3, 1), (None, 4, 5)], name="cat"),
        "layer 'cat': expected equal sizes along axis 2, got input shapes [(None, 3, 1), (None, 4, 5)]",
    ),
    (
        lambda: ConcatLayer([(None, 3), (None, 4, 5)], name="cat"),
        "layer 'cat': expected inputs of as many dimensions, got shapes [(None, 3), (None, 4, 5)]",
    ),
    (lambda: ConcatLayer([(None, 3)], axis=2, name="cat"), "layer 'cat': expected axis in [-2, 2), got 2"),
    (
        lambda: ElemwiseSumLayer([(None, 3)], cropping=["middle"], name="sum"),
        "layer 'sum': expected cropping None, 'lower', 'center' or 'upper' for each axis, got ['middle']",
    ),
    (lambda: FlattenLayer((None, 3), outdim=3, name="f"), "layer 'f': expected outdim in [1, 2], got 3"),
    (
        lambda: ReshapeLayer((None, 3), ([2], 3), name="r"),
        "layer 'r': expected sizes, -1 or [i] with i in [0, 2), got [2] in ([2], 3)",
    ),
    (
        lambda: ReshapeLayer((None, 3), (-1, -1), name="r"),
        "layer 'r': expected -1 at most once, got (-1, -1)",
    ),
    (
        lambda: ReshapeLayer((None, 6), ([0], 4), name="r"),
        "layer 'r': expected a shape of as many elements as the input's (None, 6), got ([0], 4)",
    ),
    (
        lambda: ReshapeLayer((5, 6), (-1, 4), name="r"),
        "layer 'r': expected a shape of as many elements as the input's (5, 6), got (-1, 4)",
    ),
    (
        lambda: DimshuffleLayer((None, 3), (0, 0), name="d"),
        "layer 'd': expected 'x' or input axes, each once, of shape (None, 3), got (0, 0)",
    ),
    (
        lambda: DimshuffleLayer((None, 3), (0,), name="d"),
        "layer 'd': expected length 1 for axes that (0,) leaves out, got axis: length {1: 3}",
    ),
    (
        lambda: PadLayer((None, 3, 4), [1, 1], name="pad"),
        "layer 'pad': expected 1 widths, each an int or (before, after), got [1, 1]",
    ),
]


@pytest.mark.parametrize(("build", "message"), ERRORS, ids=[message[:50] for _, message in ERRORS])
def test_errors_say_where_what_was_expected_and_got(build, message):
    with pytest.raises(ValueError) as error:
        build()
    assert str(error.value) == message


def test_every_layer_with_bias_excludes_it_from_regularization():
    source = InputLayer((None, 2, 4, 4))
    layers = [
        Conv2DLayer(source, 3, 3, name="l"),
        DenseLayer(source, 3, name="l"),
        NINLayer(source, 3, name="l"),
    ]
    for layer in layers:
        assert [p.name for p in layer.get_params(regularizable=True)] == ["l.W"]
        assert [p.name for p in layer.get_params(trainable=True)] == ["l.W", "l.b"]
