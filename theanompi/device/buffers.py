"""Many tensors in one flat buffer, so that the exchange and the update are each one operation."""

from collections.abc import Mapping, Sequence

import torch

from theanompi.device.placement import current


class FlatBuffer:
    """A contiguous float32 vector on the current device, and named views that together fill it.

    Parameters
    ----------
    shapes : mapping of str to sequence of int
        Name → shape, in the order in which they lie in the buffer. Four-dimensional views have the
        channels-last layout.

    Attributes
    ----------
    flat : torch.Tensor, shape (P,), float32
    views : dict of str to torch.Tensor
        Views into `flat`.
    offsets : dict of str to (int, int)
        Where each view starts and ends in `flat`.

    Examples
    --------
    >>> buffer = FlatBuffer({"W": (2, 3), "b": (3,)})
    >>> buffer.flat.shape
    torch.Size([9])
    >>> buffer.views["b"].fill_(1.0).sum() == buffer.flat.sum()
    tensor(True)
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
        total = sum(sizes.values())
        self.flat = torch.zeros(total, dtype=torch.float32, device=current())
        self.views: dict[str, torch.Tensor] = {}
        self.offsets: dict[str, tuple[int, int]] = {}
        start = 0
        for name, shape in shapes.items():
            end = start + sizes[name]
            piece = self.flat[start:end]
            if len(shape) == 4:
                out, channels, height, width = shape
                view = piece.view(out, height, width, channels).permute(0, 3, 1, 2)
            else:
                view = piece.view(torch.Size(shape))
            self.views[name] = view
            self.offsets[name] = (start, end)
            start = end

    def move(self, flat: torch.Tensor) -> None:
        """Go on in the memory of `flat`, with the values that the buffer has.

        `flat`, the views and the shared variables made of them follow; other slices of the old vector do not.

        Parameters
        ----------
        flat : torch.Tensor, shape (P,), float32
            Contiguous, on the same device.

        Raises
        ------
        ValueError
            For another shape, dtype or device.

        Examples
        --------
        >>> buffer, memory = FlatBuffer({"b": (3,)}), torch.zeros(3)
        >>> b = buffer.views["b"].fill_(1.0)
        >>> buffer.move(memory)
        >>> _ = b.add_(1.0)
        >>> memory
        tensor([2., 2., 2.])
        """
        old = self.flat
        if (flat.shape, flat.dtype, flat.device) != (old.shape, old.dtype, old.device):
            raise ValueError(
                f"flat buffer: expected memory of shape {tuple(old.shape)} and dtype {old.dtype} on {old.device}, "
                f"got {tuple(flat.shape)} and {flat.dtype} on {flat.device}"
            )
        flat.copy_(old)
        for view in (*self.views.values(), old):
            offset = flat.storage_offset() + view.storage_offset() - old.storage_offset()
            view.set_(flat.untyped_storage(), offset, view.shape, view.stride())
