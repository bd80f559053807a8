"""Which device this process computes on: one process, one device."""

import torch

_current = torch.device("cpu")


def parse(name: str) -> torch.device:
    """The device called `name`, if this machine has it.

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
    >>> parse("cpu")
    device(type='cpu')
    """
    kind, _, index = name.partition(":")
    if name == "cpu":
        return torch.device(name)
    if kind == "cuda" and index.isdigit():
        count = torch.cuda.device_count()
        if int(index) >= count:
            raise ValueError(
                f"device {name!r}: expected one of the {count} CUDA devices that torch sees here"
            )
        return torch.device(name)
    raise ValueError(f"device: expected 'cpu' or 'cuda:N', got {name!r}")


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
        As :func:`parse`.

    Examples
    --------
    >>> use("cpu")
    device(type='cpu')
    """
    global _current
    _current = parse(name)
    if _current.type == "cuda":
        torch.cuda.set_device(_current)
    return _current


def current() -> torch.device:
    """The device chosen by :func:`use`; the CPU if none was.

    Examples
    --------
    >>> current().type
    'cpu'
    """
    return _current
