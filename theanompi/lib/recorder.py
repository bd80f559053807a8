"""Theano-MPI's recorder, for loops of the user's own: a model is trained with it and without a rule.

::

    model = ResNetCifar({"verbose": True, "rank": 0, "size": 1})
    recorder = Recorder(comm=None, printFreq=10, modelname="ResNetCifar", verbose=True)
    model.compile_iter_fns()
    for model.epoch in range(model.n_epochs):
        recorder.start_epoch()
        for count in range(model.data.n_batch_train):
            model.train_iter(count, recorder)  # with its update
            recorder.print_train_info(count + 1)
        for _ in range(model.data.n_batch_val):
            model.val_iter(count, recorder)
        recorder.print_val_info(count)
        recorder.end_epoch(count, model.epoch)
    model.cleanup()
"""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

PHASES = ("calc", "comm", "wait")


class Recorder:
    """Keeps what a model reports of each batch, and prints means.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm or None
        All ranks, for `gather_val_info`.
    printFreq : float
        Batches between two lines of `print_train_info`.
    modelname : str
    verbose : bool
        Whether anything is printed.

    Attributes
    ----------
    info_dict : dict of str to list
        What `save` writes: ``train_info`` (count, cost, error), ``val_info`` (count, cost, error, error_top5),
        ``epoch_time`` (count, seconds), ``all_time`` (count, seconds in all, and of each of `PHASES`) and ``lr``
        (count, learning rate).
    folder : str
        Where `plot` draws: the current one.

    Examples
    --------
    >>> recorder = Recorder(None, printFreq=2, modelname="net", verbose=True)
    >>> for count in (1, 2):
    ...     recorder.train_error(count, 4.0 / count, 0.5)
    ...     recorder.print_train_info(count)
    2 3.000000 0.500000
    time per 2 batches: 0.00 (train 0.00 comm 0.00 wait 0.00)
    """

    def __init__(self, comm: Any, printFreq: float, modelname: str, verbose: bool) -> None:  # noqa: N803
        self.comm, self.modelname, self.verbose = comm, modelname, verbose
        self.printFreq = max(1, int(printFreq))
        self.folder = "."
        self.info_dict: dict[str, list[list[float]]] = {
            name: [] for name in ("train_info", "val_info", "epoch_time", "all_time", "lr")
        }
        self._train: list[tuple[float, ...]] = []
        self._val: list[tuple[float, ...]] = []
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._phase = self._epoch = monotonic()

    def start(self, doing: str = "") -> None:
        """Begin a phase."""
        self._phase = monotonic()

    def end(self, mode: str, name: str = "") -> None:
        """Add the seconds since `start` to those of one of `PHASES`."""
        self._seconds[mode] += monotonic() - self._phase

    def start_epoch(self) -> None:
        """Begin an epoch."""
        self._epoch = monotonic()

    def end_epoch(self, count: int, uepoch: int) -> None:
        """End an epoch, and print how long it took."""
        self.info_dict["epoch_time"].append([count, monotonic() - self._epoch])
        self._print(f"epoch {uepoch} took {monotonic() - self._epoch:.1f} s")

    def train_error(self, count: int, cost: Any, error: Any) -> None:
        """Take in what a model says of a batch of training."""
        self._train.append((float(cost), float(error)))

    def val_error(self, count: int, cost: Any, error: Any, error_top5: Any = 0.0) -> None:
        """Take in what a model says of a batch of validation."""
        self._val.append((float(cost), float(error), float(error_top5)))

    def print_train_info(self, count: int) -> None:
        """After every `printFreq` batches print the means since the last time, and where the time went."""
        if count % self.printFreq or not self._train:
            return
        cost, error = _means(self._train)
        seconds = list(self._seconds.values())
        self.info_dict["train_info"].append([count, cost, error])
        self.info_dict["all_time"].append([count, sum(seconds), *seconds])
        self._print(f"{count} {cost:f} {error:f}")
        train, comm, wait = seconds
        self._print(
            f"time per {self.printFreq} batches: {sum(seconds):.2f} (train {train:.2f} comm {comm:.2f} wait {wait:.2f})"
        )
        self.clear_train_info()

    def clear_train_info(self) -> None:
        """Forget what was reported of training since the last line."""
        self._train.clear()
        self._seconds = dict.fromkeys(PHASES, 0.0)

    def gather_val_info(self) -> None:
        """Have on all ranks what each of them was told of its validation; collective."""
        if self.comm is not None:
            self._val = [one for rank in self.comm.allgather(self._val) for one in rank]

    def print_val_info(self, count: int, comment: str | None = None) -> None:
        """Print the means of a validation."""
        if not self._val:
            return
        cost, error, error_top5 = _means(self._val)
        self._val.clear()
        self.info_dict["val_info"].append([count, cost, error, error_top5])
        if comment is not None:
            self._print(comment)
        self._print(f"validation cost: {cost:.4f}, error: {error:.4f}, top-5 error: {error_top5:.4f}")

    def get_latest_val_info(self) -> list[float] | None:
        """Count, cost, error and top-5 error of the last validation, or None."""
        return self.info_dict["val_info"][-1] if self.info_dict["val_info"] else None

    def save(self, count: int, lr: Any, filepath: str = "./inforec/") -> None:
        """Write `info_dict` to ``inforec.pkl`` in a folder, with the learning rate."""
        self.info_dict["lr"].append([count, float(lr)])
        os.makedirs(filepath, exist_ok=True)
        (Path(filepath) / "inforec.pkl").write_bytes(pickle.dumps(self.info_dict))

    def plot_init(self, name: str, **_: Any) -> None:
        """Nothing: each picture is a file of its own."""

    def plot(self, name: str, lines: Any = None, image: Any = None, cmap: Any = None, **_: Any) -> None:
        """Draw lines or an image into ``NAME.png`` in `folder`."""
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.set_title(name)
        if image is not None:
            axes.imshow(image, cmap=cmap)
        for line in lines or ():
            axes.plot(line)
        figure.savefig(Path(self.folder) / f"{name}.png")

    def loaded(self, readings: Any) -> None:
        """Nothing: how batches were read ahead is not shown."""

    def _print(self, text: str) -> None:
        if self.verbose:
            print(text, flush=True)


def _means(rows: Sequence[tuple[float, ...]]) -> list[float]:
    return [float(mean) for mean in np.mean(rows, axis=0)]
