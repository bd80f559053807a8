"""PyTensor shared variables whose storage is a torch tensor on the device."""

from typing import Any

import numpy as np
import torch
from pytensor.graph.basic import Variable
from pytensor.link.basic import Container
from pytensor.tensor.sharedvar import TensorSharedVariable
from pytensor.tensor.type import TensorType

from theanompi.device.ops.base import shared_memory
from theanompi.device.placement import current


class _DeviceContainer(Container):
    """Holds a tensor that is written in place, so that views of it (flat buffers) stay true."""

    def __get__(self) -> np.ndarray:
        return self.storage[0].cpu().numpy()

    def __set__(self, value: Any) -> None:
        tensor = self.storage[0]
        value = value if isinstance(value, torch.Tensor) else shared_memory(value)
        if tuple(value.shape) != tuple(tensor.shape):
            raise ValueError(
                f"shared variable {self.name!r}: expected shape {tuple(tensor.shape)}, got {tuple(value.shape)}"
            )
        if not torch.can_cast(value.dtype, tensor.dtype):
            raise ValueError(
                f"shared variable {self.name!r}: expected values that {tensor.dtype} can hold, got {value.dtype}"
            )
        tensor.copy_(value)

    data = property(__get__, __set__)
    value = property(__get__, __set__)


class DeviceSharedVariable(TensorSharedVariable):
    """A shared variable that lives on the device between and during calls.

    ``get_value`` and ``set_value`` give and take NumPy arrays, as for any PyTensor shared variable;
    `tensor` is the storage itself. Compiled functions read it and write updates into it in place.
    Variables may be views of one flat buffer, but one function must not update a variable that overlaps
    another one it uses: the compiler takes them for different memory.

    Examples
    --------
    >>> w = shared(np.array([1, 2], "float32"), name="w")
    >>> home = torch.zeros(3)
    >>> w.rebind(home[1:])
    >>> w.set_value(w.get_value() + 1)
    >>> home
    tensor([0., 2., 3.])
    """

    def __init__(
        self, type: TensorType, value: Any, strict: Any, container: Container, name: str | None = None
    ):
        super().__init__(type=type, value=value, strict=strict, container=container, name=name)

    @property
    def tensor(self) -> torch.Tensor:
        """torch.Tensor : the storage, on the device."""
        return self.container.storage[0]

    def rebind(self, tensor: torch.Tensor) -> None:
        """Move the value into `tensor` and use that as the storage from now on.

        Parameters
        ----------
        tensor : torch.Tensor
            Of the same shape and dtype, any strides: a view of a flat buffer, say. Functions
            compiled before follow.

        Raises
        ------
        ValueError
            For another shape, dtype or device.
        """
        self._check(tensor)
        tensor.copy_(self.tensor)
        self.container.storage[0] = tensor

    def adopt(self, tensor: torch.Tensor) -> None:
        """Use `tensor`, with the values that it has, as the storage from now on.

        Parameters
        ----------
        tensor : torch.Tensor
            On the same device, of the same shape and dtype, any strides. Functions compiled before follow.

        Raises
        ------
        ValueError
            For another shape, dtype or device.
        """
        self._check(tensor)
        self.container.storage[0] = tensor

    def _check(self, tensor: torch.Tensor) -> None:
        mine = self.tensor
        if (tensor.shape, tensor.dtype, tensor.device) != (mine.shape, mine.dtype, mine.device):
            raise ValueError(
                f"shared variable {self.name!r}: expected a tensor of shape {tuple(mine.shape)} and dtype "
                f"{mine.dtype} on {mine.device}, got {tuple(tensor.shape)} and {tensor.dtype} on {tensor.device}"
            )

    def get_value(self, borrow: bool = False, return_internal_type: bool = False) -> Any:
        """The value as a NumPy array, or as the device tensor.

        Parameters
        ----------
        borrow : bool
            Allow a result that shares memory with the storage (only possible on the CPU).
        return_internal_type : bool
            Give the device tensor instead (a clone unless `borrow`).
        """
        if return_internal_type:
            return self.tensor if borrow else self.tensor.clone()
        value = self.container.value
        return value if borrow else np.array(value, order="C")

    def set_value(self, new_value: Any, borrow: bool = False) -> None:
        """Copy `new_value` into the storage.

        Parameters
        ----------
        new_value : array_like or torch.Tensor
            Of the same shape, and of the same or a lesser kind of dtype: integers go into floats, but
            not floats into integers.
        borrow : bool
            Without effect: the storage stays the same.

        Raises
        ------
        ValueError
            For any other shape or dtype.
        """
        self.container.value = new_value

    @property
    def default_update(self) -> Variable | None:
        """What every function that reads the variable updates it to, unless that function is given an update of it.

        As in Theano. PyTensor warns where one is set, as its own random streams have other means by now.
        """
        return self._default_update

    @default_update.setter
    def default_update(self, value: Variable | None) -> None:
        self._default_update = None if value is None else self.type.filter_variable(value, allow_convert=True)

    def zero(self, borrow: bool = False) -> None:
        """Fill the storage with zeros; `borrow` has no effect."""
        self.tensor.zero_()


def shared(value: Any, name: str | None = None) -> DeviceSharedVariable:
    """Create a shared variable on the current device.

    Parameters
    ----------
    value : array_like or torch.Tensor
        Its initial value. An array is copied; a tensor that lies on the current device becomes the
        storage itself. Four-dimensional arrays of floats get the channels-last layout.
    name : str, optional

    Returns
    -------
    DeviceSharedVariable
        With the dtype and the static shape of `value`.

    Examples
    --------
    >>> import numpy as np
    >>> w = shared(np.zeros((2, 3), "float32"), name="w")
    >>> w.type
    TensorType(float32, shape=(2, 3))
    >>> w.set_value(np.ones((2, 3)))
    >>> float(w.get_value().sum())
    6.0
    """
    if isinstance(value, torch.Tensor):
        tensor = value.to(current())
    else:
        tensor = shared_memory(np.array(value)).to(current())
        if tensor.ndim == 4 and tensor.is_floating_point():
            tensor = tensor.contiguous(memory_format=torch.channels_last)
    dtype = str(tensor.dtype).removeprefix("torch.")
    variable_type = TensorType(dtype, shape=tuple(tensor.shape))
    container = _DeviceContainer(variable_type, storage=[tensor], name=name)
    return DeviceSharedVariable(type=variable_type, value=None, strict=None, container=container, name=name)
