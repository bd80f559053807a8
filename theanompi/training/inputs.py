"""What a batch is copied into on the device, and how it gets there while the one before is computed."""

from collections.abc import Iterator

import numpy as np
import torch

from theanompi import device
from theanompi.config import Named
from theanompi.data import Batch, Field, Modality

# As what the device holds a field: no arithmetic is defined on the others.
_HELD = {"uint16": "int32", "uint32": "int64", "uint64": "int64", "float16": "float32", "float64": "float32"}


def _tensor(n: int, field: Field, dtype: str) -> torch.Tensor:
    """Zeros for a field of n items, on the host."""
    return torch.from_numpy(np.zeros((n, *field.shape), dtype))


class Inputs:
    """The shared variables that a batch is copied into.

    Parameters
    ----------
    n : int
        Items in a batch.

    Attributes
    ----------
    fields : dict of str to Field
        All that the modality reads and gives.
    variables : dict of str to DeviceSharedVariable (n, …)
        One for each field, of its dtype; but int32 for uint16, int64 for uint32 and uint64, and float32 for float16
        and float64.
    adopted : frozenset of str
        Those that take over what loader processes have read, as it is, where that is no other memory than the
        device's.

    Examples
    --------
    >>> from theanompi.config import RunConfig, resolve
    >>> from theanompi.data import Pictures, open_dataset
    >>> inputs = Inputs(Pictures(open_dataset("digits"), resolve(RunConfig())), 2)
    >>> inputs.variables["images"].type, sorted(inputs.adopted)
    (TensorType(uint8, shape=(2, 32, 32, 1)), ['images'])
    """

    def __init__(self, modality: Modality, n: int) -> None:
        self.n, self.fields = n, {**modality.read, **modality.given}
        self.variables = Named(
            "a batch as it is read",
            {
                name: device.shared(_tensor(n, field, _HELD.get(field.dtype, field.dtype)), name)
                for name, field in self.fields.items()
            },
        )
        self.adopted = frozenset(name for name, field in modality.read.items() if field.dtype not in _HELD)


class Feed:
    """Puts the batches of a stream into `Inputs`, one after another.

    On the CPU what loader processes have read is used where they have put it. On a CUDA device the next batch travels
    on a stream of its own, into a second set of tensors, while the current one is computed; from there it is a copy
    within the device.

    Parameters
    ----------
    batches : iterator of :class:`theanompi.data.Batch`
        A batch is not touched any more once the next one is asked for.
    """

    def __init__(self, inputs: Inputs, batches: Iterator[Batch]) -> None:
        self._inputs, self._batches = inputs, batches
        self._staged = False
        self._cuda = device.current().type == "cuda"
        if self._cuda:
            self._copies = torch.cuda.Stream()
            self._arrived, self._taken = torch.cuda.Event(), torch.cuda.Event()
            # As the fields are in the file: fewer bytes travel, and pinned ones without the host's help.
            self._stages = {
                name: _tensor(inputs.n, field, field.dtype).to(device.current())
                for name, field in inputs.fields.items()
            }
            # The allocator made them on the current stream, and must not give them away, when this feed is gone,
            # before the last copy into them is over.
            self._copies.wait_stream(torch.cuda.current_stream())
            for stage in self._stages.values():
                stage.record_stream(self._copies)

    def load(self) -> None:
        """Fill the inputs with the next batch; waits for the loader, not for the device.

        Raises
        ------
        StopIteration
            After the last batch.
        """
        variables = self._inputs.variables
        if not self._cuda:
            batch = next(self._batches)
            for name, variable in variables.items():
                source = torch.from_numpy(batch.fields[name])
                if name in self._inputs.adopted:
                    variable.adopt(source)
                else:
                    variable.tensor.copy_(source)
            return
        if not self._staged and not self.stage():
            raise StopIteration
        compute = torch.cuda.current_stream()
        compute.wait_event(self._arrived)
        for name, variable in variables.items():
            variable.tensor.copy_(self._stages[name])
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
            for name, stage in self._stages.items():
                stage.copy_(torch.from_numpy(batch.fields[name]), non_blocking=True)
            self._arrived.record(self._copies)
        self._staged = True
        return True
