"""Cropping, merging, slicing and reshaping against NumPy and torch; sizes that are unknown or symbolic."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from layer_reference import check, close, draw, feed

from theanompi import device
from theanompi.lasagne import layers
from theanompi.lasagne.layers import InputLayer, get_output

CROPPING = [None, "lower", "center", "upper"]
SHAPES = [(1, 2, 3, 4), (5, 4, 4, 2), (7, 1, 8, 9)]
PARTS = [
    np.s_[:, :1, :3, -2:],
    np.s_[:, :1, :3, -2:],
    np.s_[:, :1, 2:5, -2:],
]


def evaluate(expressions, inputs=(), values=()):
    return pytensor.function(list(inputs), expressions, mode=device.mode(), on_unused_input="ignore")(*values)


@pytest.mark.parametrize("known", [True, False])
def test_autocrop(known):
    arrays = [draw(*shape) for shape in SHAPES]
    symbols = [pt.tensor(dtype="float32", shape=s if known else (None,) * 4) for s in SHAPES]
    cropped = layers.autocrop(symbols, CROPPING)
    shapes = [(1, 1, 3, 2), (5, 1, 3, 2), (7, 1, 3, 2)]
    assert layers.autocrop_array_shapes(SHAPES, CROPPING) == shapes
    if known:
        assert [x.type.shape for x in cropped] == shapes
    for got, array, part in zip(evaluate(cropped, symbols, arrays), arrays, PARTS, strict=True):
        close(got, array[part])


def test_no_cropping_leaves_all_as_it_is():
    symbols = [pt.ftensor3(), pt.ftensor4()]
    assert layers.autocrop(symbols, None) == symbols
    assert layers.autocrop_array_shapes(SHAPES, None) == SHAPES
    assert layers.autocrop_array_shapes([(2, None), (3, 4)], ["lower", "lower"]) == [(2, None), (2, None)]


def test_layers_crop_inputs_of_unknown_size():
    one, two = InputLayer((None, 2, None)), InputLayer((None, 2, 3))
    x, y = draw(3, 2, 5), draw(3, 2, 3)
    layer = layers.ElemwiseSumLayer([one, two], cropping=[None, None, "center"])
    assert layer.output_shape == (None, 2, None)
    symbols = [one.input_var, two.input_var]
    close(evaluate(get_output(layer), symbols, [x, y]), x[:, :, 1:4] + y)


def test_sizes_of_one_are_repeated():
    (one, x), (two, _) = feed(4, 3), feed(4, 1)
    y = draw(3, 4, 1)
    layer = layers.ElemwiseSumLayer([one, two])
    assert layer.output_shape == (None, 4, 3)
    check(layer, [x, y], lambda x, y: x + y)
    loose = pt.tensor3("y", dtype="float32")
    got = get_output(layer, {one: one.input_var, two: loose})
    close(evaluate(got, [one.input_var, loose], [x, y]), x + y)


def test_slices():
    source, x = feed(4, 5)
    for indices, axis in ((1, 1), (-1, -1), (slice(1, 4, 2), 2), (slice(-2, None), 1)):
        layer = layers.SliceLayer(source, indices, axis)
        index = (slice(None),) * axis + (indices,) if axis >= 0 else (..., indices)
        check(layer, [x], lambda x, index=index: x[index])
    assert layers.SliceLayer((2, None), slice(1, 3)).output_shape == (2, None)
    assert layers.SliceLayer((None, 3), 0, axis=0).output_shape == (3,)


def test_reshape_takes_symbolic_sizes():
    source, x = feed(2, 6)
    rows = pt.lscalar("rows")
    layer = layers.ReshapeLayer(source, ([0], rows, -1, np.int64(2)))
    assert layer.output_shape == (None, None, None, 2)
    close(evaluate(get_output(layer), [source.input_var, rows], [x, 3]), x.reshape(3, 3, 2, 2))


def test_dimshuffle_drops_an_axis_of_unknown_length_on_trust():
    source = InputLayer((None, None, 2))
    layer = layers.DimshuffleLayer(source, (2, 0))
    x = draw(3, 1, 2)
    close(evaluate(get_output(layer), [source.input_var], [x]), x[:, 0].T)


ERRORS = [
    (
        lambda: layers.autocrop_array_shapes([(1, 2), (1,)], ["lower"]),
        "expected inputs of as many dimensions, got [2, 1]",
    ),
    (
        lambda: layers.autocrop([pt.fvector()], ["middle"]),
        "expected cropping None, 'lower', 'center' or 'upper' for each axis, got ['middle']",
    ),
    (
        lambda: layers.ElemwiseSumLayer([(None, 3, 1), (None, 2, 4)], name="s"),
        "layer 's': expected equal sizes along axis 1, got input shapes [(None, 3, 1), (None, 2, 4)]",
    ),
    (lambda: layers.SliceLayer((2, 3), 0, axis=2, name="s"), "layer 's': expected axis in [-2, 2), got 2"),
    (
        lambda: layers.SliceLayer((2, 3), 3, name="s"),
        "layer 's': expected an index in [-3, 3) along axis -1, got 3",
    ),
    (
        lambda: layers.ReshapeLayer((2, 3), (pt.fscalar("x"), 3), name="r"),
        "layer 'r': expected sizes, -1 or [i] with i in [0, 2), got x in (x, 3)",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=r"\S") as error:
        call()
    assert str(error.value) == message
