"""Expressions, inverses, warps of images, learnt and random rectifiers, noise, embeddings, local filters, old names."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
import torch.nn.functional as F
from keyed import keyed_normal, keyed_uniform
from layer_reference import check, close, draw, feed

from theanompi import device
from theanompi.lasagne import layers, nonlinearities, objectives
from theanompi.lasagne.layers import InputLayer, corrmm, cuda_convnet, dnn, get_all_layers, get_output
from theanompi.lasagne.layers.base import Layer
from theanompi.lasagne.layers.noise import salt_of
from theanompi.lasagne.layers.special import _grid

KEYS = np.array([3, -8, 2**40], "int64")


def run(layer, *arrays, **kwargs):
    symbols = [source.input_var for source in get_all_layers(layer) if isinstance(source, InputLayer)]
    return pytensor.function(symbols, get_output(layer, **kwargs), mode=device.mode())(*arrays)


# Normalisation


def test_local_response_normalization():
    source, x = feed(6, 2, 3)
    layer = layers.LocalResponseNormalization2DLayer(source, alpha=0.2, k=1.5, beta=0.6, n=3)
    # Torch divides alpha by n.
    check(layer, [x], lambda x: F.local_response_norm(x, 3, 0.2 * 3, 0.6, 1.5))


def test_local_response_normalization_is_alexnets_by_default():
    source, x = feed(7, 2, 2)
    layer = layers.LocalResponseNormalization2DLayer(source)
    check(layer, [x * 50], lambda x: F.local_response_norm(x, 5, 5e-4, 0.75, 2))


def test_standardization():
    source, x = feed(4, 5, 3)

    def over(*axes):
        def reference(x):
            variance = x.var(axes, correction=0, keepdim=True)
            return (x - x.mean(axes, keepdim=True)) / torch.sqrt(variance + 0.01)

        return reference

    check(layers.StandardizationLayer(source, epsilon=0.01), [x], over(2, 3))
    check(layers.StandardizationLayer(source, (0, -1), epsilon=0.01), [x], over(0, 3))
    for axes, dims in (("auto", (2, 3)), ("spatial", (2, 3)), ("features", (1, 2, 3)), (-1, (3,))):
        assert layers.StandardizationLayer(source, axes).axes == dims
    assert layers.StandardizationLayer((None, 5)).axes == (1,)


def test_instance_and_layer_norm():
    source, x = feed(2, 6, 5)
    norms = (layers.instance_norm, (2, 3), "_in"), (layers.layer_norm, (1, 2, 3), "_ln")
    for norm, axes, suffix in norms:
        conv = layers.Conv2DLayer(source, 4, 3, name="c", flip_filters=False)
        network = norm(conv, epsilon=0.1)
        params = layers.get_all_params(network)
        assert [p.name for p in params] == ["c.W", f"c{suffix}_scale.scales", f"c{suffix}_bias.b"]
        for param in params[1:]:
            param.set_value(draw(4) * (1 if param.name.endswith("b") else 2))
        w, scale, bias = (torch.tensor(p.get_value()) for p in params)
        y = F.conv2d(torch.tensor(x), w)
        y = (y - y.mean(axes, keepdim=True)) / torch.sqrt(y.var(axes, correction=0, keepdim=True) + 0.1)
        close(run(network, x), F.relu(y * scale[:, None, None] + bias[:, None, None]))
    bare = layers.instance_norm(layers.Conv2DLayer(source, 4, 3, nonlinearity=None), False, learn_bias=False)
    assert [type(one).__name__ for one in get_all_layers(bare)[2:]] == [
        "StandardizationLayer",
        "NonlinearityLayer",
    ]


# Expressions and inverses


def test_standardize_is_not_trained():
    source, x = feed(4, 2)
    offset, scale = draw(4), abs(draw(4)) + 1
    layer = layers.standardize(source, offset, scale)
    assert layers.get_all_params(layer, trainable=True) == []
    assert len(layers.get_all_params(layer)) == 2
    close(run(layer, x), (x - offset[:, None]) / scale[:, None])
    shared = device.shared(scale)
    close(
        run(layers.standardize(source, device.shared(offset), shared), x),
        (x - offset[:, None]) / scale[:, None],
    )


def test_expressions():
    source, x = feed(4, 2)
    check(layers.ExpressionLayer(source, lambda x: x**2), [x], lambda x: x**2)
    for shape in ((None, 2), lambda s: (s[0], s[2]), "auto"):
        layer = layers.ExpressionLayer(source, lambda x: x.sum(1), output_shape=shape)
        assert layer.output_shape == (None, 2)
        close(run(layer, x), x.sum(1))
    auto = layers.ExpressionLayer(source, lambda x: pt.concatenate([x, x[:, :1]], axis=1).flatten(2), "auto")
    assert auto.output_shape == (None, 10)


INVERTIBLE = {
    "dense": (lambda source: layers.DenseLayer(source, 5, nonlinearity=None), (4,)),
    "dense, tanh": (lambda source: layers.DenseLayer(source, 5, nonlinearity=nonlinearities.tanh), (4,)),
    "conv": (lambda source: layers.Conv2DLayer(source, 3, 3, 2, nonlinearity=None), (2, 5, 5)),
    "pool": (lambda source: layers.MaxPool2DLayer(source, 2), (2, 4, 6)),
    "upscale": (lambda source: layers.Upscale2DLayer(source, 2), (2, 3, 2)),
}


@pytest.mark.parametrize("case", INVERTIBLE)
def test_inverse_is_the_transposed_derivative(case):
    build, shape = INVERTIBLE[case]
    source, x = feed(*shape)
    layer = build(source)
    above = InputLayer(layer.output_shape)
    inverse = layers.InverseLayer(above, layer)
    y = draw(3, *layer.output_shape[1:])
    assert inverse.output_shape == source.output_shape
    # ⟨y, J v⟩ = ⟨Jᵀ y, v⟩ for the derivative J at x, by differences in the direction v.
    v, step = draw(3, *shape)[::-1].copy(), np.float32(1e-3)
    ahead, behind = run(layer, x + step * v), run(layer, x - step * v)
    symbols = [source.input_var, above.input_var]
    got = pytensor.function(symbols, get_output(inverse), mode=device.mode(), on_unused_input="ignore")(x, y)
    np.testing.assert_allclose(
        (y * (ahead - behind)).sum() / (2 * step), (got * v).sum(), rtol=1e-2, atol=1e-2
    )


def test_an_autoencoder_with_unpooling_is_differentiated_through():
    source, x = feed(1, 6, 6)
    conv = layers.Conv2DLayer(source, 2, 3, nonlinearity=None, flip_filters=False, b=None, name="c")
    pool = layers.MaxPool2DLayer(conv, 2)
    decoded = layers.InverseLayer(layers.InverseLayer(pool, pool), conv)
    gradient = pytensor.grad((get_output(decoded) ** 2).sum(), conv.W)
    got = pytensor.function([source.input_var], gradient, mode=device.mode())(x)
    w = torch.tensor(conv.W.get_value(), requires_grad=True)
    pooled, places = F.max_pool2d(F.conv2d(torch.tensor(x), w), 2, return_indices=True)
    decoded = F.conv_transpose2d(F.max_unpool2d(pooled, places, 2), w)
    (decoded**2).sum().backward()
    close(got, w.grad)


# Warps


@pytest.mark.parametrize("border_mode", ["nearest", "mirror", "wrap"])
def test_affine_transformer(border_mode):
    (image, x), localization = feed(2, 6, 5), InputLayer((None, 6))
    layer = layers.TransformerLayer(image, localization, (2, 0.5), border_mode)
    assert layer.output_shape == (None, 2, 3, 10)

    def reference(x, theta):
        grid = F.affine_grid(theta.reshape(3, 2, 3), (3, 2, 3, 10), align_corners=True)
        if border_mode == "wrap":
            # Torch has no such mode: the image with itself around it, and the same places in that.
            size = torch.tensor([5.0, 6.0])
            grid = ((grid + 1) / 2 * (size - 1) + 5) / (size + 9) * 2 - 1
            x = F.pad(x, (5, 5, 5, 5), mode="circular")
        mode = "reflection" if border_mode == "mirror" else "border"
        return F.grid_sample(x, grid, padding_mode=mode, align_corners=True)

    theta = (0.3 * draw(3, 6) + np.float32([1, 0, 0, 0, 1, 0])).astype("float32")
    check(layer, [x, theta], reference)
    unknown = layers.TransformerLayer(InputLayer((None, 2, None, None)), localization, (2, 0.5), border_mode)
    close(run(unknown, x, theta), reference(torch.tensor(x), torch.tensor(theta)))


@pytest.mark.parametrize(
    "made", [layers.TransformerLayer, lambda *inputs: layers.TPSTransformerLayer(*inputs, control_points=4)]
)
def test_places_are_as_fine_where_products_compute_in_bf16(made):
    (image, x), numbers = feed(1, 40, 40), 6 if made is layers.TransformerLayer else 8
    located = 0.05 * draw(3, numbers) + (np.float32([1, 0, 0, 0, 1, 0]) if numbers == 6 else 0)
    symbols = [image.input_var, pt.fmatrix()]
    output = get_output(made(image, InputLayer((None, numbers), symbols[1])))
    exact, narrow = (
        pytensor.function(symbols, output, mode=device.mode("cpu", precision))(x, located.astype("float32"))
        for precision in ("float32", "bf16")
    )
    close(narrow, exact)


def spline(x, moved, side, rows, columns):
    """A thin plate spline by solving for its coefficients in torch, each sample by itself."""

    def kernel(a, b):
        squares = ((a[:, None] - b[None]) ** 2).sum(2)
        return torch.where(squares > 0, squares * torch.log(torch.where(squares > 0, squares, 1.0)), 0.0)

    def plane(h, w):
        y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        return torch.stack([x, y], 2).reshape(-1, 2)

    points, pixels = plane(side, side), plane(rows, columns)
    k = len(points)
    affine = torch.cat([torch.ones(k, 1), points], 1)
    system = torch.cat(
        [torch.cat([kernel(points, points), affine], 1), torch.cat([affine.T, torch.zeros(3, 3)], 1)]
    )
    targets = points + moved.reshape(-1, 2, k).transpose(1, 2)
    right = torch.cat([targets, torch.zeros(len(moved), 3, 2)], 1)
    coefficients = torch.linalg.solve(system, right)
    basis = torch.cat([kernel(pixels, points), torch.ones(len(pixels), 1), pixels], 1)
    grid = (basis @ coefficients).reshape(-1, rows, columns, 2)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


def test_thin_plate_spline_transformer():
    (image, x), localization = feed(2, 6, 5), InputLayer((None, 18))
    moved = 0.1 * draw(3, 18)
    layer = layers.TPSTransformerLayer(image, localization, (2, 1), control_points=9)
    assert layer.precompute_grid and layer.output_shape == (None, 2, 3, 5)
    check(layer, [x, moved], lambda x, moved: spline(x, moved, 3, 3, 5))
    late = layers.TPSTransformerLayer(InputLayer((None, 2, None, None)), localization, (2, 1), 9)
    assert not late.precompute_grid
    close(run(late, x, moved), spline(torch.tensor(x), torch.tensor(moved), 3, 3, 5))


def test_places_of_pixels():
    rows, columns = pt.lscalar(), pt.lscalar()
    function = pytensor.function([rows, columns], _grid(rows, columns), mode=device.mode())
    for size in ((3, 4), (1, 2), (5, 1)):
        close(function(*size), _grid(*size))


# Rectifiers and noise


def test_parametric_rectifier():
    source, x = feed(4, 2)
    check(layers.ParametricRectifierLayer(source), [x], lambda x, alpha: F.prelu(x, alpha))
    layer = layers.ParametricRectifierLayer(source, shared_axes="all")
    assert layer.alpha.get_value().shape == () and layer.alpha.get_value() == 0.25
    check(layer, [x], lambda x, alpha: torch.where(x > 0, x, alpha * x))
    layer = layers.ParametricRectifierLayer(source, shared_axes=(0, 1))
    check(layer, [x], lambda x, alpha: torch.where(x > 0, x, alpha * x))
    assert layer.get_params(regularizable=True) == []


def test_prelu_and_rrelu_take_the_nonlinearitys_place():
    source, x = feed(4)
    for wrap, name in (
        (layers.prelu, "ParametricRectifierLayer"),
        (layers.rrelu, "RandomizedRectifierLayer"),
    ):
        dense = layers.DenseLayer(source, 5, name="fc")
        network = wrap(dense, name="r")
        assert type(network).__name__ == name and network.input_layer is dense
        assert dense.nonlinearity is nonlinearities.identity
        y = x @ dense.W.get_value()
        slope = 0.25 if wrap is layers.prelu else 0.55
        close(run(network, x, deterministic=True), np.where(y > 0, y, slope * y))


@pytest.mark.parametrize(
    ("axes", "shape"), [("auto", (4, 1)), ((0,), (4, 2)), ("all", (1, 1)), ((2,), (4, 1))]
)
def test_randomized_rectifier_draws_slopes_for_each_sample_by_its_key(axes, shape):
    source, x = feed(4, 2)
    layer = layers.RandomizedRectifierLayer(source, 0.2, 0.6, axes, name="r")
    slopes = 0.2 + 0.4 * keyed_uniform(KEYS, shape, layer.salt)
    close(run(layer, x, sample_keys=pt.constant(KEYS)), np.where(x > 0, x, slopes * x))
    fixed = layers.RandomizedRectifierLayer(source, 0.3, 0.3)
    close(run(fixed, x), np.where(x > 0, x, 0.3 * x))


def test_gaussian_noise_of_a_sample_is_a_function_of_its_key():
    source, x = feed(4, 2)
    layer = layers.GaussianNoiseLayer(source, 0.5, name="noise")
    assert layer.salt == salt_of(layer)
    close(run(layer, x, sample_keys=pt.constant(KEYS)), x + 0.5 * keyed_normal(KEYS, (4, 2), layer.salt))
    close(run(layer, x, deterministic=True), x)
    close(run(layers.GaussianNoiseLayer(source, 0), x), x)
    shared = layers.GaussianNoiseLayer(source, device.shared(np.float32(2)), name="noise")
    close(run(shared, x, sample_keys=pt.constant(KEYS)), x + 2 * keyed_normal(KEYS, (4, 2), layer.salt))


def test_noise_has_the_size_of_what_is_fed():
    symbol, x = pt.tensor3("x", dtype="float32"), draw(3, 4, 2)
    noise = layers.GaussianNoiseLayer(InputLayer((None, None, None)), name="noise")
    slopes = layers.RandomizedRectifierLayer(InputLayer((None, 4, None)), 0, 1, shared_axes=1, name="r")
    outputs = [layer.get_output_for(symbol, sample_keys=pt.constant(KEYS)) for layer in (noise, slopes)]
    got = pytensor.function([symbol], outputs, mode=device.mode())(x)
    close(got[0], x + 0.1 * keyed_normal(KEYS, (4, 2), noise.salt))
    close(got[1], np.where(x > 0, x, x * keyed_uniform(KEYS, (1, 2), slopes.salt)))


def test_dropout_of_channels_and_of_locations():
    source, _ = feed(40, 5, 4)
    ones = np.ones((3, 40, 5, 4), "float32")
    channels = run(layers.dropout_channels(source, 0.5, name="d"), ones, sample_keys=pt.constant(KEYS))
    assert layers.spatial_dropout is layers.dropout_channels
    assert (channels == channels[:, :, :1, :1]).all() and 30 < (channels[..., 0, 0] == 0).sum() < 90
    places = run(layers.dropout_locations(source, p=0.5, name="d"), ones, sample_keys=pt.constant(KEYS))
    assert (places == places[:, :1]).all() and 10 < (places[:, 0] == 0).sum() < 50


# Embeddings, local filters


def test_embedding():
    tokens = np.array([[3, 0, 3], [1, 2, 0]], "int32")
    source = InputLayer((None, 3), input_var=pt.imatrix("tokens"))
    layer = layers.EmbeddingLayer(source, input_size=4, output_size=5)
    assert layer.output_shape == (None, 3, 5)
    weights = draw(2, 3, 5)
    cost = (get_output(layer) * weights).sum()
    got = pytensor.function(
        [source.input_var], [get_output(layer), pytensor.grad(cost, layer.W)], mode=device.mode()
    )(tokens)
    table = torch.tensor(layer.W.get_value(), requires_grad=True)
    expected = F.embedding(torch.tensor(tokens), table)
    (expected * torch.tensor(weights)).sum().backward()
    close(got[0], expected.detach())
    close(got[1], table.grad)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("channelwise", [True, False])
def test_locally_connected(flip, channelwise):
    source, x = feed(2, 4, 3)
    layer = layers.LocallyConnected2DLayer(
        source, 2 if channelwise else 5, (3, 1), flip_filters=flip, channelwise=channelwise, untie_biases=True
    )
    assert layer.W.get_value().shape == ((2, 3, 1, 4, 3) if channelwise else (5, 2, 3, 1, 4, 3))

    def reference(x, W, b):
        padded = F.pad(x, (0, 0, 1, 1))
        if flip:
            W = W.flip(-4, -3)
        seen = torch.stack([padded[:, :, i : i + 4] for i in range(3)], 2)[:, :, :, None]
        return F.relu(
            (torch.einsum("ncijhw,cijhw->nchw" if channelwise else "ncijhw,fcijhw->nfhw", seen, W)) + b
        )

    check(layer, [x], reference)


# Old names


def test_layers_for_cudnn_are_the_plain_ones():
    assert dnn.Pool2DDNNLayer is layers.Pool2DLayer and dnn.MaxPool3DDNNLayer is layers.MaxPool3DLayer
    assert dnn.batch_norm_dnn is layers.batch_norm and dnn.Conv2DDNNLayer is corrmm.Conv2DMMLayer
    source, x = feed(2, 4, 5)
    check(corrmm.Conv2DMMLayer(source, 3, 3, pad=1), [x], lambda x, W, b: F.relu(F.conv2d(x, W, b, 1, 1)))
    source, x = feed(2, 4, 3, 3)
    check(dnn.Conv3DDNNLayer(source, 3, 2), [x], lambda x, W, b: F.relu(F.conv3d(x, W, b)))


def test_layers_for_cuda_convnet_take_either_order_of_axes():
    source, x = feed(2, 7, 7)
    usual = cuda_convnet.Conv2DCCLayer(source, 4, 3, stride=2, pad=1)
    check(usual, [x], lambda x, W, b: F.relu(F.conv2d(x, W, b, 2, 1)))

    turned = cuda_convnet.Conv2DCCLayer(
        cuda_convnet.bc01_to_c01b(source), 4, 3, stride=2, pad=1, dimshuffle=False, name="conv"
    )
    assert turned.output_shape == (4, 4, 4, None) and turned.W.get_value().shape == (2, 3, 3, 4)
    turned.W.set_value(usual.W.get_value().transpose(1, 2, 3, 0))
    turned.b.set_value(usual.b.get_value())
    close(run(cuda_convnet.c01b_to_bc01(turned), x), run(usual, x))

    untied = cuda_convnet.Conv2DCCLayer(source, 4, 3, untie_biases=True, nonlinearity=None)
    check(untied, [x], lambda x, W, b: F.conv2d(x, W) + b)
    network = layers.batch_norm(turned, axes=(1, 2, 3))
    assert [p.name for p in layers.get_all_params(network, trainable=True)] == [
        "conv.W",
        "conv_bn.beta",
        "conv_bn.gamma",
    ]
    bare = run(network, x, deterministic=True)
    close(
        bare,
        F.relu(F.conv2d(torch.tensor(x), torch.tensor(usual.W.get_value()), None, 2, 1)).permute(1, 2, 3, 0),
    )


def test_pooling_for_cuda_convnet_includes_the_border():
    source, x = feed(2, 7, 7)
    expected = F.max_pool2d(torch.tensor(x), 3, 2, ceil_mode=True)
    close(run(cuda_convnet.MaxPool2DCCLayer(source, 3, 2), x), expected)
    turned = cuda_convnet.MaxPool2DCCLayer(cuda_convnet.bc01_to_c01b(source), 3, 2, dimshuffle=False)
    close(run(turned, x), expected.permute(1, 2, 3, 0))


@pytest.mark.parametrize("untie", [True, False])
def test_nin_with_the_samples_last(untie):
    x = draw(3, 2, 4, 6)
    layer = cuda_convnet.NINLayer_c01b(InputLayer((3, 2, 4, None)), 5, untie_biases=untie)
    for param in layer.get_params():
        param.set_value(draw(*param.get_value().shape))
    w, b = (p.get_value() for p in layer.get_params())
    expected = np.einsum("uc,cabn->uabn", w, x) + (b[..., None] if untie else b[:, None, None, None])
    close(run(layer, x), np.maximum(expected, 0))


ERRORS = [
    (
        NotImplementedError,
        lambda: layers.LocalResponseNormalization2DLayer((None, 3, 2, 2), n=4, name="lrn"),
        "layer 'lrn': expected an odd n, got 4",
    ),
    (
        ValueError,
        lambda: layers.StandardizationLayer((None, 3), "spatial", name="s"),
        "layer 's': expected an input with axes to normalise over, got (None, 3)",
    ),
    (
        ValueError,
        lambda: layers.ExpressionLayer((None, 3), abs, "same", name="e"),
        "layer 'e': expected output_shape 'auto' or a tuple, got 'same'",
    ),
    (
        ValueError,
        lambda: layers.InverseLayer((None, 3), InputLayer((None, 3), name="x")),
        "InverseLayer: expected a layer that one layer feeds into, got layer 'x'",
    ),
    (
        ValueError,
        lambda: layers.TransformerLayer((None, 3, 4, 4), (None, 5), name="t"),
        "layer 't': expected a localization network (n, 6), got (None, 5)",
    ),
    (
        ValueError,
        lambda: layers.TransformerLayer((None, 3, 4, 4), (None, 6), border_mode="zero", name="t"),
        "layer 't': expected border_mode nearest, mirror or wrap, got 'zero'",
    ),
    (
        ValueError,
        lambda: layers.TransformerLayer((None, 3, 4), (None, 6), name="t"),
        "layer 't': expected an input (n, channels, rows, columns), got (None, 3, 4)",
    ),
    (
        ValueError,
        lambda: layers.TPSTransformerLayer((None, 3, 4, 4), (None, 20), control_points=10, name="t"),
        "layer 't': expected control_points to be a square number, got 10",
    ),
    (
        ValueError,
        lambda: layers.TPSTransformerLayer((None, 3, None, 4), (None, 32), precompute_grid=True, name="t"),
        "layer 't': precompute_grid expects a known size of the image, got (None, 3, None, 4)",
    ),
    (
        ValueError,
        lambda: layers.RandomizedRectifierLayer((None, 3), 0.5, 0.4, name="r"),
        "layer 'r': expected lower of at most upper, got 0.5 and 0.4",
    ),
    (
        ValueError,
        lambda: get_output(layers.EmbeddingLayer(InputLayer((None, 3)), 4, 5, name="e")),
        "layer 'e': expected integers, got Matrix(float32, shape=(?, 3)); "
        "give the InputLayer an input_var of integers",
    ),
    (
        ValueError,
        lambda: layers.LocallyConnected2DLayer((None, 3, None, 4), 4, 3, name="l"),
        "layer 'l': expected known sizes after the first axis, got (None, 3, None, 4)",
    ),
    (
        ValueError,
        lambda: layers.LocallyConnected2DLayer((None, 3, 4, 4), 4, 3, channelwise=True, name="l"),
        "layer 'l': channelwise expects 3 filters, one for each channel, got 4",
    ),
    (
        NotImplementedError,
        lambda: layers.LocallyConnected2DLayer((None, 3, 4, 4), 4, 3, stride=2, name="l"),
        "layer 'l': expected stride=1, got 2",
    ),
    (
        NotImplementedError,
        lambda: layers.LocallyConnected2DLayer((None, 3, 4, 4), 4, 3, pad=1, name="l"),
        "layer 'l': expected pad='same', got 1",
    ),
    (
        NotImplementedError,
        lambda: cuda_convnet.MaxPool2DCCLayer((None, 3, 4, 4), 2, ignore_border=True, name="p"),
        "layer 'p': expected ignore_border=False and pad=0, got True and 0",
    ),
]


@pytest.mark.parametrize(("kind", "call", "message"), ERRORS, ids=[message[:40] for *_, message in ERRORS])
def test_bad_arguments_are_named(kind, call, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message


def test_no_layer_is_left_out_of_the_package():
    """Every layer of the package's modules is a name of it, but for those of the modules of old names."""
    seen = set(Layer.__subclasses__())
    for kind in list(seen):
        seen |= set(kind.__subclasses__()) | {s for k in kind.__subclasses__() for s in k.__subclasses__()}
    here = {
        kind.__name__
        for kind in seen
        if kind.__module__.startswith("theanompi.lasagne.layers.") and not kind.__name__.startswith("_")
    }
    old = {name for module in (dnn, corrmm, cuda_convnet) for name in module.__all__}
    assert here - old <= set(layers.__all__)


# Whole numbers


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_numbers_of_a_layer_or_a_loss_are_not_rounded_where_whole_numbers_come_in(dtype):
    small, wide = (InputLayer((None, 3), pt.matrix(dtype=kind)) for kind in (dtype, "float32"))
    made = [
        lambda x: layers.GaussianNoiseLayer(x, sigma=0.5, name="noise"),
        lambda x: layers.ElemwiseSumLayer([x, x], coeffs=[0.5, 1]),
        lambda x: layers.LocalResponseNormalization2DLayer(x, alpha=0.1),
        layers.StandardizationLayer,
        lambda x: layers.ParametricRectifierLayer(x, alpha=0.5),
        lambda x: layers.RandomizedRectifierLayer(x, name="rrelu"),
        *(
            lambda x, function=function: layers.NonlinearityLayer(x, function)
            for function in (nonlinearities.ScaledTanH(0.5, 1.5), nonlinearities.selu, nonlinearities.leaky_rectify)
        ),
    ]  # fmt: skip
    losses = [
        objectives.squared_error,
        objectives.huber_loss,
        lambda p, t: objectives.binary_hinge_loss(p, t, delta=0.5, log_odds=True),
        lambda p, t: objectives.multiclass_hinge_loss(p, t, delta=0.5),
        objectives.binary_accuracy,
    ]
    keys, targets = np.arange(2), np.array([[0, 1, 0], [1, 0, 0]])
    got = [get_output(make(source), sample_keys=keys) for make in made for source in (small, wide)]
    got += [loss(source.input_var, targets) for loss in losses for source in (small, wide)]
    values = np.array([[0, 2, 200], [1, 0, 3]]) if dtype == "uint8" else np.array([[0, 2, -9], [-1, 0, 3]])
    f = pytensor.function([small.input_var, wide.input_var], got, mode=device.mode())
    results = f(values.astype(dtype), values.astype("float32"))
    for whole, floats in zip(results[::2], results[1::2], strict=True):
        assert whole.dtype == np.float32
        np.testing.assert_array_equal(whole, floats)
