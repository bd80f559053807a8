"""Every public name of Lasagne, with its arguments and defaults, is here."""

import ast
import inspect
from functools import reduce
from importlib import import_module
from typing import Any

import pytensor.tensor as pt
import pytest

from theanompi.lasagne import init, nonlinearities

# As of Lasagne's last revision, by module. A value has no arguments; `...` stands for any default.
DENSE = "W=GlorotUniform(), b=Constant(0.), nonlinearity=rectify"
RECURRENT = (
    "backwards=False, learn_init=False, {}gradient_steps=-1, grad_clipping=0, unroll_scan=False, "
    "precompute_input=True, mask_input=None, only_return_final=False"
)
NAMES = {
    "": "init layers nonlinearities objectives random regularization updates utils __version__",
    "init": """
        Initializer() Initializer.sample(shape) Normal(std=0.01, mean=0.0) Uniform(range=0.01, std=None, mean=0.0)
        Glorot(initializer, gain=1.0, c01b=False) GlorotNormal(gain=1.0, c01b=False)
        GlorotUniform(gain=1.0, c01b=False) He(initializer, gain=1.0, c01b=False) HeNormal(gain=1.0, c01b=False)
        HeUniform(gain=1.0, c01b=False) Constant(val=0.0) Sparse(sparsity=0.1, std=0.01) Orthogonal(gain=1.0)
        """,
    "nonlinearities": """
        sigmoid(x) softmax(x) tanh(x) ScaledTanH(scale_in=1, scale_out=1) ScaledTanh(scale_in=1, scale_out=1)
        rectify(x) LeakyRectify(leakiness=0.01) leaky_rectify very_leaky_rectify elu(x) SELU(scale=1, scale_neg=1)
        selu softplus(x) linear(x) identity(x)
        """,
    "objectives": """
        align_targets(predictions, targets) binary_crossentropy(predictions, targets)
        categorical_crossentropy(predictions, targets) squared_error(a, b)
        aggregate(loss, weights=None, mode='mean')
        binary_hinge_loss(predictions, targets, delta=1, log_odds=None, binary=True)
        multiclass_hinge_loss(predictions, targets, delta=1) huber_loss(predictions, targets, delta=1)
        binary_accuracy(predictions, targets, threshold=0.5) categorical_accuracy(predictions, targets, top_k=1)
        """,
    "random": "get_rng() set_rng(new_rng)",
    "regularization": """
        l1(x) l2(x) apply_penalty(tensor_or_tensors, penalty)
        regularize_layer_params(layer, penalty, tags={'regularizable': True})
        regularize_layer_params_weighted(layers, penalty, tags={'regularizable': True})
        regularize_network_params(layer, penalty, tags={'regularizable': True})
        """,
    "updates": """
        get_or_compute_grads(loss_or_grads, params) sgd(loss_or_grads, params, learning_rate)
        apply_momentum(updates, params=None, momentum=0.9)
        momentum(loss_or_grads, params, learning_rate, momentum=0.9)
        apply_nesterov_momentum(updates, params=None, momentum=0.9)
        nesterov_momentum(loss_or_grads, params, learning_rate, momentum=0.9)
        adagrad(loss_or_grads, params, learning_rate=1.0, epsilon=1e-6)
        rmsprop(loss_or_grads, params, learning_rate=1.0, rho=0.9, epsilon=1e-6)
        adadelta(loss_or_grads, params, learning_rate=1.0, rho=0.95, epsilon=1e-6)
        adam(loss_or_grads, params, learning_rate=0.001, beta1=0.9, beta2=0.999, epsilon=1e-8)
        adamax(loss_or_grads, params, learning_rate=0.002, beta1=0.9, beta2=0.999, epsilon=1e-8)
        amsgrad(loss_or_grads, params, learning_rate=0.001, beta1=0.9, beta2=0.999, epsilon=1e-8)
        norm_constraint(tensor_var, max_norm, norm_axes=None, epsilon=1e-7)
        total_norm_constraint(tensor_vars, max_norm, epsilon=1e-7, return_norm=False)
        """,
    "utils": """
        int_types floatX(arr) shared_empty(dim=2, dtype=None) as_theano_expression(input)
        collect_shared_vars(expressions) one_hot(x, m=None) unique(l) as_tuple(x, N, t=None) inspect_kwargs(func)
        compute_norms(array, norm_axes=None) create_param(spec, shape, name=None)
        unroll_scan(fn, sequences, outputs_info, non_sequences, n_steps, go_backwards=False)
        """,
    "theano_extensions.conv": """
        conv1d_sc(input, filters, image_shape=None, filter_shape=None, border_mode='valid', subsample=(1,),
                  filter_flip=True)
        conv1d_mc0(input, filters, image_shape=None, filter_shape=None, border_mode='valid', subsample=(1,),
                   filter_flip=True, num_groups=1)
        conv1d_mc1(input, filters, image_shape=None, filter_shape=None, border_mode='valid', subsample=(1,),
                   filter_flip=True, num_groups=1)
        conv1d_unstrided(input, filters, image_shape, filter_shape, border_mode='valid', subsample=(1,),
                         filter_flip=True, implementation=...)
        conv1d_sd(input, filters, image_shape, filter_shape, border_mode='valid', subsample=(1,), filter_flip=True)
        conv1d_md(input, filters, image_shape, filter_shape, border_mode='valid', subsample=(1,), filter_flip=True)
        """,
    "theano_extensions.padding": "pad(x, width, val=0, batch_ndim=1)",
    "layers": f"""
        Layer(incoming, name=None) Layer.get_params(unwrap_shared=True) Layer.get_output_shape_for(input_shape)
        Layer.get_output_for(input) Layer.add_param(spec, shape, name=None) Layer.output_shape
        MergeLayer(incomings, name=None) MergeLayer.get_output_shape_for(input_shapes)
        MergeLayer.get_output_for(inputs)

        get_all_layers(layer, treat_as_input=None) get_output(layer_or_layers, inputs=None)
        get_output_shape(layer_or_layers, input_shapes=None) get_all_params(layer, unwrap_shared=True)
        count_params(layer) get_all_param_values(layer) set_all_param_values(layer, values)

        InputLayer(shape, input_var=None, name=None) DenseLayer(incoming, num_units, {DENSE}, num_leading_axes=1)
        NINLayer(incoming, num_units, untie_biases=False, {DENSE})
        EmbeddingLayer(incoming, input_size, output_size, W=Normal())

        Conv1DLayer(incoming, num_filters, filter_size, stride=1, pad=0, untie_biases=False, {DENSE},
                    flip_filters=True, convolution=...)
        Conv2DLayer(incoming, num_filters, filter_size, stride=(1, 1), pad=0, untie_biases=False, {DENSE},
                    flip_filters=True, convolution=...)
        Conv3DLayer(incoming, num_filters, filter_size, stride=(1, 1, 1), pad=0, untie_biases=False, {DENSE},
                    flip_filters=True, convolution=...)
        TransposedConv2DLayer(incoming, num_filters, filter_size, stride=(1, 1), crop=0, untie_biases=False, {DENSE},
                              flip_filters=False, output_size=None)
        Deconv2DLayer(incoming, num_filters, filter_size, stride=(1, 1), crop=0, untie_biases=False, {DENSE},
                      flip_filters=False, output_size=None)
        TransposedConv3DLayer(incoming, num_filters, filter_size, stride=(1, 1, 1), crop=0, untie_biases=False,
                              {DENSE}, flip_filters=False, output_size=None)
        Deconv3DLayer(incoming, num_filters, filter_size, stride=(1, 1, 1), crop=0, untie_biases=False, {DENSE},
                      flip_filters=False, output_size=None)
        DilatedConv2DLayer(incoming, num_filters, filter_size, dilation=(1, 1), pad=0, untie_biases=False, {DENSE},
                           flip_filters=False)
        LocallyConnected2DLayer(incoming, num_filters, filter_size, stride=(1, 1), pad='same', untie_biases=False,
                                {DENSE}, flip_filters=True, channelwise=False)

        Pool1DLayer(incoming, pool_size, stride=None, pad=0, ignore_border=True, mode='max')
        Pool2DLayer(incoming, pool_size, stride=None, pad=(0, 0), ignore_border=True, mode='max')
        Pool3DLayer(incoming, pool_size, stride=None, pad=(0, 0, 0), ignore_border=True, mode='max')
        MaxPool1DLayer(incoming, pool_size, stride=None, pad=0, ignore_border=True)
        MaxPool2DLayer(incoming, pool_size, stride=None, pad=(0, 0), ignore_border=True)
        MaxPool3DLayer(incoming, pool_size, stride=None, pad=(0, 0, 0), ignore_border=True)
        Upscale1DLayer(incoming, scale_factor, mode='repeat') Upscale2DLayer(incoming, scale_factor, mode='repeat')
        Upscale3DLayer(incoming, scale_factor, mode='repeat')
        FeaturePoolLayer(incoming, pool_size, axis=1, pool_function=max) FeatureWTALayer(incoming, pool_size, axis=1)
        GlobalPoolLayer(incoming, pool_function=mean)
        SpatialPyramidPoolingLayer(incoming, pool_dims=[4, 2, 1], mode='max', implementation='fast')

        CustomRecurrentLayer(incoming, input_to_hidden, hidden_to_hidden, nonlinearity=rectify,
                             hid_init=Constant(0.), {RECURRENT.format("")})
        RecurrentLayer(incoming, num_units, W_in_to_hid=Uniform(), W_hid_to_hid=Uniform(), b=Constant(0.),
                       nonlinearity=rectify, hid_init=Constant(0.), {RECURRENT.format("")})
        Gate(W_in=Normal(0.1), W_hid=Normal(0.1), W_cell=Normal(0.1), b=Constant(0.), nonlinearity=sigmoid)
        LSTMLayer(incoming, num_units, ingate=Gate(), forgetgate=Gate(), cell=Gate(W_cell=None, nonlinearity=tanh),
                  outgate=Gate(), nonlinearity=tanh, cell_init=Constant(0.), hid_init=Constant(0.),
                  {RECURRENT.format("peepholes=True, ")})
        GRULayer(incoming, num_units, resetgate=Gate(W_cell=None), updategate=Gate(W_cell=None),
                 hidden_update=Gate(W_cell=None, nonlinearity=tanh), hid_init=Constant(0.), {RECURRENT.format("")})

        ReshapeLayer(incoming, shape) reshape(incoming, shape) FlattenLayer(incoming, outdim=2)
        flatten(incoming, outdim=2) DimshuffleLayer(incoming, pattern) dimshuffle(incoming, pattern)
        PadLayer(incoming, width, val=0, batch_ndim=2) pad(incoming, width, val=0, batch_ndim=2)
        SliceLayer(incoming, indices, axis=-1)

        autocrop(inputs, cropping) autocrop_array_shapes(input_shapes, cropping)
        ConcatLayer(incomings, axis=1, cropping=None) concat(incomings, axis=1, cropping=None)
        ElemwiseMergeLayer(incomings, merge_function, cropping=None)
        ElemwiseSumLayer(incomings, coeffs=1, cropping=None)

        LocalResponseNormalization2DLayer(incoming, alpha=1e-4, k=2, beta=0.75, n=5)
        BatchNormLayer(incoming, axes='auto', epsilon=1e-4, alpha=0.1, beta=Constant(0), gamma=Constant(1),
                       mean=Constant(0), inv_std=Constant(1))
        batch_norm(layer) StandardizationLayer(incoming, axes='auto', epsilon=1e-4)
        instance_norm(layer, learn_scale=True, learn_bias=True) layer_norm(layer)

        DropoutLayer(incoming, p=0.5, rescale=True, shared_axes=())
        dropout(incoming, p=0.5, rescale=True, shared_axes=())
        dropout_channels(incoming) spatial_dropout(incoming) dropout_locations(incoming)
        GaussianNoiseLayer(incoming, sigma=0.1)

        NonlinearityLayer(incoming, nonlinearity=rectify) BiasLayer(incoming, b=Constant(0), shared_axes='auto')
        ScaleLayer(incoming, scales=Constant(1), shared_axes='auto')
        standardize(layer, offset, scale, shared_axes='auto') ExpressionLayer(incoming, function, output_shape=None)
        InverseLayer(incoming, layer)
        TransformerLayer(incoming, localization_network, downsample_factor=1, border_mode='nearest')
        TPSTransformerLayer(incoming, localization_network, downsample_factor=1, control_points=16,
                            precompute_grid='auto', border_mode='nearest')
        ParametricRectifierLayer(incoming, alpha=Constant(0.25), shared_axes='auto') prelu(layer)
        RandomizedRectifierLayer(incoming, lower=0.3, upper=0.8, shared_axes='auto') rrelu(layer)
        """,
    "layers.base": "Layer MergeLayer",
    "layers.input": "InputLayer",
    "layers.dense": "DenseLayer NINLayer",
    "layers.embedding": "EmbeddingLayer",
    "layers.conv": f"""
        conv_output_length(input_length, filter_size, stride, pad=0)
        conv_input_length(output_length, filter_size, stride, pad=0)
        BaseConvLayer(incoming, num_filters, filter_size, stride=1, pad=0, untie_biases=False, {DENSE},
                      flip_filters=True, num_groups=1, n=None)
        Conv1DLayer Conv2DLayer Conv3DLayer TransposedConv2DLayer Deconv2DLayer TransposedConv3DLayer Deconv3DLayer
        DilatedConv2DLayer
        """,
    "layers.local": "LocallyConnected2DLayer",
    "layers.pool": """
        pool_output_length(input_length, pool_size, stride, pad, ignore_border)
        Pool1DLayer Pool2DLayer Pool3DLayer MaxPool1DLayer MaxPool2DLayer MaxPool3DLayer Upscale1DLayer Upscale2DLayer
        Upscale3DLayer FeaturePoolLayer FeatureWTALayer GlobalPoolLayer SpatialPyramidPoolingLayer
        """,
    "layers.recurrent": "CustomRecurrentLayer RecurrentLayer Gate LSTMLayer GRULayer",
    "layers.shape": """
        ReshapeLayer reshape FlattenLayer flatten DimshuffleLayer dimshuffle PadLayer pad SliceLayer
        """,
    "layers.merge": """
        autocrop autocrop_array_shapes ConcatLayer concat ElemwiseMergeLayer ElemwiseSumLayer
        """,
    "layers.normalization": """
        LocalResponseNormalization2DLayer BatchNormLayer batch_norm StandardizationLayer instance_norm layer_norm
        """,
    "layers.noise": """
        DropoutLayer dropout dropout_channels spatial_dropout dropout_locations GaussianNoiseLayer
        """,
    "layers.special": """
        NonlinearityLayer BiasLayer ScaleLayer standardize ExpressionLayer InverseLayer TransformerLayer
        TPSTransformerLayer ParametricRectifierLayer prelu RandomizedRectifierLayer rrelu
        """,
    "layers.helper": """
        get_all_layers get_output get_output_shape get_all_params count_params get_all_param_values
        set_all_param_values
        """,
    "layers.dnn": f"""
        Pool2DDNNLayer(incoming, pool_size, stride=None, pad=(0, 0), ignore_border=True, mode='max')
        MaxPool2DDNNLayer(incoming, pool_size, stride=None, pad=(0, 0), ignore_border=True)
        Pool3DDNNLayer(incoming, pool_size, stride=None, pad=(0, 0, 0), ignore_border=True, mode='max')
        MaxPool3DDNNLayer(incoming, pool_size, stride=None, pad=(0, 0, 0), ignore_border=True)
        Conv2DDNNLayer(incoming, num_filters, filter_size, stride=(1, 1), pad=0, untie_biases=False, {DENSE},
                       flip_filters=False, num_groups=1)
        Conv3DDNNLayer(incoming, num_filters, filter_size, stride=(1, 1, 1), pad=0, untie_biases=False, {DENSE},
                       flip_filters=False, num_groups=1)
        SpatialPyramidPoolingDNNLayer(incoming, pool_dims=[4, 2, 1], mode='max')
        BatchNormDNNLayer(incoming, axes='auto', epsilon=1e-4, alpha=0.1, beta=Constant(0), gamma=Constant(1),
                          mean=Constant(0), inv_std=Constant(1))
        batch_norm_dnn(layer)
        """,
    "layers.corrmm": f"""
        Conv2DMMLayer(incoming, num_filters, filter_size, stride=(1, 1), pad=0, untie_biases=False, {DENSE},
                      flip_filters=False)
        """,
    "layers.cuda_convnet": f"""
        Conv2DCCLayer(incoming, num_filters, filter_size, stride=(1, 1), pad=0, untie_biases=False, W=...,
                      b=Constant(0.), nonlinearity=rectify, dimshuffle=True, flip_filters=False, partial_sum=1)
        MaxPool2DCCLayer(incoming, pool_size, stride=None, ignore_border=False, dimshuffle=True)
        ShuffleBC01ToC01BLayer(incoming) bc01_to_c01b(incoming) ShuffleC01BToBC01Layer(incoming)
        c01b_to_bc01(incoming) NINLayer_c01b(incoming, num_units, untie_biases=False, {DENSE})
        """,
}


def parsed(text: str) -> list[tuple[str, ast.arguments | None]]:
    """The names in a piece of the table, with their arguments where they are written down."""
    found: list[tuple[str, ast.arguments | None]] = []
    while text := text.strip():
        name, rest = text, ""
        for i, letter in enumerate(text):
            if letter in "( \n":
                name, rest = text[:i], text[i:]
                break
        if not rest.startswith("("):
            found.append((name, None))
            text = rest
            continue
        depths = [0]
        for letter in rest:
            depths.append(depths[-1] + (letter in "([{") - (letter in ")]}"))
        end = depths.index(0, 1)
        function = ast.parse(f"lambda {' '.join(rest[1 : end - 1].split())}: 0", mode="eval").body
        assert isinstance(function, ast.Lambda)
        found.append((name, function.args))
        text = rest[end:]
    return found


EVERY = {
    f"{module}.{name}".lstrip("."): (module, name, arguments)
    for module, text in NAMES.items()
    for name, arguments in parsed(text)
}


def same(ours: Any, lasagnes: Any) -> bool:
    """Whether two defaults are equal; initialisers and the like are if all that they hold is."""
    if isinstance(lasagnes, tuple) and isinstance(ours, int):
        # One number for all axes.
        return all(ours == one for one in lasagnes)
    if isinstance(lasagnes, list | tuple) and isinstance(ours, list | tuple):
        return list(ours) == list(lasagnes)
    if (
        type(ours) is type(lasagnes)
        and hasattr(ours, "__dict__")
        and not callable(type(ours).__dict__.get("__eq__"))
    ):
        if inspect.isfunction(ours):
            return ours is lasagnes
        mine, theirs = vars(ours), vars(lasagnes)
        return mine.keys() == theirs.keys() and all(same(mine[k], theirs[k]) for k in mine)
    return bool(ours == lasagnes)


def difference(key: str) -> str | None:
    """What keeps a call that is written for Lasagne from meaning the same here, or None."""
    module, name, expected = EVERY[key]
    try:
        home: Any = import_module(f"theanompi.lasagne.{module}".rstrip("."))
        thing = reduce(getattr, name.split("."), home)
    except (ImportError, AttributeError) as error:
        return str(error)
    if expected is None:
        return None
    parameters = list(inspect.signature(thing).parameters.values())
    if "." in name:
        parameters = parameters[1:]
    known = {
        **vars(init),
        **vars(nonlinearities),
        "Gate": getattr(home, "Gate", None),
        "max": pt.max,
        "mean": pt.mean,
    }
    defaults: list[Any] = [inspect.Parameter.empty] * (len(expected.args) - len(expected.defaults))
    defaults += [eval(ast.unparse(default), dict(known)) for default in expected.defaults]  # noqa: S307
    for position, (argument, default) in enumerate(zip(expected.args, defaults, strict=True)):
        if position >= len(parameters):
            return f"no argument {argument.arg}"
        parameter = parameters[position]
        if parameter.name != argument.arg:
            return f"argument {position}: expected {argument.arg}, got {parameter.name}"
        given = parameter.default
        if default is not ... and not same(given, default):
            return f"{argument.arg}: expected {default}, got {given}"
    for extra in parameters[len(expected.args) :]:
        if extra.default is extra.empty and extra.kind not in (extra.VAR_KEYWORD, extra.VAR_POSITIONAL):
            return f"{extra.name}: expected a default, as Lasagne has no such argument, got none"
    if inspect.isclass(thing) and module.startswith("layers") and name != "Gate":
        takes = any(p.name == "name" or p.kind is p.VAR_KEYWORD for p in parameters)
        return None if takes else "no argument name"
    return None


def test_the_table_is_read() -> None:
    assert len(EVERY) > 230
    assert [a.arg for a in EVERY["layers.LSTMLayer"][2].args][-1] == "only_return_final"  # type: ignore[union-attr]


@pytest.mark.parametrize("module", NAMES)
def test_every_name_is_here_with_its_arguments(module: str) -> None:
    keys = [key for key, (home, _, _) in EVERY.items() if home == module]
    found = {key: difference(key) for key in keys}
    assert not {key: what for key, what in found.items() if what is not None}
