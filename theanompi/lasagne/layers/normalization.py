"""Normalisation: of batches, of samples, of neighbouring channels."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytensor.tensor as pt

from theanompi.device import ops
from theanompi.lasagne import init
from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.layers.dense import known_or_symbolic_size
from theanompi.lasagne.layers.special import (
    BiasLayer,
    NonlinearityLayer,
    ScaleLayer,
    broadcast,
    remove_bias,
    shared_axes_tuple,
    take_nonlinearity,
    unshared_shape,
)
from theanompi.lasagne.theano_extensions import padding
from theanompi.lasagne.utils import as_floats

__all__ = [
    "BatchNormLayer",
    "LocalResponseNormalization2DLayer",
    "StandardizationLayer",
    "batch_norm",
    "instance_norm",
    "layer_norm",
]


class BatchNormLayer(Layer):
    """Batch normalisation [1]_: y = (x − mean) · inv_std · gamma + beta.

    With ``deterministic=True``, mean and inv_std are the running averages, otherwise those of the batch.
    In training the running averages follow by themselves: every call of a compiled function moves them by `alpha`
    towards the batch's statistics, beside the updates that the function was given. Who wants to average by other
    means, as a trainer over several ranks, gives :func:`get_output` a dictionary as ``batch_norm_statistics``; then
    the layer changes nothing:

    >>> layer = BatchNormLayer((None, 64, 8, 8), name="bn")
    >>> statistics = {}
    >>> y = layer.get_output_for(pt.ftensor4("x"), batch_norm_statistics=statistics)
    >>> alpha = layer.alpha
    >>> updates = {old: (1 - alpha) * old + alpha * batch for old, batch in statistics.items()}
    >>> list(updates)
    [bn.mean, bn.inv_std]

    Parameters
    ----------
    incoming : Layer or tuple
    axes : 'auto', int or tuple of int
        The axes to normalise over: by default all but the second.
    epsilon : float
        Added to the variance before the root is taken.
    alpha : float or pytensor scalar
        Weight of the batch in the exponential running averages.
    beta, gamma : initialiser, number, array, variable or None
        Shift and scale, one for every element that is not normalised over; None for none. Both are trainable.
    mean, inv_std : initialiser, number, array or variable
        The running averages of the mean and of 1 / √(biased variance + epsilon), of the same shape;
        tagged ``batch_norm_stat``, neither trainable nor regularizable.
    name : str, optional
    decays_gamma : bool
        Whether gamma is regularizable, as Lasagne's is. He et al. and Goyal et al. do not decay it. `beta` is not.

    Raises
    ------
    ValueError
        If a size that is not normalised over is not known.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy (2015): Batch normalization. arXiv:1502.03167, algorithms 1 and 2.

    Examples
    --------
    >>> [param.name for param in layer.get_params(batch_norm_stat=True)]
    ['bn.mean', 'bn.inv_std']
    """

    def __init__(
        self,
        incoming: Incoming,
        axes: str | int | Sequence[int] = "auto",
        epsilon: float = 1e-4,
        alpha: float = 0.1,
        beta: Any = init.Constant(0.0),  # noqa: B008 - holds no state
        gamma: Any = init.Constant(1.0),  # noqa: B008
        mean: Any = init.Constant(0.0),  # noqa: B008
        inv_std: Any = init.Constant(1.0),  # noqa: B008
        name: str | None = None,
        *,
        decays_gamma: bool = False,
    ):
        super().__init__(incoming, name=name)
        self.axes = shared_axes_tuple(self, axes)
        self.epsilon = epsilon
        self.alpha = alpha
        shape = unshared_shape(self, self.axes)
        self.beta = None if beta is None else self.add_param(beta, shape, "beta", regularizable=False)
        self.gamma = (
            None if gamma is None else self.add_param(gamma, shape, "gamma", regularizable=decays_gamma)
        )
        statistic = {"trainable": False, "regularizable": False, "batch_norm_stat": True}
        self.mean = self.add_param(mean, shape, "mean", **statistic)
        self.inv_std = self.add_param(inv_std, shape, "inv_std", **statistic)

    def get_output_for(
        self,
        input: Any,
        deterministic: bool = False,
        batch_norm_use_averages: bool | None = None,
        batch_norm_update_averages: bool | None = None,
        batch_norm_statistics: dict[Any, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Normalise.

        Parameters
        ----------
        input : pytensor variable
        deterministic : bool
            Use the running averages, and leave them as they are.
        batch_norm_use_averages, batch_norm_update_averages : bool, optional
            Override the one or the other.
        batch_norm_statistics : dict, optional
            Filled with the batch's statistics (``self.mean`` → its mean, ``self.inv_std`` → its inv_std) instead of
            updating the averages.

        Returns
        -------
        pytensor variable
        """
        input = pt.cast(input, "float32")
        use_averages = deterministic if batch_norm_use_averages is None else batch_norm_use_averages
        update = not deterministic if batch_norm_update_averages is None else batch_norm_update_averages
        if use_averages and not update:
            return self._normalize(input, self.mean, self.inv_std)
        if not use_averages and self._by_channel(input):
            output, mean, inv_std = ops.batch_norm(input, *self._scale_and_shift(), self.epsilon)
        else:
            mean, inv_std = self._statistics(input)
            used = (self.mean, self.inv_std) if use_averages else (mean, inv_std)
            output = self._normalize(input, *used)
        if update and batch_norm_statistics is not None:
            batch_norm_statistics[self.mean] = mean
            batch_norm_statistics[self.inv_std] = inv_std
        elif update:
            output = self._updating(output, {self.mean: mean, self.inv_std: inv_std})
        return output

    def _updating(self, output: Any, statistics: dict[Any, Any]) -> Any:
        """Let every function that computes `output` move the running averages."""
        for average, statistic in statistics.items():
            # Not the parameter itself, which a function may read without updating it: a second one of the same memory.
            running = average.clone()
            alpha = pt.cast(self.alpha, running.dtype)
            running.default_update = (1 - alpha) * running + alpha * pt.cast(statistic, running.dtype)
            # A function updates what it reads; rewriting then removes these zeros.
            output = output + pt.cast(0 * running.sum(), output.dtype)
        return output

    def _statistics(self, input: Any) -> tuple[Any, Any]:
        epsilon = pt.cast(self.epsilon, input.dtype)
        return input.mean(self.axes), 1 / pt.sqrt(input.var(self.axes) + epsilon)

    def _by_channel(self, input: Any) -> bool:
        """Whether there is an op for it."""
        return input.ndim in (2, 4) and self.axes == (0, *range(2, input.ndim))

    def _scale_and_shift(self) -> tuple[Any, Any]:
        channels = self.mean.type.shape
        return (
            pt.ones(channels, "float32") if self.gamma is None else self.gamma,
            pt.zeros(channels, "float32") if self.beta is None else self.beta,
        )

    def _normalize(self, input: Any, mean: Any, inv_std: Any) -> Any:
        if self._by_channel(input):
            return ops.normalize(input, *self._scale_and_shift(), mean, inv_std)
        scale = inv_std if self.gamma is None else self.gamma * inv_std
        shift = -mean * scale if self.beta is None else self.beta - mean * scale
        return input * broadcast(scale, self.axes, input.ndim) + broadcast(shift, self.axes, input.ndim)


def batch_norm(layer: Layer, **kwargs: Any) -> Layer:
    """Put batch normalisation between a layer's linear part and its nonlinearity.

    The layer given loses its bias, which beta makes redundant, and its nonlinearity, which is applied after
    the normalisation by a layer of its own.

    Parameters
    ----------
    layer : Layer
        It is changed.
    **kwargs
        For :class:`BatchNormLayer`; its name is that of the layer followed by ``_bn`` by default.

    Returns
    -------
    Layer
        A :class:`BatchNormLayer`, or the :class:`NonlinearityLayer` (``…_bn_nonlin``) after it.

    Examples
    --------
    >>> from theanompi.lasagne.layers import DenseLayer, get_all_params
    >>> network = batch_norm(DenseLayer((None, 3), num_units=5, name="fc"))
    >>> network.name, [param.name for param in get_all_params(network, trainable=True)]
    ('fc_bn_nonlin', ['fc.W', 'fc_bn.beta', 'fc_bn.gamma'])
    """
    return _normalized(BatchNormLayer, layer, "_bn", kwargs)


class LocalResponseNormalization2DLayer(Layer):
    """Local response normalisation over neighbouring channels [1]_: y_i = x_i / (k + α · Σ_j x_j²)^β.

    The sum is over the n channels around the i-th, at the same pixel; beyond the first and the last are zeros.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, …).
    alpha, k, beta : float
    n : int
        How many channels; odd.
    name : str, optional

    Raises
    ------
    NotImplementedError
        If `n` is even.
    ValueError
        If the input has no channels.

    References
    ----------
    .. [1] A. Krizhevsky, I. Sutskever and G. Hinton (2012): ImageNet classification with deep convolutional neural
       networks. NIPS, section 3.3. Its α is that of the sum; other libraries divide it by n.

    Examples
    --------
    >>> LocalResponseNormalization2DLayer((None, 96, 27, 27)).output_shape
    (None, 96, 27, 27)
    """

    def __init__(
        self,
        incoming: Incoming,
        alpha: float = 1e-4,
        k: float = 2,
        beta: float = 0.75,
        n: int = 5,
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.alpha, self.k, self.beta, self.n = alpha, k, beta, n
        if n % 2 == 0:
            raise NotImplementedError(f"{self}: expected an odd n, got {n}")
        if len(self.input_shape) < 2:
            raise ValueError(f"{self}: expected an input (n, channels, …), got {self.input_shape}")

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Normalise."""
        input = as_floats(input)
        squares = padding.pad(pt.sqr(input), [self.n // 2], batch_ndim=1)
        channels = known_or_symbolic_size(input, 1)
        total = sum(squares[:, i : i + channels] for i in range(self.n))
        alpha, k, beta = (pt.cast(number, input.dtype) for number in (self.alpha, self.k, self.beta))
        return input / (k + alpha * total) ** beta


class StandardizationLayer(Layer):
    """Give each sample a mean of 0 and a variance of 1 over some axes: (x − mean) / √(variance + epsilon).

    Unlike batch normalisation it has no state, and does the same in training and in validation.

    Parameters
    ----------
    incoming : Layer or tuple
    axes : 'auto', 'spatial', 'features', int or tuple of int
        ``'spatial'`` is all axes after the second, ``'features'`` all after the first; ``'auto'`` is the former, or the
        latter of an input without spatial axes.
    epsilon : float
        Added to the variance before the root is taken.
    name : str, optional

    Raises
    ------
    ValueError
        If there are no such axes.

    Examples
    --------
    >>> StandardizationLayer((None, 64, 8, 8)).axes
    (2, 3)
    """

    def __init__(
        self,
        incoming: Incoming,
        axes: str | int | Sequence[int] = "auto",
        epsilon: float = 1e-4,
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        dimensions = len(self.input_shape)
        first = {"spatial": 2, "features": 1, "auto": min(2, dimensions - 1)}
        if isinstance(axes, str) and axes in first:
            axes = tuple(range(first[axes], dimensions))
        self.axes = shared_axes_tuple(self, axes)
        self.epsilon = epsilon
        if not self.axes:
            raise ValueError(f"{self}: expected an input with axes to normalise over, got {self.input_shape}")

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Normalise."""
        input = as_floats(input)
        centred = input - input.mean(self.axes, keepdims=True)
        variance = pt.sqr(centred).mean(self.axes, keepdims=True)
        return centred / pt.sqrt(variance + pt.cast(self.epsilon, input.dtype))


def instance_norm(layer: Layer, learn_scale: bool = True, learn_bias: bool = True, **kwargs: Any) -> Layer:
    """Put instance normalisation [1]_ between a layer's linear part and its nonlinearity.

    The layer given loses its bias and its nonlinearity, which is applied by a layer of its own at last.

    Parameters
    ----------
    layer : Layer
        It is changed.
    learn_scale, learn_bias : bool
        Follow it by a :class:`ScaleLayer` and a :class:`BiasLayer`, one number for each channel.
    **kwargs
        For :class:`StandardizationLayer`, over the spatial axes; its name is that of the layer followed by ``_in`` by
        default, and the layers after it add ``_scale``, ``_bias`` and ``_nonlin``.

    Returns
    -------
    Layer
        The last of these.

    References
    ----------
    .. [1] D. Ulyanov, A. Vedaldi and V. Lempitsky (2016): Instance normalization: the missing ingredient for fast
       stylization. arXiv:1607.08022.

    Examples
    --------
    >>> from theanompi.lasagne.layers import Conv2DLayer, get_all_params
    >>> network = instance_norm(Conv2DLayer((None, 3, 8, 8), 4, 3, name="conv"))
    >>> network.name, [param.name for param in get_all_params(network)]
    ('conv_in_nonlin', ['conv.W', 'conv_in_scale.scales', 'conv_in_bias.b'])
    """
    wanted = {"scale": learn_scale, "bias": learn_bias}
    followed = {part: kind for part, kind in _SCALE_AND_BIAS.items() if wanted[part]}
    return _normalized(partial(StandardizationLayer, axes="spatial"), layer, "_in", kwargs, followed)


def layer_norm(layer: Layer, **kwargs: Any) -> Layer:
    """Put layer normalisation [1]_ between a layer's linear part and its nonlinearity.

    The layer given loses its bias and its nonlinearity, which is applied by a layer of its own at last.

    Parameters
    ----------
    layer : Layer
        It is changed.
    **kwargs
        For :class:`StandardizationLayer`, over all axes but the first; its name is that of the layer followed by
        ``_ln`` by default, and the scale, the bias and the nonlinearity after it add ``_scale``, ``_bias`` and
        ``_nonlin``.

    Returns
    -------
    Layer
        The last of these.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros and G. Hinton (2016): Layer normalization. arXiv:1607.06450.

    Examples
    --------
    >>> from theanompi.lasagne.layers import DenseLayer, get_all_params
    >>> network = layer_norm(DenseLayer((None, 3), num_units=5, name="fc"))
    >>> network.name, [param.name for param in get_all_params(network)]
    ('fc_ln_nonlin', ['fc.W', 'fc_ln_scale.scales', 'fc_ln_bias.b'])
    """
    return _normalized(partial(StandardizationLayer, axes="features"), layer, "_ln", kwargs, _SCALE_AND_BIAS)


_SCALE_AND_BIAS: dict[str, Callable[..., Layer]] = {"scale": ScaleLayer, "bias": BiasLayer}


def _normalized(
    normalization: Callable[..., Layer],
    layer: Layer,
    suffix: str,
    kwargs: dict[str, Any],
    followed: Mapping[str, Callable[..., Layer]] = {},  # noqa: B006 - is not changed
) -> Layer:
    """Put a normalisation, and the layers that follow it, by the ends of their names, before a layer's nonlinearity."""
    nonlinearity = take_nonlinearity(layer)
    remove_bias(layer)
    if layer.name is not None:
        kwargs.setdefault("name", f"{layer.name}{suffix}")
    top = normalization(layer, **kwargs)
    name, parts = top.name, dict(followed)
    if nonlinearity is not None:
        parts["nonlin"] = partial(NonlinearityLayer, nonlinearity=nonlinearity)
    for part, kind in parts.items():
        top = kind(top, name=None if name is None else f"{name}_{part}")
    return top
