"""A layer against what plain torch makes of the same numbers."""

import numpy as np
import pytensor
import torch

from theanompi import device
from theanompi.lasagne.layers import InputLayer, get_output, get_output_shape


def close(got, expected, what=""):
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5, err_msg=what)


def draw(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


def check(layer, arrays, reference, **kwargs):
    """Compare a layer with `reference(*inputs, **params by name)` in torch: output, its shape, all gradients.

    `arrays` are the inputs, one for each input layer. The layer's first axis is built as unknown.
    """
    inputs = list(layer.input_layers)
    outputs = get_output(layer, **kwargs)
    params = layer.get_params(trainable=True)
    for param in params:  # a zero bias or a unit scale would hide a missing term
        param.set_value(draw(*param.get_value().shape))
    weights = draw(*[3 if size is None else size for size in layer.output_shape])
    symbols = [source.input_var for source in inputs]
    gradients = pytensor.grad((outputs * weights).sum(), symbols + params)
    got = pytensor.function(symbols, [outputs, *gradients], mode=device.mode())(*arrays)

    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    by_name = {param.name: torch.tensor(param.get_value(), requires_grad=True) for param in params}
    expected = reference(*tensors, **by_name)
    (expected * torch.tensor(weights)).sum().backward()

    assert got[0].dtype == np.float32
    assert get_output_shape(layer, {s: a.shape for s, a in zip(inputs, arrays, strict=True)}) == got[0].shape
    close(got[0], expected.detach(), "output")
    leaves = [*tensors, *by_name.values()]
    for variable, gradient, leaf in zip(symbols + params, got[1:], leaves, strict=True):
        close(gradient, leaf.grad, f"gradient of {variable}")


def feed(*shape):
    """An input layer with an unknown number of samples, and an array of 3 for it."""
    return InputLayer((None, *shape)), draw(3, *shape)
