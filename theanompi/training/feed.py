"""What a batch is copied into on the device, and how it gets there while the one before is computed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from theanompi import device


class Inputs:
    """The shared variables that a batch is copied into.

    Parameters
    ----------
    n : int
        Images in a batch.
    shape : (int, int, int)
        Height, width and channels of the canvas that holds each image.

    Attributes
    ----------
    images : uint8 (n, channels, height, width)
    labels : int64 (n,)
    boxes : float32 (n, 7)
        What part of each canvas is used, as in :func:`theanompi.device.ops.crop_resize`.
    keys : int64 (n,)
        For dropout.
    colors : float32 (n, 3, 7)
        As in :func:`theanompi.device.ops.color_adjust`.
    weights : float32 (n,)
        1, or 0 for the padding of a validation batch.

    Examples
    --------
    >>> Inputs(2, (8, 8, 3)).images.type
    TensorType(uint8, shape=(2, 3, 8, 8))
    """

    def __init__(self, n: int, shape: tuple[int, int, int]) -> None:
        # NHWC in memory, as in the file and as convolutions like it; NCHW by name.
        self.images = device.shared(torch.zeros((n, *shape), dtype=torch.uint8).permute(0, 3, 1, 2), "images")
        self.labels = device.shared(np.zeros(n, "int64"), "labels")
        self.boxes = device.shared(np.zeros((n, 7), "float32"), "boxes")
        self.keys = device.shared(np.zeros(n, "int64"), "keys")
        self.colors = device.shared(np.zeros((n, 3, 7), "float32"), "colors")
        self.weights = device.shared(np.ones(n, "float32"), "weights")

    def tensors(self) -> list[torch.Tensor]:
        """The storages in the order of the fields of a batch, the images NHWC.

        Examples
        --------
        >>> [tuple(tensor.shape) for tensor in Inputs(2, (8, 8, 3)).tensors()][:2]
        [(2, 8, 8, 3), (2,)]
        """
        rest = (self.labels, self.boxes, self.keys, self.colors, self.weights)
        return [self.images.tensor.permute(0, 2, 3, 1), *(variable.tensor for variable in rest)]


class Feed:
    """Puts the batches of a stream into `Inputs`, one after another.

    On the CPU the images are used where the loader has put them. On a CUDA device the next batch travels on a
    stream of its own, into a second set of tensors, while the current one is computed; from there it is a copy
    within the device.

    Parameters
    ----------
    inputs : Inputs
    batches : iterator of :class:`theanompi.data.Batch`
        A batch is not touched any more once the next one is asked for.

    Examples
    --------
    >>> from theanompi.data import Loader, open_dataset
    >>> inputs = Inputs(4, (32, 32, 1))
    >>> with open_dataset("digits") as data, Loader(data, batch_size=4, image_size=32) as loader:
    ...     feed = Feed(inputs, loader.validation(size=1, rank=0))
    ...     feed.load()
    ...     (inputs.labels.get_value() == data.labels("val")[:4]).all()
    np.True_
    """

    def __init__(self, inputs: Inputs, batches: Iterator[Any]) -> None:
        self._inputs, self._batches = inputs, batches
        self._targets = inputs.tensors()
        self._staged = False
        self._cuda = self._targets[0].is_cuda
        if self._cuda:
            self._copies = torch.cuda.Stream()
            self._arrived, self._taken = torch.cuda.Event(), torch.cuda.Event()
            self._stages = [torch.empty_like(target) for target in self._targets]
            # The allocator made them on the current stream, and must not give them away, when this feed is gone,
            # before the last copy into them is over.
            self._copies.wait_stream(torch.cuda.current_stream())
            for stage in self._stages:
                stage.record_stream(self._copies)

    def load(self) -> None:
        """Fill the inputs with the next batch; waits for the loader, not for the device.

        Raises
        ------
        StopIteration
            After the last batch.
        """
        if not self._cuda:
            images, *rest = _sources(next(self._batches))
            self._inputs.images.adopt(images.permute(0, 3, 1, 2))
            for target, source in zip(self._targets[1:], rest, strict=True):
                target.copy_(source)
            return
        if not self._staged and not self.stage():
            raise StopIteration
        compute = torch.cuda.current_stream()
        compute.wait_event(self._arrived)
        for target, stage in zip(self._targets, self._stages, strict=True):
            target.copy_(stage)
        self._taken.record(compute)
        self._staged = False

    def stage(self) -> bool:
        """Start the next batch's copy to the device, if there is one; nothing to do on the CPU.

        Returns
        -------
        bool
            Whether a batch is on its way.
        """
        if not self._cuda or self._staged:
            return self._staged
        # Asking for the next batch gives up the memory of the last one: its copy must be over.
        self._arrived.synchronize()
        batch = next(self._batches, None)
        if batch is None:
            return False
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(self._taken)
            for stage, source in zip(self._stages, _sources(batch), strict=True):
                stage.copy_(source, non_blocking=True)
            self._arrived.record(self._copies)
        self._staged = True
        return True


def _sources(batch: Any) -> list[torch.Tensor]:
    fields = (batch.images, batch.labels, batch.boxes, batch.keys, batch.colors, batch.weights)
    return [torch.from_numpy(field) for field in fields]
