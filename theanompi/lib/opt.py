"""How models of Theano-MPI compile their functions: gradient descent in the update of one of them."""

from typing import Any

import pytensor

from theanompi import device

__all__ = ["pre_model_iter_fn"]


def pre_model_iter_fn(model: Any, sync_type: str, f_train: bool = True, f_val: bool = True) -> None:
    """Have a model compile its functions of training and validation, ``train_iter_fn`` and ``val_iter_fn``.

    Parameters
    ----------
    model : object
        Its ``compile_train`` is called with the arguments of a function of ``subb_ind`` that gives ``cost`` and
        ``error`` and updates ``params`` along ``grads``, and leaves it in ``compiled_train_fn_list``; its
        ``compile_val`` leaves ``val_fn``. The rate is ``lr``, for which ``shared_lr`` is put, ``mu`` the momentum,
        if ``use_momentum``, and ``eta`` the decay of the parameters whose ``weight_types`` are 'W'; those of 'b'
        learn twice as fast.
    sync_type : str
        'avg' or 'swap'.
    f_train, f_val : bool
        Which of the two.

    Raises
    ------
    ValueError
        For 'cdd', which needs a `theanompi.Model`, or weight types that do not fit the parameters.
    """
    if f_train:
        if sync_type not in ("avg", "swap"):
            raise ValueError(
                f"pre_model_iter_fn: expected sync_type 'avg' or 'swap', got {sync_type!r}; "
                "gradients are summed for a theanompi.Model"
            )
        givens = [
            (model.x, model.shared_x_slice),
            (model.y, model.shared_y_slice),
            (model.lr, model.shared_lr),
        ]
        model.compile_train(
            {
                "inputs": [model.subb_ind],
                "outputs": [model.cost, model.error],
                "updates": _updates(model),
                "givens": givens,
            }
        )
        (model.train_fn,) = model.compiled_train_fn_list
        model.train_iter_fn = model.train_fn
    if f_val:
        model.compile_val()
        model.val_iter_fn = model.val_fn


def _updates(model: Any) -> list[tuple[Any, Any]]:
    params, kinds = model.params, model.weight_types
    if len(kinds) != len(params) or not set(kinds) <= {"W", "b"}:
        raise ValueError(
            f"pre_model_iter_fn: expected weight_types 'W' or 'b' for {len(params)} parameters, got {kinds!r:.100}"
        )
    model.vels = [_zeros_like(param) for param in params]
    updates = []
    for param, grad, velocity, kind in zip(params, model.grads, model.vels, kinds, strict=True):
        rate = model.lr if kind == "W" else 2 * model.lr
        step = rate * (grad + model.eta * param if kind == "W" else grad)
        if not model.use_momentum:
            updates.append((param, param - step))
            continue
        if model.use_nesterov_momentum:
            following = model.mu**2 * velocity - (1 + model.mu) * step
        else:
            following = model.mu * velocity - step
        updates += [(velocity, following), (param, param + following)]
    return [(v, v.type.filter_variable(new.astype(v.dtype))) for v, new in updates]


def _zeros_like(param: Any) -> Any:
    make = device.shared if isinstance(param, device.DeviceSharedVariable) else pytensor.shared
    return make(0 * param.get_value())
