"""A classifier of pictures that a run has trained, to be used: probabilities of arrays and of image files."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytensor
import pytensor.tensor as pt
from mpi4py import MPI
from numpy.typing import NDArray
from pytensor.graph.basic import Variable
from pytensor.tensor.special import Softmax

from theanompi import device as devices
from theanompi.config import ConfigError, default_loader_processes, got, read_field
from theanompi.config.modules import look_in_current_folder
from theanompi.data import Batch, Loader, Pictures
from theanompi.device import Pinned
from theanompi.lasagne.layers import output_keywords
from theanompi.record.folder import find_checkpoint, to_use
from theanompi.training.evaluation import trained
from theanompi.training.inputs import Feed
from theanompi.training.model import Model
from theanompi.training.predictor import Predictor
from theanompi.training.rank import choose_device
from theanompi.training.shown import Seen, Shown, pixels


class Prediction(NamedTuple):
    """What there is to say of a file: `probabilities` float32 (classes,), or None and the `fault` that it has."""

    path: str
    probabilities: NDArray[np.float32] | None
    fault: str


class Classifier:
    """A trained classifier of pictures; `theanompi.load` makes it.

    It sees pictures as the run's validation does: decoded, scaled, cropped and normalised in the same way, with the
    running statistics of batch normalisation and without dropout.

    Parameters
    ----------
    model : Model
        With the weights of the run, not compiled.
    processes : int
        That read files ahead.

    Attributes
    ----------
    class_names : list of str
        In the order of the probabilities.
    iteration : int
        After how many updates the weights were saved.

    Raises
    ------
    ConfigError
        If the model is no classifier of pictures, or these have neither 1 nor 3 channels.
    """

    def __init__(self, model: Model, iteration: int, processes: int) -> None:
        name, pictures = type(model).__name__, model.data.modality
        if not isinstance(pictures, Pictures):
            raise ConfigError(
                f"{name}: expected a classifier of pictures, or a class with a method predictions, got a model of "
                f"{pictures.name} without"
            )
        data, run = pictures.dataset, model.config
        assert run.batch_size
        self.class_names, self.iteration, self._processes = list(data.class_names), iteration, processes
        self._model, self._pictures, self._n = model, pictures, run.batch_size
        self._shown = Shown(pictures, self._n)
        batch = self._shown.graph()
        with pytensor.config.change_flags(floatX="float32"), output_keywords(deterministic=True):
            scores = model.scores(batch)
        shape = self._n, data.n_classes
        if scores.type.shape != shape:
            raise ConfigError(
                f"{name}: expected class scores of shape {shape} from the first output of build, got "
                f"{scores.type.shape}; remedy: a method scores"
            )
        self._probabilities = devices.shared(np.zeros(shape, np.float32), "probabilities")
        self._compute = pytensor.function(
            [],
            [],
            updates=[(self._probabilities, _softmax(scores))],
            mode=devices.mode(precision=run.precision, return_internal_type=True, capture=run.cuda_graph),
        )
        self._compute.trust_input = True

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give the probability of each class for each picture.

        Parameters
        ----------
        images : uint8 (n, h, w, 3)
            RGB, of any size.

        Returns
        -------
        float32 (n, classes)

        Raises
        ------
        ValueError
            For any other array.
        """
        images = pixels(images)
        rows = [probabilities for _, probabilities in self._predict(self._shown.batches(images), len(images))]
        return np.concatenate([np.empty((0, len(self.class_names)), np.float32), *rows])

    def predict_files(self, paths: Sequence[str | os.PathLike[str]]) -> Iterator[Prediction]:
        """Give the probability of each class for each image file, in their order.

        Parameters
        ----------
        paths : sequence of path
            Of any format that Pillow reads.

        Yields
        ------
        Prediction
            One for each file, also for one that shows no picture.
        """
        names = [os.fspath(path) for path in paths]
        if not names:
            return
        seen = Seen(self._pictures, self._shown.preparation, names)
        try:
            with Loader(seen, self._n, processes=self._processes) as loader:
                pinned = Pinned(loader.memory)
                try:
                    done = 0
                    for faults, rows in self._predict(loader.validation(1, 0), len(names)):
                        for fault, row in zip(faults, rows, strict=True):
                            words = bytes(fault).rstrip(b"\0").decode(errors="ignore")
                            yield Prediction(names[done], None if words else row.copy(), words)
                            done += 1
                finally:
                    pinned.release()
        finally:
            seen.dataset.close()

    def _predict(
        self, batches: Iterator[Batch], n: int
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """For each batch its faults and probabilities, `n` of all."""
        faults: deque[NDArray[np.uint8]] = deque()

        def noted() -> Iterator[Batch]:
            for batch in batches:
                faults.append(batch.fields["fault"].copy())
                yield batch

        feed = Feed(self._shown.inputs, noted())
        for start in range(0, n, self._n):
            feed.load()
            self._compute()
            feed.stage()
            many = min(self._n, n - start)
            yield faults.popleft()[:many], self._probabilities.get_value()[:many]


def _softmax(scores: Variable) -> Variable:
    softmax = scores.owner is not None and isinstance(scores.owner.op, Softmax)
    return scores if softmax else pt.special.softmax(scores, axis=1)


def load(run: str | os.PathLike[str], *, device: str = "cpu", batch_size: int | None = None) -> Any:
    """Load what a run has trained, with its last checkpoint.

    Its class and its data set must be where the run has found them.

    Parameters
    ----------
    run : str or path
        The run's folder, or a checkpoint in it.
    device : str
        ``"cpu"``, ``"cuda:0"`` or ``"auto"``; it is that of the process.
    batch_size : int, optional
        How many items are computed at a time, by default as many as a worker of the run had: fewer are filled up.

    Returns
    -------
    Classifier or Predictor
        The second where the class has a method `predictions`.

    Raises
    ------
    ConfigError, ValueError
        In one line: if there is no such run, it has no checkpoint yet, its class builds another network by now, or it
        is no classifier of pictures and has no method `predictions`.
    """
    path = find_checkpoint(run)
    config = to_use(path, read_field("devices", device))
    if len(config.devices) != 1:
        raise ConfigError(f"device: expected one, got {got(device)}")
    if batch_size is not None:
        config = replace(config, batch_size=batch_size)
    look_in_current_folder()
    _, cores = choose_device(MPI.COMM_SELF, config, config.devices)
    model, attributes = trained(path, config, MPI.COMM_SELF)
    model.cleanup()
    iteration = int(attributes["iteration"])
    if type(model).predictions is not Model.predictions:
        return Predictor(model, iteration)
    return Classifier(model, iteration, config.loader_processes or default_loader_processes(cores))
