"""Convolutional layers of one to three dimensions, transposed, dilated and local ones, against plain torch."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
import torch.nn.functional as F
from layer_reference import check, close, draw, feed

from theanompi import device
from theanompi.lasagne import layers
from theanompi.lasagne.layers import InputLayer
from theanompi.lasagne.layers.conv import conv_input_length, conv_output_length
from theanompi.lasagne.theano_extensions import conv, padding

CONVOLUTIONS = {
    "1d": (layers.Conv1DLayer, F.conv1d, (4, 9), 3, {}, {}),
    "1d, same": (
        layers.Conv1DLayer,
        F.conv1d,
        (4, 9),
        5,
        {"pad": "same", "stride": 2},
        {"padding": 2, "stride": 2},
    ),
    "1d, full": (layers.Conv1DLayer, F.conv1d, (4, 9), (3,), {"pad": "full"}, {"padding": 2}),
    "1d, groups": (
        layers.Conv1DLayer,
        F.conv1d,
        (4, 9),
        3,
        {"num_groups": 2, "pad": 1},
        {"groups": 2, "padding": 1},
    ),
    "3d": (layers.Conv3DLayer, F.conv3d, (2, 4, 5, 3), (3, 2, 1), {"pad": (0, 1, 2)}, {"padding": (0, 1, 2)}),
    "3d, same": (layers.Conv3DLayer, F.conv3d, (2, 4, 3, 3), 3, {"pad": "same"}, {"padding": 1}),
    "3d, stride": (
        layers.Conv3DLayer,
        F.conv3d,
        (2, 5, 5, 5),
        2,
        {"stride": (2, 1, 3)},
        {"stride": (2, 1, 3)},
    ),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_of_one_and_three_dimensions(case):
    kind, convolve, shape, size, ours, theirs = CONVOLUTIONS[case]
    source, x = feed(*shape)
    flip = case != "1d"
    layer = kind(source, 6, size, nonlinearity=None, flip_filters=flip, **ours)
    axes = tuple(range(2, len(shape) + 1))
    check(layer, [x], lambda x, W, b: convolve(x, W.flip(axes) if flip else W, b, **theirs))


def test_untied_biases_of_a_convolution_of_one_dimension():
    source, x = feed(2, 5)
    layer = layers.Conv1DLayer(source, 4, 3, untie_biases=True)
    assert layer.b.get_value().shape == (4, 3)
    check(layer, [x], lambda x, W, b: F.relu(F.conv1d(x, W.flip(2)) + b))


def test_a_convolution_may_be_done_by_a_function_of_the_users():
    seen = {}

    def convolution(input, filters, input_shape, filter_shape, **keywords):
        seen.update(keywords, input_shape=input_shape, filter_shape=filter_shape)
        return conv.conv2d(input, filters, input_shape, filter_shape, **keywords)

    source, x = feed(2, 5, 6)
    layer = layers.Conv2DLayer(source, 4, 3, 2, "same", convolution=convolution, nonlinearity=None)
    check(layer, [x], lambda x, W, b: F.conv2d(x, W.flip(2, 3), b, 2, 1))
    assert seen == {
        "input_shape": (None, 2, 5, 6),
        "filter_shape": (4, 2, 3, 3),
        "subsample": (2, 2),
        "border_mode": "half",
        "filter_flip": True,
    }


@pytest.mark.parametrize(
    ("convolution", "more"),
    [
        (conv.conv1d_sc, {}),
        (conv.conv1d_mc0, {"border_mode": "full"}),
        (conv.conv1d_mc1, {"border_mode": (1,)}),
        (conv.conv1d_unstrided, {}),
        (conv.conv1d_sd, {"filter_flip": False}),
        (conv.conv1d_md, {}),
    ],
)
def test_convolutions_of_one_dimension_by_lasagnes_names(convolution, more):
    x, w = draw(2, 3, 9), draw(4, 3, 4)
    got = convolution(pt.constant(x), pt.constant(w), x.shape, w.shape, subsample=(2,), **more)
    pads = {"full": 3, "valid": 0}.get(more.get("border_mode", "valid"), 1)
    taps = w if more.get("filter_flip") is False else w[:, :, ::-1].copy()
    expected = F.conv1d(torch.tensor(x), torch.tensor(taps), None, 2, pads)
    close(pytensor.function([], got, mode=device.mode())(), expected)


@pytest.mark.parametrize(("border_mode", "pads"), [("valid", (0, 0)), ("half", (2, 2)), ("full", (3, 4))])
def test_borders_are_those_of_theano_for_even_and_dilated_filters(border_mode, pads):
    x, w = draw(2, 3, 8, 9), draw(4, 3, 4, 3)
    got = conv.conv2d(pt.constant(x), pt.constant(w), border_mode=border_mode, filter_dilation=(1, 2))
    mirrored = torch.tensor(w[:, :, ::-1, ::-1].copy())
    expected = F.conv2d(torch.tensor(x), mirrored, None, 1, pads, (1, 2))
    close(pytensor.function([], got, mode=device.mode())(), expected)


def test_convolutions_of_one_dimension_keep_their_limits():
    x, w = pt.constant(draw(1, 1, 9)), pt.constant(draw(1, 1, 3))
    with pytest.raises(RuntimeError, match="conv1d_sc: expected border_mode 'valid', got 'full'"):
        conv.conv1d_sc(x, w, border_mode="full")
    for convolution in (conv.conv1d_unstrided, conv.conv1d_md):
        with pytest.raises(RuntimeError, match=r"a multiple of the stride 2, got 3"):
            convolution(x, w, (1, 1, 9), (1, 1, 3), subsample=(2,))
    with pytest.raises(ValueError, match="conv1d: expected border_mode 'valid', 'half', 'full' or integers"):
        conv.conv1d_mc0(x, w, border_mode="same")


TRANSPOSED = {
    "defaults": ({}, {}),
    "stride": ({"stride": (2, 3)}, {"stride": (2, 3)}),
    "crop": ({"stride": 2, "crop": (1, 2)}, {"stride": 2, "padding": (1, 2)}),
    "same": ({"stride": 2, "crop": "same"}, {"stride": 2, "padding": (1, 2)}),
    "full": ({"crop": "full"}, {"padding": (2, 4)}),
    "size": (
        {"stride": 2, "crop": "same", "output_size": (8, 14)},
        {"stride": 2, "padding": (1, 2), "output_padding": 1},
    ),
    "symbolic size": (
        {"stride": 2, "crop": "same", "output_size": pt.constant(np.array([8, 13]))},
        {"stride": 2, "padding": (1, 2), "output_padding": (1, 0)},
    ),
}


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolution(case, flip):
    ours, theirs = TRANSPOSED[case]
    source, x = feed(4, 4, 7)
    layer = layers.TransposedConv2DLayer(source, 3, (3, 5), nonlinearity=None, flip_filters=flip, **ours)
    assert layer.W.get_value().shape == (4, 3, 3, 5)

    def reference(x, W, b):
        return F.conv_transpose2d(x, W if flip else W.flip(2, 3), b, **theirs)

    if case == "symbolic size":
        assert layer.output_shape == (None, 3, None, None)
        close(run(layer, x), reference(torch.tensor(x), torch.tensor(layer.W.get_value()), None).detach())
    else:
        check(layer, [x], reference)


def run(layer, *arrays):
    symbols = [source.input_var for source in layers.get_all_layers(layer) if isinstance(source, InputLayer)]
    return pytensor.function(symbols, layers.get_output(layer), mode=device.mode())(*arrays)


def test_transposed_convolution_of_an_image_of_unknown_size():
    x, w = draw(2, 4, 4, 5), draw(4, 3, 3, 3)
    for size, extra in ((None, 0), (8, (1, None))):
        source = InputLayer((None, 4, None, None))
        layer = layers.Deconv2DLayer(source, 3, 3, 2, 1, W=w, b=None, nonlinearity=None, output_size=size)
        expected = F.conv_transpose2d(
            torch.tensor(x), torch.tensor(w).flip(2, 3), None, 2, 1, 1 if extra else 0
        )
        close(run(layer, x), expected[:, :, :size, :size])


def test_transposed_convolution_of_three_dimensions():
    source, x = feed(2, 2, 3, 2)
    layer = layers.Deconv3DLayer(source, 3, (2, 3, 2), stride=2, crop=(0, 1, 0), output_size=(4, 6, 4))
    check(
        layer,
        [x],
        lambda x, W, b: F.relu(F.conv_transpose3d(x, W.flip(2, 3, 4), b, 2, (0, 1, 0), (0, 1, 0))),
    )


def test_transposed_convolution_is_what_the_gradient_of_a_convolution_is():
    filters = draw(4, 3, 3, 3)
    image = pt.tensor("x", dtype="float32", shape=(2, 3, 9, 9))
    forward = layers.Conv2DLayer(
        (2, 3, 9, 9), 4, 3, 2, W=filters, b=None, nonlinearity=None, flip_filters=False
    )
    cotangent = draw(2, 4, 4, 4)
    backward = pytensor.grad(None, image, known_grads={forward.get_output_for(image): pt.constant(cotangent)})
    layer = layers.TransposedConv2DLayer(
        InputLayer((2, 4, 4, 4)), 3, 3, 2, W=filters, b=None, nonlinearity=None, flip_filters=True
    )
    function = pytensor.function([image], backward, mode=device.mode(), on_unused_input="ignore")
    close(run(layer, cotangent), function(draw(2, 3, 9, 9)))


def test_dilated_convolution():
    source, x = feed(3, 9, 8)
    layer = layers.DilatedConv2DLayer(source, 4, (3, 2), dilation=(2, 3))
    assert layer.W.get_value().shape == (3, 4, 3, 2)
    check(layer, [x], lambda x, W, b: F.relu(F.conv2d(x, W.transpose(0, 1), b, dilation=(2, 3))))


@pytest.mark.parametrize("pad", ["valid", "full", "same", 0, 1, 2])
def test_lengths_of_a_convolution_and_back(pad):
    assert conv_output_length(None, 3, 1, pad) is conv_input_length(None, 3, 1, pad) is None
    for size in (1, 3, 5):
        for stride in (1, 2, 3):
            border = {"valid": 0, "full": size - 1, "same": size // 2}.get(pad, pad)
            for length in range(5, 9):
                out = conv_output_length(length, size, stride, pad)
                assert out == len(range(-border, length + border - size + 1, stride))
                assert 0 <= length - conv_input_length(out, size, stride, pad) < stride


def test_pad():
    x = pt.tensor("x", dtype="float32", shape=(2, None, 4))
    wide, uneven = padding.pad(x, 1), padding.pad(x, [(0, 2), 1], val=0.5)
    assert wide.type.shape == uneven.type.shape == (2, None, 6)
    value = draw(2, 3, 4)
    got = pytensor.function([x], [wide, uneven], mode=device.mode())(value)
    close(got[0], np.pad(value, ((0, 0), (1, 1), (1, 1))))
    close(got[1], np.pad(value, ((0, 0), (0, 2), (1, 1)), constant_values=0.5))
    with pytest.raises(ValueError, match=r"expected 2 widths, each an int or \(before, after\), got \[-1\]"):
        padding.pad(x, [-1])


ERRORS = [
    (
        ValueError,
        lambda: layers.Conv1DLayer((None, 3, 4, 5), 2, 3, name="c"),
        "layer 'c': expected an input (n, channels, length), got (None, 3, 4, 5)",
    ),
    (
        ValueError,
        lambda: layers.Conv3DLayer((None, 3, 2, 5, 5), 2, 3, name="c"),
        "layer 'c': expected an image no smaller than the filters, got shape (None, 3, 2, 5, 5) "
        "for filters of (3, 3, 3), dilation (1, 1, 1), pad (0, 0, 0)",
    ),
    (
        ValueError,
        lambda: layers.TransposedConv2DLayer((None, 3, 4, 4), 2, 3, 2, output_size=11, name="t"),
        "layer 't': expected an output_size in [9, 11) along spatial axis 0, got (11, 11)",
    ),
    (
        NotImplementedError,
        lambda: layers.DilatedConv2DLayer((None, 3, 9, 9), 2, 3, 2, pad="same", name="d"),
        "layer 'd': expected pad=0, got 'same'; put a PadLayer before it",
    ),
    (
        NotImplementedError,
        lambda: layers.DilatedConv2DLayer((None, 3, 9, 9), 2, 3, flip_filters=True, name="d"),
        "layer 'd': expected flip_filters=False, got True",
    ),
    (
        ValueError,
        lambda: conv_output_length(3, 3, 1, "half"),
        "expected pad 'valid', 'same', 'full' or an integer, got 'half'",
    ),
]


@pytest.mark.parametrize(("kind", "call", "message"), ERRORS)
def test_bad_arguments_are_named(kind, call, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message
