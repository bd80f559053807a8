"""Bulk synchronous parallel: after every step all workers exchange and go on with the same weights."""

from theanompi.launch.session import Rule


class BSP(Rule):
    """Synchronous data-parallel SGD: one exchange among all workers per iteration.

    What travels is the setting ``sync_type``: ``"cdd"`` sums gradients before one update that is the same
    everywhere (Goyal et al. 2017, §2); ``"avg"`` lets every worker update and then averages the weights
    (Theano-MPI, arXiv 1605.08325).

    Examples
    --------
    >>> BSP().init(devices=["cpu"], modelfile="models.resnet50", modelclass="ResNet50", sync_type="sum")
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: sync_type: expected one of cdd, avg, got 'sum'
    """

    name = "BSP"
