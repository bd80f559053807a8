"""A classifier of pictures that a run has trained, to be used: probabilities of arrays and of image files."""

import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

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
from theanompi.data import Batch, Field, Loader, Pictures
from theanompi.data.modality import ReaderClass
from theanompi.data.pictures.augment import color_transforms
from theanompi.data.pictures.files import FAULT_BYTES, Preparation, prepare
from theanompi.data.store.schema import Split
from theanompi.device import Pinned
from theanompi.lasagne.layers import output_keywords
from theanompi.record.folder import find_checkpoint, to_use
from theanompi.training.evaluation import trained
from theanompi.training.inputs import Feed, Inputs
from theanompi.training.model import Model
from theanompi.training.predictor import Predictor
from theanompi.training.rank import choose_device


class Prediction(NamedTuple):
    """What there is to say of a file: `probabilities` float32 (classes,), or None and the `fault` that it has."""

    path: str
    probabilities: NDArray[np.float32] | None
    fault: str


class _Paths:
    """A list of files, as a loader wants a data file: its descriptor, which is made when asked for, has the list."""

    modality = "pictures"

    def __init__(self, paths: Sequence[str], mean: NDArray[np.float64], std: NDArray[np.float64]) -> None:
        self.path, self.mean, self.std, self._paths = Path("the files to predict"), mean, std, paths
        self._list: TextIO | None = None

    def count(self, split: Split) -> int:
        return len(self._paths) if split == "val" else 0

    def fileno(self) -> int:
        if self._list is None:
            self._list = open(os.memfd_create("theanompi"), "w", encoding="utf-8")
            json.dump(self._paths, self._list)
            self._list.flush()
        return self._list.fileno()

    def close(self) -> None:
        if self._list is not None:
            self._list.close()


class _Seen(Pictures):
    """Pictures without labels that are in no data file, as a network sees those that it is validated on."""

    columns = 1

    def __init__(self, of: Pictures, preparation: Preparation, paths: Sequence[str] = ()) -> None:
        self.dataset = _Paths(paths, of.dataset.mean, of.dataset.std)  # type: ignore[assignment]
        self.seed, self.image_size, self.color_jitter, self.lighting = of.seed, of.image_size, 0.0, 0.0
        self.canvas = preparation.height, preparation.width
        self.read = {
            "images": Field("uint8", (*self.canvas, preparation.channels)),
            "boxes": Field("float32", (7,)),
            "fault": Field("uint8", (FAULT_BYTES,)),
        }
        self.given = {name: of.given[name] for name in ("colors", "labels", "keys", "weights")}
        self.reader = ReaderClass("theanompi.data.pictures.files", "FileReader", tuple(preparation))

    def batch(
        self, split: Split, epoch: int | None, ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
        values: dict[str, NDArray[Any]] = {
            "colors": color_transforms(0.0, 0.0, self.seed, 0, ids),
            "labels": np.zeros(len(ids), np.int64),
            "keys": self.keys(epoch, ids),
        }
        return ids[:, None], values


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
        if data.channels not in (1, 3):
            raise ConfigError(
                f"data file {data.path}: expected pictures of 1 or 3 channels, got {data.channels}"
            )
        assert run.batch_size
        self.class_names, self.iteration, self._processes = list(data.class_names), iteration, processes
        self._model, self._pictures, self._n = model, pictures, run.batch_size
        sizes = np.concatenate([data.sizes("train"), data.sizes("val")])
        self._preparation = prepare(
            data.store, data.augmentation, sizes, pictures.image_size, data.channels, pictures.canvas
        )
        self._seen = _Seen(pictures, self._preparation)
        self._inputs = Inputs(self._seen, self._n)
        batch = self._seen.graph(self._inputs.variables, False)
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
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
            raise ValueError(f"images: expected uint8 (n, h, w, 3), got {images.dtype} {images.shape}")
        rows = [probabilities for _, probabilities in self._predict(self._batches(images), len(images))]
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
        seen = _Seen(self._pictures, self._preparation, names)
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

    def _batches(self, images: NDArray[np.uint8]) -> Iterator[Batch]:
        """Arrays as a loader would have them from files; the last batch is filled up with its last one."""
        held = self._preparation
        fields = {
            name: np.zeros((self._n, *field.shape), field.dtype) for name, field in self._seen.read.items()
        }
        for start in range(0, len(images), self._n):
            ids = np.minimum(np.arange(start, start + self._n), len(images) - 1)
            # The device may still have the last ones.
            fields = {name: np.empty_like(values) for name, values in fields.items()}
            fields["fault"][:] = 0
            for i, image in enumerate(images[ids]):
                fields["boxes"][i] = held.pixels(image, fields["images"][i])
            _, values = self._seen.batch("val", None, ids)
            yield Batch({**fields, **values, "weights": np.ones(self._n, np.float32)}, ids)

    def _predict(
        self, batches: Iterator[Batch], n: int
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """For each batch its faults and probabilities, `n` of all."""
        faults: deque[NDArray[np.uint8]] = deque()

        def noted() -> Iterator[Batch]:
            for batch in batches:
                faults.append(batch.fields["fault"].copy())
                yield batch

        feed = Feed(self._inputs, noted())
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
