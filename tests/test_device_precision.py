"""The precision policy: what is computed in bf16 or tf32, and what stays in float32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from tolerance import RELATIVE, assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from tests.without_memory import Recorded
from theanompi import device
from theanompi.config import RunConfig, resolve
from theanompi.data import write_dataset
from theanompi.device import FlatBuffer, fusion, ops
from theanompi.device.fusion import BF16_TAG, LAUNCH_TAG
from theanompi.device.ops.conv import Convolution, ConvolutionGrad
from theanompi.device.ops.together import NarrowWeights, WrittenTogether
from theanompi.exchange.base import make_buckets
from theanompi.models.resnet50 import ResNet50
from theanompi.training.optimizers import get_optimizer
from theanompi.training.schedules import Schedule
from theanompi.training.schedules.cosine import Cosine
from theanompi.training.schedules.poly import Poly
from theanompi.training.schedules.steps import Steps
from theanompi.training.update import Group, update_graph

DEVICES = [
    "cpu",
    pytest.param(
        "cuda:0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
    ),
]


def residual_network(place: str, precision: str) -> dict[str, np.ndarray]:
    """Loss, gradients and state of a small residual network after one step."""
    rng = np.random.default_rng(0)

    def variable(name: str, *shape: int, at: float = 0.0, width: float = 1.0) -> Any:
        return device.shared((at + width * rng.normal(size=shape)).astype("float32"), name)

    device.use(place)
    try:
        x = variable("x", 8, 3, 12, 12)
        labels = device.shared(rng.integers(0, 5, 8), "labels")
        w1, w2, w3 = (
            variable(f"w{i}", 16, c, 3, 3, width=(2 / 9 / c) ** 0.5) for i, c in ((1, 3), (2, 16), (3, 16))
        )
        gamma, beta, v = (
            variable("gamma", 16, at=1, width=0.1),
            variable("beta", 16),
            variable("v", 16, 5, width=0.25),
        )
        running = variable("running", 16)
    finally:
        device.use("cpu")
    h = ops.pool2d(ops.relu(ops.conv2d(x, w1, padding=1)), 3, 2, 1)
    y, mean, _ = ops.batch_norm(ops.conv2d(h, w2, padding=1), gamma, beta)
    h = ops.relu(y + h)
    h = ops.relu(ops.conv2d(h, w3, padding=1) + h)
    logits = pt.dot(h.mean((2, 3)), v)
    cost = ops.softmax_cross_entropy(logits, labels).mean()
    parameters = [w1, w2, w3, gamma, beta, v]
    gradients = pytensor.grad(cost, parameters)
    updates = [(p, p - np.float32(0.1) * g) for p, g in zip(parameters, gradients, strict=True)]
    updates.append((running, running + np.float32(0.1) * (mean - running)))
    f = pytensor.function([], [cost, logits, *gradients], updates=updates, mode=device.mode(place, precision))
    names = ["cost", "logits", *(f"gradient of {p.name}" for p in parameters)]
    results = dict(zip(names, f(), strict=True))
    for p in [*parameters, running]:
        assert p.tensor.dtype == torch.float32 and p.tensor.device == torch.device(place)
        results[p.name] = p.get_value()
    return results


@pytest.mark.parametrize("place", DEVICES)
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_results_stay_float32_and_within_tolerance(place: str, precision: str) -> None:
    exact, rounded = residual_network("cpu", "float32"), residual_network(place, precision)
    for name, value in exact.items():
        assert rounded[name].dtype == np.float32, name
        error = np.linalg.norm(rounded[name] - value) / np.linalg.norm(value)
        assert error < RELATIVE[precision, place.partition(":")[0]], f"{name}: relative error {error}"
    if precision == "bf16":
        assert any((rounded[name] != value).any() for name, value in exact.items())


def test_bf16_rounds_operands_of_convolutions_and_products_only() -> None:
    fine = np.float32(1 + 2**-10)  # bf16 has 7 bits after the point
    x, w = device.shared(np.full((1, 1, 2, 2), fine)), device.shared(np.ones((1, 1, 1, 1), "float32"))
    m, o = device.shared(np.eye(2, dtype="float32") * fine), device.shared(np.ones((2, 2), "float32"))
    outputs = [ops.conv2d(x, w), pt.dot(m, o), x * w, x.sum(), m[0] + m[1]]
    got = pytensor.function([], outputs, mode=device.mode("cpu", "bf16"))()
    assert [v.dtype for v in got] == [np.float32] * 5
    assert [float(v.max()) for v in got] == [1, 1, fine, 4 * fine, fine]


def test_weights_rounded_once_a_step_are_those_rounded_by_each_convolution_and_product() -> None:
    """As modes for CUDA devices do it: forward and backward read one copy, while the weights themselves are updated."""
    random = np.random.default_rng(0)
    images = device.shared(random.normal(size=(2, 3, 6, 5)).astype("float32"))

    def trained(tag: str) -> tuple[list[np.ndarray], list[Any]]:
        weights = [
            device.shared(np.random.default_rng(n).normal(size=shape).astype("float32"))
            for n, shape in enumerate([(3, 3, 3, 3), (3, 3, 3, 3), (36, 4)])
        ]
        out = ops.conv2d(ops.relu(ops.conv2d(images, weights[0], padding=1)), weights[1])
        out = pt.dot(out.flatten(2), weights[2])
        gradients = pytensor.grad((out**2).sum(), weights)
        updates = [(w, w - np.float32(0.01) * g) for w, g in zip(weights, gradients, strict=True)]
        step = pytensor.function([], out, updates=updates, mode=device.mode("cpu", "bf16").including(tag))
        return [step(), step(), *(w.get_value() for w in weights)], step.maker.fgraph.toposort()

    (narrow, nodes), (expected, plain) = trained(BF16_TAG), trained("nothing")
    readers = [node for node in nodes if isinstance(node.op, Convolution | ConvolutionGrad)]
    assert len(nodes) == len(plain) + 1 and len(readers) == 4
    (rounded,) = (node for node in nodes if isinstance(node.op, NarrowWeights))
    assert len(rounded.inputs) == 3 and {node.inputs[1].owner for node in readers} == {rounded}
    for got, value in zip(narrow, expected, strict=True):
        np.testing.assert_array_equal(got, value)


class Casts(TorchDispatchMode):
    """Notes the gradients of convolutions, the casts after them, and what is said to be written, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("convolution_backward", "copy_", "_foreach_copy_"):
            self.seen.append(name if name != "_foreach_copy_" else f"{name} {len(args[0])}")
        return func(*args, **(kwargs or {}))


def test_gradients_of_filters_become_float32_by_bucket_and_each_bucket_goes_as_soon_as_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As modes for CUDA devices do it: bits and order are those of single copies."""
    monkeypatch.setattr(fusion, "BUCKET", 4 * 400)
    images = device.shared(np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype("float32"))
    channels, names = (3, 5, 7, 4, 6), ("w4", "w3", "w2", "w1")

    def compiled(tag: str) -> tuple[Casts, FlatBuffer, list[Any]]:
        random, casts = np.random.default_rng(1), Casts()
        shapes = [(b, a, 3, 3) for a, b in zip(channels, channels[1:], strict=False)]
        filters = {
            f"w{n}": device.shared(random.normal(size=shape).astype("float32"), f"w{n}")
            for n, shape in enumerate(shapes, 1)
        }
        bias = device.shared(np.zeros(6, "float32"), "b")
        out = images
        for w in filters.values():
            out = ops.relu(ops.conv2d(out, w, padding=1))
        cost = ((out + bias.dimshuffle("x", 0, "x", "x")) ** 2).sum()
        buffer = FlatBuffer({name: filters[name].type.shape for name in names} | {"b": (6,)})
        gradients = pytensor.grad(cost, [*(filters[name] for name in names), bias])
        updates = [
            (device.shared(view, name), g)
            for (name, view), g in zip(buffer.views.items(), gradients, strict=True)
        ]
        mode = device.mode("cpu", "bf16", written=casts.seen.append).including(tag)
        step = pytensor.function([], [], updates=updates, mode=mode)
        with casts:
            step()
        return casts, buffer, step.maker.fgraph.toposort()

    casts, buffer, nodes = compiled(LAUNCH_TAG)
    assert [bucket.names for bucket in make_buckets(buffer, 400)] == [("w4", "w3"), ("w2", "w1"), ("b",)]
    assert [type(node.op).__name__ for node in nodes].count("WrittenTogether") == 2
    order = [line for line in casts.seen if line not in ("b", "copy_")]
    backward = "convolution_backward"
    assert order == [
        *(backward, backward, "_foreach_copy_ 2", "w4", "w3"),
        *(backward, backward, "_foreach_copy_ 2", "w2", "w1"),
    ]
    plain, expected, _ = compiled("nothing")
    assert plain.seen.count("copy_") == casts.seen.count("copy_") + 4
    assert torch.equal(buffer.flat, expected.flat) and buffer.flat.count_nonzero() > 600


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_vectors_of_normalisations_are_written_by_one_call(share: float) -> None:
    """As modes for CUDA devices do it: the bits of single copies, also of one value for two places, and of a share."""
    shapes = {"beta": (6,), "beta2": (6,), "gamma": (6,), "mean": (6,), "inv_std": (6,)}

    def compiled(tag: str) -> tuple[Casts, FlatBuffer, list[Any]]:
        casts, random = Casts(), np.random.default_rng(1)
        x = device.shared(random.normal(size=(4, 6, 3, 3)).astype("float32"))
        gamma, beta = (device.shared(random.normal(size=6).astype("float32")) for _ in range(2))
        y, mean, inv_std = ops.batch_norm(x, gamma, beta)
        g_beta, g_gamma = pytensor.grad((ops.relu(y) ** 2).sum(), [beta, gamma])
        values = [g_beta, g_beta, g_gamma, *(v * np.float32(share) for v in (mean, inv_std))]
        buffer = FlatBuffer(shapes)
        updates = [
            (device.shared(view, name), value)
            for (name, view), value in zip(buffer.views.items(), values, strict=True)
        ]
        mode = device.mode("cpu", written=casts.seen.append).including(tag)
        step = pytensor.function([], [], updates=updates, mode=mode)
        with casts:
            step()
        return casts, buffer, step.maker.fgraph.toposort()

    (casts, buffer, nodes), (_, expected, _) = compiled(LAUNCH_TAG), compiled("nothing")
    written = [node.op for node in nodes if isinstance(node.op, WrittenTogether)]
    assert {(op.number, op.factor) for op in written} == ({(5, 1)} if share == 1 else {(3, 1), (2, share)})
    assert casts.seen.count("copy_") == 0
    assert sorted(line for line in casts.seen if "copy" not in line) == sorted(shapes)
    assert torch.equal(buffer.flat, expected.flat) and buffer.flat.count_nonzero() > 20


def test_bf16_statistics_are_summed_in_float32() -> None:
    """Thousands of ones: a sum in bf16 would stop at 256."""
    x = device.shared(np.ones((4, 1, 64, 64), "float32"))
    y = ops.conv2d(x, device.shared(np.ones((1, 1, 1, 1), "float32")))
    _, mean, inv_std = ops.batch_norm(y, pt.ones(1, "float32"), pt.zeros(1, "float32"), 1.0)
    got = pytensor.function([], [mean, inv_std, y.sum()], mode=device.mode("cpu", "bf16"))()
    assert_close(got[0], np.ones(1, "float32"))
    assert_close(got[1], np.ones(1, "float32"))
    assert float(got[2]) == 4 * 64 * 64


def test_bf16_update_accumulates_in_float32() -> None:
    """Steps below bf16's resolution must not be lost in the weights."""
    w, x = device.shared(np.ones((2, 2), "float32")), device.shared(np.eye(2, dtype="float32") * 2.0**-12)
    step = pt.dot(x, device.shared(np.ones((2, 2), "float32")))
    f = pytensor.function([], [], updates=[(w, w - step)], mode=device.mode("cpu", "bf16"))
    for _ in range(16):
        f()
    assert_close(w.get_value(), np.full((2, 2), 1 - 16 * 2.0**-12, "float32"))


def test_bf16_leaves_float64_and_integers_alone() -> None:
    x, i = pt.matrix("x", dtype="float64"), pt.matrix("i", dtype="int64")
    f = pytensor.function([x, i], [pt.dot(x, x), pt.dot(i, i)], mode=device.mode("cpu", "bf16"))
    xv, iv = np.array([[1 + 2.0**-30]]), np.array([[257]])
    assert_close(f(xv, iv)[0], xv @ xv)
    assert f(xv, iv)[1].item() == 257**2


class Observer(TorchDispatchMode):
    """Notes the dtypes of images that functions get."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        name = func.overloadpacket.__name__
        self.dtypes.setdefault(name, set()).update(t.dtype for t in tensors if t.ndim == 4)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.usefixtures("without_memory")
def test_away_from_the_cpu_a_step_never_waits_and_keeps_images_narrow(precision: str, tmp_path: Path) -> None:
    split = np.random.default_rng(0).integers(0, 256, (8, 40, 36, 3), np.uint8), np.arange(8) % 4
    texts = dict.fromkeys(("name", "description", "source", "licence"), "noise")
    write_dataset(tmp_path / "noise.h5", split, split, class_names=list("abcd"), augmentation="crop", **texts)
    settings = {"data": str(tmp_path / "noise.h5"), "image_size": 32, "batch_size": 4, "color_jitter": 0.4}
    model = ResNet50({**settings, "precision": precision, "clip_norm": 1, "size": 2, "verbose": False})
    model.compile_iter_fns()
    with Observer() as seen, Recorded():
        (gradients,), (update,) = model._gradients, model._updates
        gradients()
        assert update().is_meta
    narrow = {torch.bfloat16 if precision == "bf16" else torch.float32}
    for name in (
        "convolution",
        "convolution_backward",
        "native_batch_norm",
        "native_batch_norm_backward",
        "relu_",
    ):
        assert seen.dtypes[name] == narrow, name


@pytest.mark.parametrize(
    ("name", "kind"), [("momentum", Steps), ("adam", Cosine), ("adamw", Poly), ("lars", Poly), ("lamb", Poly)]
)
@pytest.mark.usefixtures("without_memory")
def test_away_from_the_cpu_an_update_never_waits(name: str, kind: type[Schedule]) -> None:
    optimizer = get_optimizer(name)(resolve(RunConfig()))
    w, g, *kept = (device.shared(np.ones(5, "float32")) for _ in range(2 + len(optimizer.slots)))
    eta, updates = update_graph(
        [Group(w, g, dict(zip(optimizer.slots, kept, strict=True)), decayed=True)],
        optimizer,
        kind(minibatch=8192, iterations_per_epoch=10, scaled="loss"),
        t=device.shared(np.int64(0)),
        last_eta=device.shared(np.float64(0)),
        factor=device.shared(np.float32(1)),
        clip_norm=1.0,
    )
    step = pytensor.function([], eta, updates=updates, mode=device.mode(return_internal_type=True))
    with Recorded():
        assert step().is_meta


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match="precision: expected one of float32, tf32, bf16, got 'fp16'"):
        device.mode("cpu", "fp16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_tf32_is_on_only_while_its_functions_run() -> None:
    device.use("cuda:0")
    try:
        x = device.shared(np.full((64, 64), 1 + 2**-12, "float32"))
    finally:
        device.use("cpu")
    exact, rounded = (
        pytensor.function([], pt.dot(x, x), mode=device.mode("cuda:0", precision))
        for precision in ("float32", "tf32")
    )
    first = exact()
    assert (rounded() != first).any()
    np.testing.assert_array_equal(exact(), first)
