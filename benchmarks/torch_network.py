"""The networks of our layers in plain torch: the same layers in the same order, with copies of the weights."""

from typing import Any

import torch
from torch import Tensor, nn

from theanompi.lasagne import layers as ours
from theanompi.lasagne import nonlinearities
from theanompi.models.lstm import MaskedMeanLayer


class Network(nn.Module):
    """What torch makes of a network, by its own layers.

    Parameters
    ----------
    *outputs : Layer
        What `forward` gives; of a softmax its scores.

    Attributes
    ----------
    inputs : list of str
        Names of the input layers: the arguments of `forward`, in their order.

    Raises
    ------
    TypeError
        For a layer that has no counterpart here.
    """

    def __init__(self, *outputs: ours.Layer) -> None:
        super().__init__()
        layers = ours.get_all_layers(list(outputs))
        place = {layer: i for i, layer in enumerate(layers)}
        incoming = [[place[one] for one in getattr(layer, "input_layers", ())] for layer in layers]
        read = [sum(i in some for some in incoming) for i in range(len(layers))]
        self.inputs = [str(layer.name) for layer in layers if isinstance(layer, ours.InputLayer)]
        self._outputs = [place[output] for output in outputs]
        self._incoming = incoming
        self.steps = nn.ModuleList()
        for layer, before in zip(layers, incoming, strict=True):
            alone = all(read[i] == 1 for i in before)
            self.steps.append(nn.Identity() if isinstance(layer, ours.InputLayer) else module(layer, alone))

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """Compute the outputs."""
        given = iter(inputs)
        values: list[Tensor] = []
        for step, incoming in zip(self.steps, self._incoming, strict=True):
            values.append(step(*(values[i] for i in incoming)) if incoming else next(given))
        return [values[i] for i in self._outputs]


class _Concatenate(nn.Module):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *values: Tensor) -> Tensor:
        return torch.cat(values, self.axis)


class _Add(nn.Module):
    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = first + other
        return first


class _GlobalMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class _Reshape(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.shape)


class _States(nn.Module):
    """The states of an LSTM; where a mask ends a sequence, those after it are of no account."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        states: Tensor = self.lstm(x)[0]
        return states


class _MaskedMean(nn.Module):
    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return torch.einsum("nsu,ns->nu", states, mask) / mask.sum(1, keepdim=True)


def module(layer: Any, alone: bool) -> nn.Module:
    """The counterpart of a layer.

    Parameters
    ----------
    layer : Layer
    alone : bool
        Whether nothing else reads what it reads, which it may then overwrite.
    """
    make = _MAKERS.get(type(layer))
    if make is None:
        raise TypeError(f"{layer}: expected a layer of the zoo, got a {type(layer).__name__}")
    if isinstance(layer, ours.NonlinearityLayer):
        return activation(layer.nonlinearity, alone)
    made = make(layer)
    own = getattr(layer, "nonlinearity", None)
    if isinstance(layer, ours.LSTMLayer) or own is None:
        return made
    active = activation(own, True)
    return made if isinstance(active, nn.Identity) else nn.Sequential(made, active)


def activation(function: Any, inplace: bool) -> nn.Module:
    """The counterpart of a nonlinearity; of softmax, which only losses need, nothing."""
    if isinstance(function, nonlinearities.LeakyRectify):
        return nn.LeakyReLU(function.leakiness, inplace)
    if function is nonlinearities.rectify:
        return nn.ReLU(inplace)
    made: nn.Module = {
        nonlinearities.tanh: nn.Tanh(),
        nonlinearities.sigmoid: nn.Sigmoid(),
        nonlinearities.softmax: nn.Identity(),
        nonlinearities.identity: nn.Identity(),
        None: nn.Identity(),
    }[function]
    return made


def _fill(parameter: Any, variable: Any, change: Any = lambda x: x) -> None:
    with torch.no_grad():
        parameter.copy_(change(torch.from_numpy(variable.get_value(borrow=False))))


def _padding(layer: Any) -> Any:
    sizes = layer.filter_size
    if isinstance(layer.pad, str):
        return tuple({"same": size // 2, "full": size - 1, "valid": 0}[layer.pad] for size in sizes)
    return tuple(layer.pad)


def _convolution(layer: Any) -> nn.Module:
    made = nn.Conv2d(
        *(layer.input_shape[1], layer.num_filters, layer.filter_size, layer.stride, _padding(layer)),
        groups=layer.num_groups,
        bias=layer.b is not None,
    )
    _fill(made.weight, layer.W, lambda w: w.flip(2, 3) if layer.flip_filters else w)
    if layer.b is not None:
        _fill(made.bias, layer.b)
    return made


def _transposed(layer: Any) -> nn.Module:
    pad = _padding(layer)
    sides = zip(
        layer.input_shape[2:], layer.stride, layer.filter_size, pad, layer.output_shape[2:], strict=True
    )
    more: Any = tuple(out - ((n - 1) * stride + size - 2 * p) for n, stride, size, p, out in sides)
    made = nn.ConvTranspose2d(
        *(layer.input_shape[1], layer.num_filters, layer.filter_size, layer.stride, pad, more),
        bias=layer.b is not None,
    )
    # Ours does not turn the filters over; the transpose of a cross-correlation does.
    _fill(made.weight, layer.W, lambda w: w if layer.flip_filters else w.flip(2, 3))
    if layer.b is not None:
        _fill(made.bias, layer.b)
    return made


def _dense(layer: Any) -> nn.Module:
    inputs, units = layer.W.type.shape
    made = nn.Linear(inputs, units, bias=layer.b is not None)
    _fill(made.weight, layer.W, torch.t)
    if layer.b is not None:
        _fill(made.bias, layer.b)
    flat = len(layer.input_shape) > layer.num_leading_axes + 1
    return nn.Sequential(nn.Flatten(layer.num_leading_axes), made) if flat else made


def _batch_norm(layer: Any) -> nn.Module:
    kind = nn.BatchNorm1d if len(layer.input_shape) == 2 else nn.BatchNorm2d
    made = kind(layer.input_shape[1], layer.epsilon, layer.alpha)
    _fill(made.weight, layer.gamma)
    _fill(made.bias, layer.beta)
    _fill(made.running_mean, layer.mean)
    _fill(made.running_var, layer.inv_std, lambda inv_std: inv_std**-2 - layer.epsilon)
    return made


def _pool(layer: Any) -> nn.Module:
    window, ceil = layer.pool_size, not layer.ignore_border
    if ceil:
        # A window larger than the picture pools all of it.
        window = tuple(min(pair) for pair in zip(window, layer.input_shape[2:], strict=True))
    if layer.mode == "max":
        return nn.MaxPool2d(window, layer.stride, layer.pad, ceil_mode=ceil)
    counted = layer.mode == "average_inc_pad"
    return nn.AvgPool2d(window, layer.stride, layer.pad, ceil_mode=ceil, count_include_pad=counted)


def _local_response(layer: Any) -> nn.Module:
    return nn.LocalResponseNorm(layer.n, layer.alpha * layer.n, layer.beta, layer.k)


def _embedding(layer: Any) -> nn.Module:
    made = nn.Embedding(*layer.W.type.shape)
    _fill(made.weight, layer.W)
    return made


def _lstm(layer: Any) -> nn.Module:
    made: Any = nn.LSTM(layer.input_shapes[0][2], layer.num_units, batch_first=True)
    gates = ("ingate", "forgetgate", "cell", "outgate")
    for parameter, start in (
        (made.weight_ih_l0, "W_in_to"),
        (made.weight_hh_l0, "W_hid_to"),
        (made.bias_ih_l0, "b"),
    ):
        for rows, gate in zip(parameter.chunk(4), gates, strict=True):
            _fill(rows, getattr(layer, f"{start}_{gate}"), torch.t if rows.ndim == 2 else lambda b: b)
    # torch adds two biases; one of them stays 0.
    made.bias_hh_l0.requires_grad_(False)
    nn.init.zeros_(made.bias_hh_l0)
    return _States(made)


_MAKERS: dict[type, Any] = {
    ours.Conv2DLayer: _convolution,
    ours.TransposedConv2DLayer: _transposed,
    ours.DenseLayer: _dense,
    ours.BatchNormLayer: _batch_norm,
    ours.Pool2DLayer: _pool,
    ours.MaxPool2DLayer: _pool,
    ours.GlobalPoolLayer: lambda layer: _GlobalMean(),
    ours.LocalResponseNormalization2DLayer: _local_response,
    ours.NonlinearityLayer: lambda layer: None,
    ours.DropoutLayer: lambda layer: nn.Dropout(layer.p),
    ours.ConcatLayer: lambda layer: _Concatenate(layer.axis),
    ours.ElemwiseSumLayer: lambda layer: _Add(),
    ours.ReshapeLayer: lambda layer: _Reshape(layer.output_shape[1:]),
    ours.EmbeddingLayer: _embedding,
    ours.LSTMLayer: _lstm,
    MaskedMeanLayer: lambda layer: _MaskedMean(),
}
