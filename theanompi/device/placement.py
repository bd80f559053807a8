"""Which device this process computes on: one process, one device."""

import torch

_current = torch.device("cpu")


def use(name: str) -> torch.device:
    """Make `name` the device on which shared variables are created and functions run from now on.

    Parameters
    ----------
    name : str
        ``"cpu"`` or ``"cuda:N"``.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the name is neither, or names a CUDA device that this machine does not have.

    Examples
    --------
    >>> use("cpu")
    device(type='cpu')
    """
    global _current
    kind, _, index = name.partition(":")
    if kind == "cpu" and not index:
        _current = torch.device("cpu")
    elif kind == "cuda" and index.isdigit():
        count = torch.cuda.device_count()
        if int(index) >= count:
            raise ValueError(f"device {name!r}: expected one of the {count} CUDA devices that torch sees here")
        _current = torch.device(name)
        torch.cuda.set_device(_current)
    else:
        raise ValueError(f"device: expected 'cpu' or 'cuda:N', got {name!r}")
    return _current


def current() -> torch.device:
    """The device chosen by :func:`use`; the CPU if none was.

    Examples
    --------
    >>> current().type
    'cpu'
    """
    return _current
