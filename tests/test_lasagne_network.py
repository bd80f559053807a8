"""Whole networks: walking, naming, feeding, surgery, dropout."""

import itertools
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from theanompi import device, lasagne
from theanompi.config import ConfigError
from theanompi.lasagne.layers import (
    BatchNormLayer,
    Conv2DLayer,
    DenseLayer,
    DropoutLayer,
    ElemwiseSumLayer,
    InputLayer,
    Layer,
    NonlinearityLayer,
    count_params,
    dropout,
    get_all_layers,
    get_all_param_values,
    get_all_params,
    get_output,
    get_output_shape,
    output_keywords,
    set_all_param_values,
)


def run(inputs, outputs, *values):
    return pytensor.function(inputs, outputs, mode=device.mode())(*values)


def draw(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


def diamond():
    source = InputLayer((None, 3), name="in")
    left, right = DenseLayer(source, 4, name="left"), DenseLayer(source, 4, name="right")
    return source, left, right, ElemwiseSumLayer([left, right], name="sum")


def test_layers_come_after_their_inputs_and_once():
    source, left, right, top = diamond()
    assert get_all_layers(top) == [source, left, right, top]
    assert get_all_layers([right, left]) == [source, right, left]
    assert get_all_layers(top, treat_as_input=[left]) == [left, source, right, top]
    assert get_all_layers(top, treat_as_input=[left, right]) == [left, right, top]


def test_networks_deeper_than_pythons_stack():
    top = InputLayer((None, 1))
    for _ in range(2000):
        top = NonlinearityLayer(top)
    assert len(get_all_layers(top)) == 2001


@pytest.mark.timeout(30)
def test_walking_takes_time_in_the_layers_not_in_the_paths():
    top = InputLayer((None, 1))
    for _ in range(40):  # 2⁴⁰ paths
        top = ElemwiseSumLayer([top, top])
    assert len(get_all_layers(top)) == 41


def test_get_output_at_several_layers_and_from_a_mapping():
    source, left, right, top = diamond()
    x = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    a, b, c = run([source.input_var], get_output([left, right, top]), x)
    np.testing.assert_allclose(a + b, c, rtol=1e-6)
    given = np.ones((2, 4), "float32")
    np.testing.assert_allclose(run([], get_output(top, {left: given, source: x})), given + b, rtol=1e-6)
    np.testing.assert_allclose(run([], get_output(top, x)), c, rtol=1e-6)


def test_get_output_shape_propagates():
    source, left, _, top = diamond()
    assert get_output_shape([left, top]) == [(None, 4), (None, 4)]
    assert get_output_shape(top, (7, 3)) == get_output_shape(top, {source: (7, 3)}) == (7, 4)


def test_free_floating_layers():
    layer = DenseLayer((5, 3), 2, name="fc")
    assert get_output_shape(layer) == (5, 2)
    with pytest.raises(ValueError, match="layer 'fc': no layer feeds into it: expected an input .* got none"):
        get_output(layer)
    with pytest.raises(
        ValueError, match=r"get_output: a single input expects .* one input layer, got 0 \(none\)"
    ):
        get_output(layer, np.ones((5, 3), "float32"))


def test_what_feeds_a_free_floating_layer_is_given_by_none():
    layer, x = DenseLayer((5, 3), 2), draw(5, 3)
    expected = np.maximum(x @ layer.W.get_value(), 0)
    np.testing.assert_allclose(run([], get_output(layer, {None: x})), expected, rtol=1e-5)
    assert get_output_shape(layer, {None: (7, 3)}) == (7, 2)
    source = InputLayer((5, 2))
    top = ElemwiseSumLayer([source, (5, 2)])
    assert get_output_shape(top, {source: (5, 2), None: (5, 2)}) == (5, 2)
    y = draw(5, 2)
    np.testing.assert_array_equal(run([], get_output(top, {source: y, None: y})), 2 * y)


def test_network_surgery():
    """What is put in place of a layer's input counts, in every function on networks."""
    source = InputLayer((None, 3))
    first, second = DenseLayer(source, 4, name="first"), DenseLayer(source, 4, name="second")
    top = DenseLayer(first, 2)
    top.input_layer = second
    assert get_all_layers(top) == [source, second, top]
    assert [p.name for p in get_all_params(top, regularizable=True)] == ["second.W", "W"]
    x = draw(2, 3)
    through, before, after = run([source.input_var], get_output([top, first, second]), x)
    np.testing.assert_allclose(through, np.maximum(after @ top.W.get_value(), 0), rtol=1e-4, atol=1e-6)
    assert (before != after).any()
    both = ElemwiseSumLayer([first, first])
    both.input_layers[1] = second
    assert get_all_layers(both) == [source, first, second, both]
    np.testing.assert_allclose(run([source.input_var], get_output(both), x), before + after, rtol=1e-6)
    wide = Conv2DLayer((None, 1, 9, 9), 2, 3)
    wide.input_shape = (None, 1, 5, 5)
    assert wide.output_shape == get_output_shape(wide) == (None, 2, 3, 3)


def test_a_network_that_feeds_itself_is_named():
    source = InputLayer((None, 3))
    first = DenseLayer(source, 3, name="first")
    second = DenseLayer(first, 3, name="second")
    first.input_layer = second
    assert get_all_layers(second) == [first, second]
    with pytest.raises(
        ValueError, match="layer 'first': no layer of the network feeds into it first: expected an"
    ):
        get_output(second)


def test_what_feeds_into_a_layer_needs_only_an_output_shape():
    class Images:
        output_shape = (None, 4)

    images = Images()
    layer = DenseLayer(images, 2)
    assert get_all_layers(layer) == [images, layer]
    x = draw(3, 4)
    got = run([], get_output(layer, {images: x}))
    np.testing.assert_allclose(got, np.maximum(x @ layer.W.get_value(), 0), rtol=1e-5)
    with pytest.raises(
        ValueError, match="no layer of the network feeds into it first: expected an input for it"
    ):
        get_output(layer)


def test_images_of_another_size_than_the_input_layers():
    """A network without dense layers takes them."""
    net = Conv2DLayer(
        InputLayer((None, 1, 8, 8)), np.int64(2), filter_size=np.int64(3), stride=(np.int32(1), 1)
    )
    assert net.output_shape == (None, 2, 6, 6)
    assert run([], get_output(net, draw(2, 1, 12, 10))).shape == (2, 2, 10, 8)
    x = pt.ftensor4("x")
    assert run([x], get_output(net, x), draw(2, 1, 4, 5)).shape == (2, 2, 2, 3)


def test_a_symbolic_output_shape_is_refused():
    class Odd(Layer):
        def get_output_shape_for(self, input_shape):
            return (pt.iscalar(),)

    with pytest.raises(
        ValueError, match=r"layer 'odd': expected get_output_shape_for\(\) to give integers or None"
    ):
        assert Odd((None, 3), name="odd").output_shape


def test_one_input_for_two_input_layers():
    top = ElemwiseSumLayer([InputLayer((2, 3), name="a"), InputLayer((2, 3), name="b")])
    with pytest.raises(ValueError, match=r"one input layer, got 2 \(layer 'a', layer 'b'\): give a mapping"):
        get_output(top, pt.fmatrix())
    with pytest.raises(ValueError, match=r"get_output_shape: .* got 2 \(layer 'a', layer 'b'\)"):
        get_output_shape(top, (2, 3))


def test_an_input_that_does_not_fit_is_named():
    *_, top = diamond()
    with pytest.raises(ValueError, match=r"layer 'in': expected an input of shape \(None, 3\), got Vector"):
        get_output(top, np.ones(3, "float32"))
    with pytest.raises(
        ValueError, match=r"layer 'left': Incompatible shared dimension .* \(2, 5\), \(3, 4\)"
    ):
        get_output(top, np.ones((2, 5), "float32"))


def test_an_ops_error_names_the_layer():
    below = NonlinearityLayer(InputLayer((None, 3, 8, 8)))
    conv = Conv2DLayer(below, 4, 3, name="res2a_branch1")
    with pytest.raises(ValueError, match="layer 'res2a_branch1': conv2d: input channels: expected 3 .*got 2"):
        get_output(conv, {below: np.ones((1, 2, 8, 8), "float32")})


@pytest.mark.parametrize(
    ("keyword", "hint"),
    [
        ("determinstic", "did you mean 'deterministic'?"),
        ("bias_factor", "did you mean 'bias_factors'?"),
        ("zzz", "known are batch_norm_statistics, .*, bias_factors, deterministic, sample_keys"),
        ("kwargs", "known are"),
    ],
)
def test_unknown_keyword(keyword, hint):
    class OddLayer(Layer):
        def get_output_for(self, input, bias_factors=1, **kwargs):
            return input * bias_factors

    network = OddLayer(InputLayer((None, 3)))
    with pytest.warns(
        UserWarning, match=f"get_output: no layer knows the keyword '{keyword}'; {hint}"
    ) as caught:
        get_output(network, **{keyword: True})
    assert caught[0].filename == __file__
    get_output(
        network, bias_factors=2, deterministic=True, sample_keys=pt.lvector(), batch_norm_statistics={}
    )
    network.get_output_kwargs.append("zzz")
    get_output(network, zzz=1)


def test_params_by_tag_in_order_and_once():
    source = InputLayer((None, 3))
    hidden = BatchNormLayer(DenseLayer(source, 3, name="fc"), name="bn")
    tied = DenseLayer(hidden, 3, W=hidden.input_layer.W, name="tied")
    names = [p.name for p in get_all_params(tied)]
    assert names == ["fc.W", "fc.b", "bn.beta", "bn.gamma", "bn.mean", "bn.inv_std", "tied.b"]
    assert [p.name for p in get_all_params(tied, regularizable=True)] == ["fc.W"]
    assert [p.name for p in get_all_params(tied, trainable=False)] == ["bn.mean", "bn.inv_std"]
    assert [p.name for p in get_all_params(tied, trainable=True, regularizable=False)] == [
        *("fc.b", "bn.beta", "bn.gamma", "tied.b")
    ]
    assert count_params(tied) == 9 + 3 + 4 * 3 + 3
    assert count_params(tied, batch_norm_stat=True) == 6


def test_params_that_are_expressions():
    w1 = device.shared(np.ones((3, 2), "float32"), name="w1")
    w2 = device.shared(np.float32(1), name="w2")
    layer = DenseLayer((None, 3), 2, W=pt.exp(w1) - w2, b=None)
    assert layer.get_params() == [w1, w2]
    assert layer.get_params(unwrap_shared=False) == [layer.W]
    assert layer.get_params(regularizable=False) == []


def test_own_tags():
    layer = Layer((None, 3), name="mine")
    param = layer.add_param(0.0, (3,), "p", trainable=False, special=True)
    assert (param.name, layer.params[param]) == ("mine.p", {"regularizable", "special"})


def test_values_are_copied_out_and_in():
    *_, top = diamond()
    values = get_all_param_values(top)
    set_all_param_values(top, [value + 1 for value in values])
    for value, param in zip(values, get_all_params(top), strict=True):
        np.testing.assert_array_equal(param.get_value(), value + 1)
    weights = get_all_param_values(top, regularizable=True)
    set_all_param_values(top, [0 * value for value in weights], regularizable=True)
    assert [float(abs(p.get_value()).sum()) for p in get_all_params(top)] == [0, 4, 0, 4]


def test_values_that_do_not_fit_change_nothing():
    *_, top = diamond()
    values = get_all_param_values(top)
    with pytest.raises(ValueError, match="set_all_param_values: expected 4 values, got 3"):
        set_all_param_values(top, values[:3])
    bad = [value + 1 for value in values]
    bad[2] = bad[2].T
    with pytest.raises(ValueError, match=r"'right.W': expected a value of shape \(3, 4\), got \(4, 3\)"):
        set_all_param_values(top, bad)
    for value, param in zip(values, get_all_params(top), strict=True):
        np.testing.assert_array_equal(param.get_value(), value)


def drop(layer, x, keys=None, **kwargs):
    if keys is not None:
        kwargs["sample_keys"] = np.asarray(keys, dtype="int64")
    return run([], get_output(layer, x, **kwargs))


def test_dropout_zeroes_a_share_and_keeps_the_mean():
    layer = DropoutLayer(InputLayer((None, 1000)), p=0.3, name="drop")
    x = np.full((20, 1000), 2, "float32")
    y = drop(layer, x, range(20))
    assert set(np.unique(y).round(5)) == {0, np.float32(2 / 0.7).round(5)}
    assert abs((y == 0).mean() - 0.3) < 0.02
    unscaled = DropoutLayer(InputLayer((None, 1000)), p=0.3, rescale=False, name="drop")
    np.testing.assert_allclose(drop(unscaled, x, range(20)), y * 0.7, rtol=1e-6)


def test_dropout_depends_on_the_samples_key_not_its_place():
    layer = dropout(InputLayer((None, 50)), name="drop")
    x = np.ones((4, 50), "float32")
    y = drop(layer, x, [5, 6, 7, 5])
    np.testing.assert_array_equal(drop(layer, x[:2], [7, 5]), y[[2, 0]])
    np.testing.assert_array_equal(y[0], y[3])
    assert (y[0] != y[1]).any()


def test_dropout_layers_draw_by_name():
    source = InputLayer((None, 50))
    x = np.ones((2, 50), "float32")
    one, same, other = (drop(DropoutLayer(source, name=name), x, [1, 2]) for name in ("a", "a", "b"))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    # The published check value of CRC-32: the salt is the same in every process, unlike Python's hash.
    assert DropoutLayer(source, name="123456789").salt == 0xCBF43926


def test_unnamed_dropout_layers_of_a_chain_differ():
    first = DropoutLayer(InputLayer((None, 50)))
    second = DropoutLayer(first)
    one, two = run(
        [], get_output([first, second], np.ones((2, 50), "float32"), sample_keys=pt.constant([1, 2]))
    )
    assert (np.isclose(one, 2) & (two == 0)).any()


def test_dropout_layers_of_the_same_masks_are_refused():
    source = InputLayer((None, 5))
    twins = ElemwiseSumLayer([DropoutLayer(source), DropoutLayer(source)])
    with pytest.raises(ValueError, match="dropout: expected names that differ, got unnamed DropoutLayer and"):
        get_output(twins, sample_keys=pt.lvector())
    get_output(twins, deterministic=True, sample_keys=pt.lvector())


def test_dropout_of_whole_channels():
    layer = DropoutLayer(InputLayer((None, 40, 3, 3)), shared_axes=(2, -1), name="drop")
    y = drop(layer, np.ones((2, 40, 3, 3), "float32"), [1, 2])
    assert (y == y[:, :, :1, :1]).all() and 0.2 < (y == 0).mean() < 0.8


def test_dropout_that_is_off():
    network = DropoutLayer(InputLayer((None, 5)), name="drop6")
    x = np.ones((2, 5), "float32")
    np.testing.assert_array_equal(drop(network, x, deterministic=True), x)
    np.testing.assert_array_equal(drop(DropoutLayer(network.input_layer, p=0), x), x)


def test_dropout_without_keys_drops_anew_at_every_call_and_output():
    """Of an image of any size, and of two layers without a name."""
    source = InputLayer((None, 3, None, None))
    layers = [DropoutLayer(source), DropoutLayer(source), DropoutLayer(source, shared_axes=(0, 2, 3))]
    function = pytensor.function([source.input_var], [*get_output(layers), get_output(layers[0])])
    x = np.ones((20, 3, 5, 7), "float32")
    calls = [function(x), function(x)]
    masks = [y == 0 for ys in calls for y in (*ys[:2], ys[3])]
    assert all(abs(mask.mean() - 0.5) < 0.05 for mask in masks)
    assert all(0.4 < (a != b).mean() < 0.6 for a, b in itertools.combinations(masks, 2))
    assert all((ys[2] == ys[2][:1, :, :1, :1]).all() for ys in calls)


def test_the_generator_of_the_initialisers_decides_what_is_dropped():
    layer, x = DropoutLayer(InputLayer((None, 50))), np.ones((2, 50), "float32")
    before = lasagne.random.get_rng()
    draws = []
    for rng in (np.random.RandomState(3), np.random.RandomState(3), np.random.default_rng(3)):
        lasagne.random.set_rng(rng)
        draws.append(pytensor.function([layer.input_layer.input_var], get_output(layer))(x))
    lasagne.random.set_rng(before)
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_a_chance_of_dropping_that_changes_between_calls():
    p = pytensor.shared(0.9)
    layers = [DropoutLayer(InputLayer((None, 400)), p=p, rescale=rescale) for rescale in (True, False)]
    x = np.ones((5, 400), "float32")
    function = pytensor.function([], [get_output(layer, x) for layer in layers])
    for chance in (0.9, 0.25):
        p.set_value(chance)
        scaled, plain = function()
        assert all(abs((y == 0).mean() - chance) < 0.06 for y in (scaled, plain))
        np.testing.assert_allclose([scaled.max(), plain.max()], [1 / (1 - chance), 1], rtol=1e-5)
        assert scaled.dtype == plain.dtype == "float32"


def test_one_mask_for_all_samples_has_no_keys():
    """It would depend on how a minibatch is split."""
    with pytest.raises(ValueError, match="layer 'd': expected shared_axes without axis 0 where there are"):
        drop(
            DropoutLayer(InputLayer((None, 5)), shared_axes=(0,), name="d"),
            np.ones((2, 5), "float32"),
            [1, 2],
        )


def test_masks_of_sizes_that_are_known_only_at_a_call_are_the_same():
    x, known = pt.ftensor4("x"), InputLayer((None, 2, 4, 4))
    unknown = InputLayer((None, 2, None, None), x)
    value = np.ones((3, 2, 4, 4), "float32")
    keys = pt.constant(np.arange(3))
    got = pytensor.function([x], get_output(DropoutLayer(unknown, name="d"), sample_keys=keys))(value)
    np.testing.assert_array_equal(got, drop(DropoutLayer(known, name="d"), value, range(3)))


def test_dropouts_gradient_passes_where_it_kept():
    source = InputLayer((None, 30))
    y = get_output(DropoutLayer(source, p=0.4, name="drop"), sample_keys=np.arange(2))
    value, gradient = run(
        [source.input_var], [y, pytensor.grad(y.sum(), source.input_var)], np.ones((2, 30), "f4")
    )
    np.testing.assert_array_equal(value, gradient)
    assert 0 < (gradient == 0).mean() < 1


def test_a_python_constant_makes_no_float64():
    """Whatever floatX says, of which PyTensor's own default is used here."""
    assert pytensor.config.floatX == "float64"
    net = NonlinearityLayer(InputLayer((2, 3)), lambda x: x * 1e-4 + 0.1, name="scale")
    assert get_output(net).dtype == "float32"


def test_a_network_computes_in_float32_whatever_it_is_given():
    """As by Theano's recipes: a ``pt.matrix()``, NumPy's arrays, weights of one's own, Python's constants."""
    assert pytensor.config.floatX == "float64"
    x, own = pt.tensor4("x"), pytensor.shared(np.full((4, 2, 1, 1), 0.5))
    conv = Conv2DLayer(InputLayer((None, 2, 3, 3), x), 4, 1, W=own, b=np.zeros(4))
    net = BatchNormLayer(DenseLayer(conv, 3, W=pt.exp(device.shared(np.ones((36, 3), "float32"))) * 0.1))
    output = get_output(net)
    assert output.dtype == "float32" == get_output(net, np.ones((2, 2, 3, 3))).dtype
    loss = output.sum() * 0.3
    params = get_all_params(net, trainable=True)
    assert own in params
    assert conv.b.dtype == "float32"
    before = own.get_value()
    pytensor.function([x], loss, updates=lasagne.updates.sgd(loss, params, 0.1))(draw(5, 2, 3, 3))
    assert own.get_value().dtype == np.float64
    assert (own.get_value() != before).any()


def test_what_is_given_for_a_layer_amid_the_network_is_computed_with_in_float32_too():
    hidden = DenseLayer(InputLayer((None, 4)), 3)
    net = DenseLayer(hidden, 2)
    x = pt.dmatrix("x")
    output = get_output(net, {hidden: x})
    assert output.dtype == "float32"
    expected = np.maximum(np.ones((5, 3)) @ net.W.get_value(), 0)
    np.testing.assert_allclose(run([x], output, np.ones((5, 3))), expected, rtol=1e-5)


def test_values_of_another_dtype_are_set_where_a_parameter_lies_in_host_memory():
    own = pytensor.shared(np.zeros((4, 3), "float32"))
    net = DenseLayer(InputLayer((None, 4)), 3, W=own, b=None)
    set_all_param_values(net, [np.full((4, 3), 0.5)])
    np.testing.assert_array_equal(own.get_value(), np.full((4, 3), 0.5, "float32"))


def test_noises_start_so_far_apart_that_they_never_meet():
    keys = [lasagne.random.fresh_keys(1) for _ in range(8)]
    first = np.sort(np.concatenate(pytensor.function([], keys, mode=device.mode())()))
    assert np.diff(first).min() > 2**40


@pytest.mark.parametrize("function", [lambda x: x * np.full(3, 1e-4), lambda x: x.astype("float64")])
def test_the_layer_that_makes_float64_is_named(function):
    net = NonlinearityLayer(InputLayer((2, 3)), function, name="scale")
    net = DenseLayer(net, 4, name="dense")
    with pytest.raises(ConfigError) as caught:
        get_output(net)
    assert str(caught.value) == (
        "layer 'scale': expected a float32 output, got float64 from float32: a float64 array, or whole numbers of "
        "32 or 64 bits with float32, make one, and so does what goes by floatX, unless PYTENSOR_FLAGS has "
        "floatX=float32"
    )


def test_what_a_trainer_asks_of_all_layers_goes_to_those_that_take_it() -> None:
    """What a script asks itself goes to all, as in Lasagne."""

    class Twice(Layer):
        def get_output_for(self, input: Any) -> Any:
            return 2 * input

    class Noted(Layer):
        def get_output_for(self, input: Any, deterministic: bool = False, **kwargs: Any) -> Any:
            seen.append((deterministic, kwargs))
            return input

    seen: list[Any] = []
    net = Noted(Twice(InputLayer((2, 3))))
    with output_keywords(deterministic=True, sample_keys=7):
        assert get_output(net, np.ones((2, 3), "float32")).eval().tolist() == [[2] * 3] * 2
    assert seen == [(True, {"sample_keys": 7})]
    with pytest.raises(TypeError, match="deterministic"):
        get_output(net, np.ones((2, 3), "float32"), deterministic=True)


def test_a_layer_that_waits_for_training_is_told_of_deterministic() -> None:
    """As in Keras; its dropout would go on in validations."""

    class Dropped(Layer):
        def get_output_for(self, input: Any, training: bool = True, **kwargs: Any) -> Any:
            return input * 2 if training else input

    net, x = Dropped(InputLayer((2, 3)), name="drop"), np.ones((2, 3), "float32")
    with output_keywords(deterministic=True):
        with pytest.raises(
            ValueError, match=r"^layer 'drop': get_output_for: expected deterministic, .* got training, which"
        ):
            get_output(net, x)
        assert get_output(net, x, training=False).eval().tolist() == [[1] * 3] * 2
    get_output(net, x)
