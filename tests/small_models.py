"""Small networks for the tests of training: the whole machine in a fraction of a second an iteration."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytensor.tensor as pt
from pytensor.gradient import disconnected_grad

from theanompi import Model, Objective, classification
from theanompi.config import ConfigError
from theanompi.lasagne.init import HeNormal
from theanompi.lasagne.layers import (
    BatchNormLayer,
    Conv2DLayer,
    DenseLayer,
    DropoutLayer,
    GlobalPoolLayer,
    InputLayer,
    Layer,
    MaxPool2DLayer,
    NonlinearityLayer,
    get_all_layers,
    get_output,
)
from theanompi.lasagne.nonlinearities import rectify, softmax, softplus
from theanompi.models.resnet_cifar import basic_block
from theanompi.record.loggers import Logger


class Plain(Model):
    """Without batch normalisation: what a sample contributes does not depend on its batch."""

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        net = InputLayer(input_shape)
        net = Conv2DLayer(net, 8, 3, stride=2, W=HeNormal("relu"), flip_filters=False, name="conv")
        net = MaxPool2DLayer(net, 2)
        return DenseLayer(net, num_classes, nonlinearity=softmax, name="dense")


class Fixed(Plain):
    """Whose convolution no update changes."""

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        scores = super().build_model(input_shape, num_classes)
        (conv,) = (layer for layer in get_all_layers(scores) if layer.name == "conv")
        for tags in conv.params.values():
            tags.discard("trainable")
        return scores


class Decomposed(Plain):
    """With an op that does not run on the device: a Schur decomposition."""

    @staticmethod
    def nonlinearity(scores: Any) -> Any:
        """The scores, squashed as far as the Schur form of their covariance is large."""
        form, _ = pt.linalg.schur(disconnected_grad(pt.dot(scores.T, scores)))
        return softmax(scores / form.max())

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        return NonlinearityLayer(super().build_model(input_shape, num_classes), self.nonlinearity)


class Normalised(Model):
    """With batch normalisation and dropout."""

    nonlinearity = staticmethod(rectify)

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        net = InputLayer(input_shape)
        for i, width in enumerate((8, 16)):
            net = Conv2DLayer(
                net,
                width,
                3,
                stride=2,
                pad=1,
                W=HeNormal("relu"),
                b=None,
                nonlinearity=None,
                flip_filters=False,
                name=f"conv{i}",
            )
            net = NonlinearityLayer(BatchNormLayer(net, name=f"bn{i}"), self.nonlinearity)
        net = DropoutLayer(GlobalPoolLayer(net), p=0.2, name="drop")
        return DenseLayer(net, num_classes, nonlinearity=None, name="dense")


class Smooth(Normalised):
    """Whose rectifiers are rounded off.

    At a rectifier's kink rounding turns a gradient on or off, and two ways of adding the same numbers part after
    some tens of updates. Here they stay together, so that what is left between two ways is a real difference.
    """

    nonlinearity = staticmethod(softplus)


class Wide(Model):
    """With gradients for several buckets of an exchange, in a graph that is soon compiled."""

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        net = DenseLayer(InputLayer(input_shape), 1024, b=None, nonlinearity=None, name="dense1")
        net = NonlinearityLayer(BatchNormLayer(net, name="bn1"), rectify)
        net = DenseLayer(net, 1024, nonlinearity=rectify, name="dense2")
        return DenseLayer(net, num_classes, nonlinearity=softmax, name="dense3")


class Various(Model):
    """With all that the networks of the zoo have, and dropout, a bias before pooling and a smallest size."""

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        net = Conv2DLayer(
            InputLayer(input_shape), 8, 3, stride=2, W=HeNormal("relu"), flip_filters=False, name="conv"
        )
        layers: dict[str, Layer] = {}
        top = basic_block(layers, MaxPool2DLayer(net, 2), "2", 8, 1, project=False, gamma=1.0)
        top = basic_block(layers, top, "3", 16, 2, project=True, gamma=0.5)
        net = DropoutLayer(GlobalPoolLayer(top), p=0.2, name="drop")
        return DenseLayer(net, num_classes, nonlinearity=softmax, name="dense")


class Rivals(Model):
    """With two objectives and a network for each: their scores pull against each other."""

    def build(self, batch: Any) -> dict[str, Layer]:
        shape, n_classes = batch["images"].type.shape, self.dataset.n_classes
        return {
            name: DenseLayer(InputLayer(shape), n_classes, nonlinearity=None, name=name)
            for name in ("first", "second")
        }

    def objectives(self, batch: Any, training: bool) -> list[Objective]:
        first, second = (get_output(self.network[name], batch["images"]) for name in ("first", "second"))
        loss = classification(first + disconnected_grad(second), batch["labels"]).loss
        other = pt.sum(pt.sqr(second + disconnected_grad(first)), axis=1)
        return [
            Objective(loss, params=self.network["first"].get_params(), name="first"),
            Objective(other, params=self.network["second"].get_params(), name="second"),
        ]


class NotFinite(Plain):
    """Whose loss is not a number on rank 1."""

    def train_iter(self, count: int, recorder: object, objective: int = 0) -> None:
        super().train_iter(count, recorder)
        if self.rank == 1 and count == 2:
            self.state.gradients.views["metrics"].fill_(float("nan"))


class NoValidation(Plain):
    """Whose validation cannot be compiled."""

    def compile_iter_fns(self, *args: Any, **kwargs: Any) -> None:
        super().compile_iter_fns(*args, **kwargs)
        self.compile_validation = self.refuse  # type: ignore[method-assign]

    def refuse(self) -> None:
        raise ConfigError("no such validation")


class Regression(Plain):
    """What `tests.compare_worker` reports other metrics of; it trains nothing."""


class Slow(Plain):
    """Which computes for 0.1 s more on the last rank."""

    def train_iter(self, count: int, recorder: Any, objective: int = 0) -> None:
        super().train_iter(count, recorder)
        if self.rank == self.size - 1:
            recorder.start()
            time.sleep(0.1)
            recorder.end("calc")


class Held(Plain):
    """Which begins its second epoch when there is a file "go" in the current folder."""

    def train_iter(self, count: int, recorder: object, objective: int = 0) -> None:
        while self.epoch == 1 and not os.path.exists("go"):
            time.sleep(0.01)
        super().train_iter(count, recorder)


class Broken(Plain):
    """Which raises in the middle of training, on the last rank only."""

    def train_iter(self, count: int, recorder: object, objective: int = 0) -> None:
        if self.rank == self.size - 1 and count == 1:
            raise ArithmeticError("the user's own mistake")
        super().train_iter(count, recorder)


class Leaves(Plain):
    """The last rank of which leaves early, in the middle of training."""

    @staticmethod
    def leave() -> None:
        os._exit(0)

    def train_iter(self, count: int, recorder: object, objective: int = 0) -> None:
        if count == 2 and self.rank == self.size - 1:
            self.leave()
        super().train_iter(count, recorder)


class Exits(Leaves):
    """By ``sys.exit(3)``, on the last rank."""

    leave = staticmethod(partial(sys.exit, 3))


class ExitsInBuild(Plain):
    """By ``sys.exit(3)`` in `build_model`, on the last rank."""

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        if self.rank == self.size - 1:
            sys.exit(3)
        return super().build_model(input_shape, num_classes)


class ExitsInValidation(Plain):
    """By ``sys.exit(3)`` in `val_iter`, on the last rank."""

    def val_iter(self, count: int, recorder: object) -> None:
        if self.rank == self.size - 1:
            sys.exit(3)
        super().val_iter(count, recorder)


class TermInBuild(Plain):
    """The last rank of which gets a SIGTERM in `build_model`."""

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        if self.rank == self.size - 1:
            signal.raise_signal(signal.SIGTERM)
        return super().build_model(input_shape, num_classes)


class TermInValidation(Plain):
    """The last rank of which gets a SIGTERM in the first validation."""

    def val_iter(self, count: int, recorder: object) -> None:
        if self.rank == self.size - 1 and self.epoch == count == 0:
            signal.raise_signal(signal.SIGTERM)
        super().val_iter(count, recorder)


class TermInThirdStep(Plain):
    """Whose first worker gets a SIGTERM in its third step, which the main thread notes before that goes on."""

    def train_iter(self, count: int, recorder: object, objective: int = 0) -> None:
        print(f"worker {self.rank}, step {count}")
        if self.rank == 0 and count == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        super().train_iter(count, recorder)


class Mistaken(Plain):
    """Whose `build_model` has a mistake."""

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        n, channels = input_shape  # type: ignore[misc]
        return super().build_model(input_shape, num_classes)


class Watched(Plain):
    """Whose hooks write down what they are told, in a file of each rank beside the run's folder."""

    def note(self, hook: str, record: dict[str, Any]) -> None:
        """Add a line to this rank's file."""
        with open(f"{self.config.out}-{self.rank}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps([hook, record]) + "\n")

    def on_iteration(self, record: dict[str, Any]) -> None:
        self.note("on_iteration", record)

    def on_validation(self, record: dict[str, Any]) -> None:
        self.note("on_validation", record)

    def on_end(self, record: dict[str, Any]) -> None:
        self.note("on_end", record)


class MistakenHook(Plain):
    """Whose hook has a mistake, on one rank alone."""

    def on_iteration(self, record: dict[str, Any]) -> None:
        if self.rank and record["iteration"] == 2:
            record["los"]


class Noted(Logger):
    """A logger of a user's own, which writes down what it is told, beside the run's folder."""

    def write(self, record: Mapping[str, Any]) -> None:
        with open(f"{self.folder}-noted.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class Needy(Noted):
    """That needs a package which nobody has."""

    needs = "a_package_that_nobody_has"


class Blocks(Plain):
    """The last rank of which does nothing any more, when all that takes long on a busy machine is done."""

    def train_iter(self, count: int, recorder: object, objective: int = 0) -> None:
        super().train_iter(count, recorder)
        if count == 2:
            (watch,) = (thread for thread in threading.enumerate() if thread.name == "watchdog")
            dog = watch._target.__self__  # type: ignore[attr-defined]
            assert dog._limit == 300
            dog._limit = 3.0
        if self.rank == self.size - 1 and count == 2:
            time.sleep(1000)


class SpoiltUpdate(Plain):
    """Whose third update makes a weight that is not a number, though its loss is one."""

    def compile_iter_fns(self, *args: Any, **kwargs: Any) -> None:
        super().compile_iter_fns(*args, **kwargs)
        self.update = after(self.update, self.spoil)  # type: ignore[method-assign]

    def spoil(self) -> None:
        if self.state.iteration.get_value() == 3:
            self.state.weights.flat[0] = float("nan")


class SpoiltVelocity(SpoiltUpdate):
    """Whose third update makes a velocity that is not a number, on the last rank."""

    def spoil(self) -> None:
        if self.state.iteration.get_value() == 3 and self.rank == self.size - 1:
            self.state.slots["velocity"].flat[0] = float("nan")


def after(function: Callable[..., Any], more: Callable[[], None]) -> Callable[..., Any]:
    """A function that gives what another one does, and does something after it."""

    def both(*args: Any) -> Any:
        given = function(*args)
        more()
        return given

    return both


class OwnMetrics(Plain):
    """Which measures something else on the last rank."""

    def objectives(self, batch: Any, training: bool) -> Any:
        objective: Any = super().objectives(batch, training)
        other = {"mae": objective.metrics["error"]}
        return objective._replace(metrics=other) if self.rank == self.size - 1 else objective
