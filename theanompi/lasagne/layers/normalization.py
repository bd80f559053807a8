"""Batch normalisation."""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt

from theanompi.device import ops
from theanompi.lasagne import init, nonlinearities
from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.layers.special import NonlinearityLayer, broadcast, shared_axes_tuple, unshared_shape

__all__ = ["BatchNormLayer", "batch_norm"]


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
        use_averages = deterministic if batch_norm_use_averages is None else batch_norm_use_averages
        update = not deterministic if batch_norm_update_averages is None else batch_norm_update_averages
        gamma, beta = self.gamma, self.beta
        if not use_averages and input.ndim in (2, 4) and self.axes == (0, *range(2, input.ndim)):
            channels = self.mean.type.shape
            gamma = pt.ones(channels, "float32") if gamma is None else gamma
            beta = pt.zeros(channels, "float32") if beta is None else beta
            output, mean, inv_std = ops.batch_norm(input, gamma, beta, self.epsilon)
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

    def _normalize(self, input: Any, mean: Any, inv_std: Any) -> Any:
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
    nonlinearity = getattr(layer, "nonlinearity", None)
    if nonlinearity is not None:
        layer.nonlinearity = nonlinearities.identity  # type: ignore[attr-defined]
    bias = getattr(layer, "b", None)
    if bias is not None:
        del layer.params[bias]
        layer.b = None  # type: ignore[attr-defined]
    if layer.name is not None:
        kwargs.setdefault("name", f"{layer.name}_bn")
    normalized = BatchNormLayer(layer, **kwargs)
    if nonlinearity is None:
        return normalized
    return NonlinearityLayer(
        normalized, nonlinearity, name=None if normalized.name is None else f"{normalized.name}_nonlin"
    )
