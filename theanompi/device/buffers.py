"""Many tensors in one flat buffer, so that the exchange and the update are each one operation."""

import math
from collections.abc import Mapping, Sequence

import torch

from theanompi.device.placement import current

BUCKET = 4 << 20
"""Bytes that are summed together at least. The smaller, the sooner the first sum starts and the less is left after the
last value; but each bucket costs the ranks one more round of waiting for each other."""


def adjacent(shapes: Sequence[Sequence[int]], least: int) -> list[range]:
    """Divide tensors that lie behind each other into buckets of at least so many elements.

    Those of two dimensions or more are in other buckets than those of fewer; the last one of each kind may be smaller.

    Examples
    --------
    >>> adjacent([(2, 3), (4, 4), (5, 5), (9,)], 10)
    [range(0, 2), range(2, 3), range(3, 4)]
    """
    starts, elements = list[int](), 0
    for k, shape in enumerate(shapes):
        other = k > 0 and (len(shape) >= 2) != (len(shapes[k - 1]) >= 2)
        if k == 0 or other or elements >= least:
            starts.append(k)
            elements = 0
        elements += math.prod(shape)
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(shapes)], strict=True)]


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
