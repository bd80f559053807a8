"""Layers that pool or enlarge against plain torch and NumPy loops."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
import torch.nn.functional as F
from layer_reference import check, close, draw, feed

from theanompi import device
from theanompi.lasagne import layers
from theanompi.lasagne.layers import InputLayer, get_output
from theanompi.lasagne.layers.pool import pool_2d, pool_2d_nxn_regions, pool_output_length


def average(x, size, stride, pad, mode):
    """Torch's average pooling of one to three axes; a sum by way of the average."""
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.ndim - 3]
    y = pool(x, size, stride, pad, count_include_pad=mode != "average_exc_pad")
    return y * np.prod(np.broadcast_to(size, x.ndim - 2)) if mode == "sum" else y


@pytest.mark.parametrize("mode", ["max", "average_inc_pad", "average_exc_pad", "sum"])
def test_pooling_of_one_two_and_three_axes(mode):
    for kind, most, shape, size, stride, pad in (
        (layers.Pool1DLayer, F.max_pool1d, (2, 9), (3,), (2,), (1,)),
        (layers.Pool2DLayer, F.max_pool2d, (2, 5, 6), (3, 2), (2, 1), (1, 0)),
        (layers.Pool3DLayer, F.max_pool3d, (2, 4, 5, 3), (2, 3, 2), (2, 2, 1), (1, 1, 0)),
    ):
        source, x = feed(*shape)
        layer = kind(source, size, stride, pad, mode=mode)
        if mode == "max":
            check(layer, [x], lambda x, most=most, geometry=(size, stride, pad): most(x, *geometry))
        else:
            check(layer, [x], lambda x, geometry=(size, stride, pad): average(x, *geometry, mode))


def test_max_pooling_has_layers_of_its_own():
    for kind, base, pool in (
        (layers.MaxPool1DLayer, layers.Pool1DLayer, F.max_pool1d),
        (layers.MaxPool2DLayer, layers.Pool2DLayer, F.max_pool2d),
        (layers.MaxPool3DLayer, layers.Pool3DLayer, F.max_pool3d),
    ):
        source, x = feed(2, *(4, 5, 6)[: int(kind.n)])
        assert issubclass(kind, base)
        check(kind(source, 2), [x], lambda x, pool=pool: pool(x, 2))


def test_more_padding_than_half_the_window():
    source, x = feed(2, 5, 6)
    most = layers.Pool2DLayer(source, 3, 1, pad=2)
    check(most, [x], lambda x: F.max_pool2d(F.pad(x, (2,) * 4, value=-np.inf), 3, 1))
    mean = layers.Pool2DLayer(source, 3, 1, pad=2, mode="average_inc_pad")
    check(mean, [x], lambda x: F.avg_pool2d(F.pad(x, (2,) * 4), 3, 1))


@pytest.mark.parametrize("mode", ["max", "average_exc_pad", "sum"])
@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (2, 3), (7, 1), (7, 9)])
def test_windows_over_the_border(mode, window, stride):
    """A window is pooled if it starts inside and the one before did not reach the end; also one larger than all."""
    reduce = {"max": np.max, "average_exc_pad": np.mean, "sum": np.sum}[mode]
    for size in (5, 6, 7):
        signal = draw(1, 1, size)
        layer = layers.Pool1DLayer(InputLayer((1, 1, size)), window, stride, ignore_border=False, mode=mode)
        starts = [s for s in range(0, size, stride) if s == 0 or s - stride + window < size]
        got = get_output(layer, signal)
        assert got.type.shape == layer.output_shape == (1, 1, len(starts))
        assert pool_output_length(size, window, stride, 0, False) == len(starts)
        close(evaluate(got)[0, 0], [reduce(signal[0, 0, s : s + window]) for s in starts])


def evaluate(expression, inputs=(), values=()):
    return pytensor.function(list(inputs), expression, mode=device.mode())(*values)


def test_upscaling():
    source, x = feed(2, 3)
    check(layers.Upscale1DLayer(source, 2), [x], lambda x: x.repeat_interleave(2, 2))
    source, x = feed(2, 3, 2)
    check(
        layers.Upscale2DLayer(source, (2, 3)),
        [x],
        lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3),
    )
    one = torch.ones(2, 1, 1, 1)
    dilated = layers.Upscale2DLayer(source, 2, mode="dilate")
    stencil = torch.tensor([[1.0, 0.0], [0.0, 0.0]]) * one
    check(dilated, [x], lambda x: F.conv_transpose2d(x, stencil, stride=2, groups=2))
    source, x = feed(2, 2, 1, 2)
    check(
        layers.Upscale3DLayer(source, (1, 2, 3)),
        [x],
        lambda x: x.repeat_interleave(2, 3).repeat_interleave(3, 4),
    )
    check(
        layers.Upscale3DLayer(source, (1, 2, 2), "dilate"),
        [x],
        lambda x: F.conv_transpose3d(x, (stencil[:, :, None]), stride=(1, 2, 2), groups=2),
    )


def test_upscaling_of_unknown_sizes():
    x = draw(2, 2, 3, 4)
    layer = layers.Upscale2DLayer(InputLayer((None, 2, None, None)), 2)
    assert layer.output_shape == (None, 2, None, None)
    symbol = pt.tensor4("x", dtype="float32")
    close(evaluate(get_output(layer, symbol), [symbol], [x]), x.repeat(2, 2).repeat(2, 3))


def test_pooling_of_groups_of_channels():
    source, x = feed(6, 2)
    check(layers.FeaturePoolLayer(source, 3), [x], lambda x: x.reshape(3, 2, 3, 2).amax(2))
    mean = layers.FeaturePoolLayer(source, 2, axis=-1, pool_function=pt.mean)
    check(mean, [x], lambda x: x.mean(2, keepdim=True))


def test_of_each_group_of_channels_the_winner_takes_all():
    source, x = feed(6, 2)
    check(
        layers.FeatureWTALayer(source, 3),
        [x],
        lambda x: (lambda g: (g * F.one_hot(g.argmax(2), 3).permute(0, 1, 3, 2)).reshape(3, 6, 2))(
            x.reshape(3, 2, 3, 2)
        ),
    )
    ties = np.ones((1, 4), "float32")
    got = evaluate(get_output(layers.FeatureWTALayer(InputLayer((1, 4)), 2), ties))
    assert got.tolist() == [[1, 0, 1, 0]]


def pyramid(x, levels, bounds, reduce):
    """Each level's regions, row by row; `bounds` gives the first and the end of a region along an axis."""
    regions = [
        reduce(x[:, :, slice(*bounds(x.shape[2], i, p)), slice(*bounds(x.shape[3], j, p))].flatten(2))
        for p in levels
        for i in range(p)
        for j in range(p)
    ]
    return torch.stack(regions, 2)


BOUNDS = {
    "fast": lambda size, i, p: (i * (size // p), i * (size // p) - (-size // p)),
    "kaiming": lambda size, i, p: (int(np.floor(i * size / p)), int(np.ceil((i + 1) * size / p))),
}


@pytest.mark.parametrize(("implementation", "mode"), [("fast", "average_exc_pad"), ("kaiming", "max")])
def test_spatial_pyramid_pooling(implementation, mode):
    def reference(x):
        return pyramid(
            x, (3, 2, 1), BOUNDS[implementation], lambda r: r.amax(2) if mode == "max" else r.mean(2)
        )

    source, x = feed(2, 6 if implementation == "fast" else 5, 7)
    check(
        layers.SpatialPyramidPoolingLayer(source, [3, 2, 1], mode, implementation=implementation),
        [x],
        reference,
    )
    symbol = pt.tensor4("x", dtype="float32")
    unknown = layers.SpatialPyramidPoolingLayer(
        InputLayer((None, 2, None, None)), (3, 2, 1), mode, implementation
    )
    close(evaluate(get_output(unknown, symbol), [symbol], [x]), reference(torch.tensor(x)))


def test_pooling_by_function():
    x = draw(2, 3, 5, 7)
    regions = pool_2d_nxn_regions(pt.constant(x), 2, "average_inc_pad")
    whole = pool_2d(pt.constant(x), (2, 2), ignore_border=False)
    got = evaluate([pt.concatenate(regions, axis=2), whole])
    close(got[0], pyramid(torch.tensor(x), (2,), BOUNDS["kaiming"], lambda r: r.mean(2)))
    close(got[1], F.max_pool2d(torch.tensor(x), 2, ceil_mode=True))
    assert len(regions) == 4 and regions[0].type.shape == (2, 3, 1)
    with pytest.raises(
        ValueError, match="expected mode 'max', 'average_inc_pad', 'average_exc_pad', got 'sum'"
    ):
        pool_2d_nxn_regions(pt.constant(x), 2, "sum")


def test_a_size_that_the_fast_pyramid_cannot_divide_is_an_error_when_it_comes():
    symbol = pt.tensor4("x", dtype="float32")
    layer = layers.SpatialPyramidPoolingLayer(InputLayer((None, 1, None, None)), [4], name="spp")
    function = pytensor.function([symbol], get_output(layer, symbol), mode=device.mode())
    assert function(draw(1, 1, 8, 9)).shape == (1, 1, 16)
    with pytest.raises(AssertionError, match="layer 'spp': the size does not divide into 4 regions"):
        function(draw(1, 1, 8, 7))


ERRORS = [
    (
        lambda: layers.Pool1DLayer((None, 3, 4, 4), 2, name="p"),
        "layer 'p': expected an input (n, channels, length), got (None, 3, 4, 4)",
    ),
    (
        lambda: layers.Upscale2DLayer((None, 3, 4, 4), (2, 0), name="u"),
        "layer 'u': expected a scale_factor of at least 1, got (2, 0)",
    ),
    (
        lambda: layers.Upscale2DLayer((None, 3, 4, 4), 2, "nearest", name="u"),
        "layer 'u': expected mode 'repeat' or 'dilate', got 'nearest'",
    ),
    (
        lambda: layers.FeaturePoolLayer((None, 5), 2, name="f"),
        "layer 'f': expected a size that is a multiple of pool_size 2, got 5",
    ),
    (
        lambda: layers.FeatureWTALayer((None, 4), 2, axis=2, name="f"),
        "layer 'f': expected axis in [-2, 2), got 2",
    ),
    (
        lambda: layers.SpatialPyramidPoolingLayer((None, 3, 7, 8), name="s"),
        "layer 's': expected a size that divides into 4 regions, got 7; implementation='kaiming' takes any",
    ),
    (
        lambda: layers.SpatialPyramidPoolingLayer((None, 3, 7, 8), implementation="slow", name="s"),
        "layer 's': expected implementation 'fast' or 'kaiming', got 'slow'",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=r"\S") as error:
        call()
    assert str(error.value) == message
