"""Weights in and out: every format bit for bit, nothing executed, torch's layout by torch itself, a run that starts."""

import json
import pickle
import re
import subprocess
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytensor
import pytest
import torch
from mpi4py import MPI
from reference_resnet import ReferenceResNet50
from small_models import Plain
from torch import nn

from tests.mpi import run_warm
from theanompi import cli, device
from theanompi.config import ConfigError, RunConfig
from theanompi.config.files import split_prefix
from theanompi.lasagne.layers import (
    BatchNormLayer,
    ConcatLayer,
    Conv1DLayer,
    Conv2DLayer,
    Conv3DLayer,
    DenseLayer,
    DilatedConv2DLayer,
    InputLayer,
    Layer,
    NINLayer,
    NonlinearityLayer,
    TransposedConv2DLayer,
    TransposedConv3DLayer,
    get_all_param_values,
    get_all_params,
    get_output,
    set_all_param_values,
)
from theanompi.lasagne.layers.cuda_convnet import Conv2DCCLayer, NINLayer_c01b
from theanompi.lasagne.nonlinearities import softmax
from theanompi.launch.check import check
from theanompi.models import densenet, googlenet_bn, inception_v3, one_tower, vgg
from theanompi.models.resnet50 import build_model, torch_names
from theanompi.record import checkpoint
from theanompi.record.weights import ENDINGS, Weights, read_weights, write_weights
from theanompi.training.weights import as_torch, fit, start_from

RNG = np.random.default_rng(5)
Arrays = dict[str, np.ndarray]


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


ARRAYS: Arrays = {
    "conv.W": np.asfortranarray(numbers(4, 3, 2, 2)),
    "fc.W": numbers(5, 3),
    "fc.b": np.array([1e-45, -0.0, 3e38], np.float32),
    "scale.scales": np.array(0.25, np.float32),
}


def same(found: Arrays, expected: Arrays) -> bool:
    return found.keys() == expected.keys() and all(
        (found[k].dtype, found[k].shape, found[k].tobytes()) == (v.dtype, v.shape, v.tobytes())
        for k, v in expected.items()
    )


def refusal(action: Callable[[], Any]) -> str:
    """The one line that says what is wrong."""
    with pytest.raises(ConfigError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and len(text) <= 300
    return text


# Files.


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read_bit_for_bit(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"net{ending}"
    write_weights(file, ARRAYS)
    weights = read_weights(file)
    assert same(weights.arrays, ARRAYS) and not weights.ordered and len(weights.sha256) == 64
    text = refusal(lambda: write_weights(file, {}))
    assert text == f"weights {file}: expected no file of this name, got one; --overwrite replaces it"
    write_weights(file, {"a.b": numbers(2)}, overwrite=True)
    assert list(read_weights(file).arrays) == ["a.b"]
    # What a file is does not depend on its name.
    assert list(read_weights(file.rename(tmp_path / "weights")).arrays) == ["a.b"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_half_of_a_file_is_refused(ending: str, tmp_path: Path) -> None:
    whole, half = tmp_path / f"net{ending}", tmp_path / f"half{ending}"
    write_weights(whole, ARRAYS)
    content = whole.read_bytes()
    for size in (len(content) - 7, len(content) // 2, 9, 0):
        half.write_bytes(content[:size])
        text = refusal(lambda: read_weights(half))
        assert text.startswith(f"weights {half}: ") and "expected " in text and "got " in text


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    assert (
        refusal(lambda: read_weights("nowhere.pt")) == "weights nowhere.pt: expected a file, got none there"
    )
    assert refusal(lambda: read_weights(tmp_path)).endswith("checkpoint.h5: expected a file, got none there")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html>")
    assert "got one that begins with b'<!DOCTYPE html>'" in refusal(
        lambda: read_weights(tmp_path / "page.pt")
    )
    assert "expected a name that ends with" in refusal(lambda: write_weights(tmp_path / "net.txt", {}))
    (tmp_path / "n.pkl").write_bytes(pickle.dumps(3))
    assert refusal(lambda: read_weights(tmp_path / "n.pkl")).endswith("by name or a list of them, got int")
    (tmp_path / "n.pkl").write_bytes(pickle.dumps([numbers(2), "b"]))
    assert refusal(lambda: read_weights(tmp_path / "n.pkl")).endswith("a list of arrays, got str at 1")


def test_torch_reads_what_is_written_and_is_read_in_each_dtype(tmp_path: Path) -> None:
    write_weights(tmp_path / "net.pt", ARRAYS)
    loaded = torch.load(tmp_path / "net.pt", weights_only=True)
    assert same({name: tensor.numpy() for name, tensor in loaded.items()}, ARRAYS)
    state = {"a.weight": torch.arange(3).bfloat16(), "a.bias": torch.ones(2).half(), "a.n": torch.tensor(3)}
    for content in (state, {"epoch": 3, "state_dict": state}, {"model": state, "optimizer": {"model": 1}}):
        for zipped in (True, False):
            torch.save(content, tmp_path / "any.pt", _use_new_zipfile_serialization=zipped)
            found = read_weights(tmp_path / "any.pt").arrays
            assert found["a.weight"].tolist() == [0, 1, 2] and found["a.bias"].tolist() == [1, 1]
            assert found["a.weight"].dtype == np.float32 and found["a.n"].dtype == np.int64


def test_the_format_of_safetensors_is_its_documentations(tmp_path: Path) -> None:
    """Written by hand: a header of JSON after its length, then the bytes."""
    parts = {
        "half": ("F16", [2], np.array([1.5, -2], "<f2").tobytes()),
        "brain": ("BF16", [2, 1], np.array([0x3FC0, 0xC000], "<u2").tobytes()),
        "whole": ("I64", [], np.int64(7).tobytes()),
    }
    header: dict[str, Any] = {"__metadata__": {"by": "hand"}}
    data = b""
    for name, (kind, shape, content) in parts.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    file = tmp_path / "net.safetensors"

    def write() -> None:
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data)

    write()
    found = read_weights(file).arrays
    assert found["half"].tolist() == [1.5, -2] and found["brain"].tolist() == [[1.5], [-2]]
    assert found["brain"].dtype == np.float32 and found["whole"].tolist() == 7
    header["half"]["dtype"] = "F8_E4M3"
    write()
    assert "array 'half': expected one of F64, " in refusal(lambda: read_weights(file))


def python2(array: np.ndarray) -> bytes:
    """What Python 2 pickled a dictionary with a list of one float32 vector to, with protocol 2."""
    data = array.tobytes()
    return (
        b"\x80\x02}U\x0cparam values](cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K" + bytes([array.size]) + b"\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(data)])
        + data
        + b"tbes."
    )


def test_lists_of_lasagnes_parameters_have_only_an_order(tmp_path: Path) -> None:
    values = [numbers(2, 3), numbers(3), *(numbers(1) for _ in range(10))]
    np.savez(tmp_path / "net.npz", *values)
    files = [tmp_path / "net.npz"]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        zoo = {"param values": values, "mean value": values[1], "synset words": ["cat"], "model name": "net"}
        for name, content in (("zoo", zoo), ("old", {"values": values}), ("list", values)):
            files.append(tmp_path / f"{name}{protocol}.pkl")
            files[-1].write_bytes(pickle.dumps(content, protocol))
    for file in files:
        weights = read_weights(file)
        assert weights.ordered and same(weights.arrays, {str(i): v for i, v in enumerate(values)}), file
    (tmp_path / "python2.pkl").write_bytes(python2(values[1]))
    assert same(read_weights(tmp_path / "python2.pkl").arrays, {"0": values[1]})
    (tmp_path / "named.pkl").write_bytes(pickle.dumps({"a.b": values[0], "epoch": 3}))
    weights = read_weights(tmp_path / "named.pkl")
    assert not weights.ordered and list(weights.arrays) == ["a.b"]


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    done, file = tmp_path / "done", tmp_path / "net"
    file.write_bytes(pickle.dumps({"param values": [Evil(done)]}))
    assert refusal(lambda: read_weights(file)) == (
        f"weights {file}: expected arrays and containers, got a pickle that would load '{open.__module__}.open'"
    )
    file.write_bytes(b"cbuiltins\neval\n(Vopen('done', 'w')\ntR.")
    assert refusal(lambda: read_weights(file)).endswith("would load 'builtins.eval'")
    file.write_bytes(b"c_codecs\nencode\n(Vx\nVzlib_codec\ntR.")
    assert "UnpicklingError: bytes as text in zlib_codec" in refusal(lambda: read_weights(file))
    torch.save({"a.weight": Evil(done)}, file)
    assert f"would load {open.__module__}.open, which is not executed" in refusal(lambda: read_weights(file))
    torch.save(nn.Linear(2, 3), file)
    assert "would load torch.nn.modules.linear.Linear" in refusal(lambda: read_weights(file))
    np.savez(tmp_path / "net.npz", a=np.array([Evil(done)], dtype=object))
    assert "ValueError: Object arrays cannot be loaded" in refusal(lambda: read_weights(tmp_path / "net.npz"))
    assert not done.exists()


def test_a_damaged_number_in_a_pickle_makes_no_room_for_gigabytes(tmp_path: Path) -> None:
    file = tmp_path / "net.pkl"
    # A memo of 2³¹ objects, of which the reader in C makes 32 GB; a bytearray of 2³⁴ bytes.
    for content in (
        b"\x80\x02]r\xff\xff\xff\x7f",
        b"\x80\x05\x96" + (1 << 34).to_bytes(8, "little") + b"x.",
    ):
        file.write_bytes(content)
        tracemalloc.start()
        refused = "weights" in refusal(lambda: read_weights(file))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert refused and peak < 1 << 20


def test_a_checkpoint_opens_with_h5py_under_the_names_that_it_has(tmp_path: Path) -> None:
    checkpoint.save(
        tmp_path / "c.h5", {f"weights/{k}": v for k, v in ARRAYS.items()} | {"arrays/x": numbers(2)}, {}
    )
    with h5py.File(tmp_path / "c.h5") as file:
        assert same({name: file[f"weights/{name}"][()] for name in ARRAYS}, ARRAYS)
    assert len(checkpoint.load(tmp_path / "c.h5")[0]) == len(ARRAYS) + 1
    old = Path(__file__).parent / "data/written_by_0.1.0/run_cdd"
    assert read_weights(old).arrays and read_weights(old / "checkpoint.h5").sha256 == read_weights(old).sha256
    checkpoint.save(tmp_path / "c.h5", {"velocity/a": numbers(2)}, {})
    assert refusal(lambda: read_weights(tmp_path / "c.h5")).endswith(
        "a checkpoint with weights/…, got one without"
    )


# Networks.


def network(classes: int = 7) -> Layer:
    net = InputLayer((4, 3, 8, 8))
    net = Conv2DLayer(net, 6, (3, 2), flip_filters=True, nonlinearity=None, name="features.conv")
    net = BatchNormLayer(net, epsilon=1e-5, name="features.bn")
    net = NINLayer(net, 5, name="nin")
    net = DenseLayer(net, 9, name="hidden")
    return NonlinearityLayer(DenseLayer(net, classes, nonlinearity=None, name="scores"), softmax)


class Network(nn.Module):
    """The same in torch up to the softmax, with another name for one layer."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        self.features = nn.ModuleDict({"conv": nn.Conv2d(3, 6, (3, 2)), "bn": nn.BatchNorm2d(6)})
        self.nin, self.hidden, self.fc = nn.Conv2d(6, 5, 1), nn.Linear(5 * 6 * 7, 9), nn.Linear(9, classes)
        for name, value in self.state_dict().items():
            if value.is_floating_point():
                value.copy_(
                    torch.from_numpy(np.asarray(RNG.uniform(-0.5, 0.5, value.shape) + ("var" in name)))
                )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.nin(self.features["bn"](self.features["conv"](x))))
        return self.fc(torch.relu(self.hidden(x.flatten(1))))


NAMES = {"scores": "fc"}


def of(arrays: Arrays, *, ordered: bool = False) -> Weights:
    return Weights(arrays, ordered, Path("net"), "")


def state_of(module: nn.Module, prefix: str = "") -> Arrays:
    return {prefix + name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}


def test_weights_of_torch_compute_the_same_here_and_ours_there() -> None:
    reference, net, images = Network().eval(), network(), numbers(4, 3, 8, 8)
    scores = get_output(net.input_layers[0], device.shared(images), deterministic=True)
    ours = pytensor.function([], scores, mode=device.mode())

    def agree() -> None:
        with torch.no_grad():
            expected = reference(torch.from_numpy(images)).numpy()
        assert expected.std() > 0.1 and np.abs(ours() - expected).max() < 1e-5 * np.abs(expected).max()

    fitted = fit(of(state_of(reference)), [net], NAMES)
    assert not fitted.left and not fitted.unused and len(fitted.values) == len(get_all_params(net))
    for p in get_all_params(net):
        p.set_value(fitted.values[p.name])
    agree()
    set_all_param_values(net, [value * RNG.uniform(0.9, 1.1) for value in get_all_param_values(net)])
    state = as_torch({p.name: p.get_value() for p in get_all_params(net)}, [net], NAMES)
    reference.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in state.items()})
    agree()


IMAGES = (2, 4, 5, 6)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("layer", "module", "shape"),
    [
        (Conv1DLayer, nn.Conv1d(4, 4, 3), (2, 4, 5)),
        (Conv3DLayer, nn.Conv3d(4, 4, 3), (2, 4, 5, 4, 3)),
        (TransposedConv2DLayer, nn.ConvTranspose2d(4, 4, 3), IMAGES),
        (TransposedConv3DLayer, nn.ConvTranspose3d(4, 4, 3), (2, 4, 3, 2, 3)),
        (DilatedConv2DLayer, nn.Conv2d(4, 4, 3, dilation=2), IMAGES),
        (Conv2DCCLayer, nn.Conv2d(4, 4, 3), IMAGES),
        ("c01b", nn.Conv2d(4, 4, 3), IMAGES),
        ("NIN c01b", nn.Conv2d(4, 4, 1), IMAGES),
    ],
)
def test_filters_of_torch_are_those_of_each_layer_whichever_way_it_turns_them(
    layer: Any, module: nn.Module, shape: tuple[int, ...], flip: bool
) -> None:
    """All have as many filters as channels, so that axes in a wrong order still fit."""
    images, about = numbers(*shape), {"nonlinearity": None, "name": "conv"}
    c01b = isinstance(layer, str)
    incoming = InputLayer((*shape[1:], shape[0]) if c01b else shape)
    if layer is DilatedConv2DLayer:
        if flip:
            return  # it has none that are flipped
        net: Layer = layer(incoming, 4, 3, dilation=2, **about)
    elif layer == "NIN c01b":
        net = NINLayer_c01b(incoming, 4, **about)
    elif layer == "c01b":
        net = Conv2DCCLayer(incoming, 4, 3, dimshuffle=False, flip_filters=flip, **about)
    else:
        net = layer(incoming, 4, 3, flip_filters=flip, **about)
    state = state_of(module, "conv.")
    for p in get_all_params(net):
        p.set_value(fit(of(state), [net]).values[p.name])
    given = np.moveaxis(images, 0, -1) if c01b else images
    output = get_output(net, device.shared(np.ascontiguousarray(given)))
    ours = pytensor.function([], output, mode=device.mode())()
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    assert np.abs((np.moveaxis(ours, -1, 0) if c01b else ours) - expected).max() < 1e-5
    assert same(as_torch({p.name: p.get_value() for p in get_all_params(net)}, [net], {}), state)


def test_our_own_names_and_lasagnes_order_keep_every_bit() -> None:
    net = network()
    values = {p.name: numbers(*p.type.shape) for p in get_all_params(net)}
    assert same(fit(of(values), [net]).values, values)
    ordered = {str(i): value for i, value in enumerate(values.values())}
    assert same(fit(of(ordered, ordered=True), [net]).values, values)
    ordered.pop("0")
    text = refusal(lambda: fit(of(ordered, ordered=True), [net]))
    assert (
        text
        == f"weights net: expected {len(values)} arrays in the order of get_all_params, got {len(values) - 1}"
    )


def test_a_head_of_another_size_is_left_out_and_named() -> None:
    net, state = network(classes=3), state_of(Network())
    fitted = fit(of(state), [net], NAMES)
    assert fitted.left == ["scores.W", "scores.b"] and fitted.unused == ["fc.weight", "fc.bias"]
    assert "hidden.W" in fitted.values and "scores.b" not in fitted.values
    without = {name: value for name, value in state.items() if not name.startswith("fc")}
    fitted = fit(of(without | {"other.bias": numbers(2)}), [net], NAMES)
    assert fitted.left == ["scores.W", "scores.b"] and fitted.unused == ["other.bias"]
    two = [net, DenseLayer(NonlinearityLayer(net), 2, name="second")]
    assert fit(of(state), two, NAMES).left == ["scores.W", "scores.b", "second.W", "second.b"]


@pytest.mark.parametrize("given", ["", "module", "module."])
def test_a_beginning_of_all_names_need_not_be_given(given: str) -> None:
    state = state_of(Network(), "module.")
    assert not fit(of(state), [network()], NAMES, prefix=given).left
    assert not fit(of(state_of(Network(), "model.module.")), [network()], NAMES, prefix="").left
    two = state | state_of(Network(3), "teacher.")
    if given:
        assert not fit(of(two), [network()], NAMES, prefix=given).left
    else:
        text = refusal(lambda: fit(of(two), [network()], NAMES))
        assert text.startswith(
            "weights net: array 'features.conv.W': expected shape (6, 3, 3, 2), got no such array"
        )
    assert "expected names that begin with 'modul.', got module." in refusal(
        lambda: fit(of(two), [network()], NAMES, prefix="modul")
    )


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("hidden.weight", numbers(9, 3), "expected shape (9, 210), got (9, 3)"),
        ("nin.weight", numbers(5, 6), "expected shape (5, 6, 1, 1), got (5, 6)"),
        ("hidden.bias", np.arange(9), "expected dtype float32, got int64"),
        ("hidden.bias", np.full(9, np.nan, np.float32), "expected finite numbers, got 9 that are not"),
        ("hidden.bias", np.full(9, 1e300), "expected finite numbers, got 9 that are not"),
        (
            "features.bn.running_var",
            np.array([1, 2, 3, 4, -1, np.inf], np.float32),
            "expected finite numbers, got 1",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(name: str, value: np.ndarray, problem: str) -> None:
    text = refusal(lambda: fit(of(state_of(Network()) | {name: value}), [network()], NAMES))
    assert text.startswith(f"weights net: array {name!r}: {problem}")


def test_a_file_of_another_network_is_one_line() -> None:
    text = refusal(lambda: fit(of({"a.weight": numbers(2)}), [DenseLayer((4, 3), 2, name="fc")]))
    line = (
        "weights net: array 'fc.W': expected shape (3, 2), got no such array, nor 'fc.weight', among a.weight"
    )
    assert text == line
    text = refusal(
        lambda: fit(of({"fc.W": numbers(3, 4), "fc.b": numbers(4)}), [DenseLayer((4, 3), 2, name="fc")])
    )
    assert text == "weights net: array 'fc.W': expected shape (3, 2), got (3, 4)"
    values = {p.name: numbers(*p.type.shape) for p in get_all_params(network())}
    values["hiden.W"] = values.pop("hidden.W")
    text = refusal(lambda: fit(of(values), [network()]))
    assert text.endswith(
        "expected shape (210, 9), got no such array, nor 'hidden.weight'; did you mean 'hiden.W'?"
    )


# ResNet-50.


def torchvisions() -> list[str]:
    """The modules with parameters of torchvision's resnet50, by its documentation."""
    found = ["conv1", "bn1", "fc"]
    for layer, blocks in enumerate((3, 4, 6, 3), 1):
        for i in range(blocks):
            found += [f"layer{layer}.{i}.{kind}{j}" for j in (1, 2, 3) for kind in ("conv", "bn")]
        found += [f"layer{layer}.0.downsample.0", f"layer{layer}.0.downsample.1"]
    return found


def test_resnet50_computes_the_scores_of_a_state_dict_of_torchvision() -> None:
    """The reference has the zoo's names: here they become torchvision's by their place, not by the mapping."""
    reference = ReferenceResNet50(3, 10).eval()
    with torch.no_grad():
        for name, value in reference.state_dict().items():
            if "bn" in name and value.is_floating_point():
                value.copy_(torch.rand(value.shape) * 0.5 + 0.5)
    stages = {"2": "layer1", "3": "layer2", "4": "layer3", "5": "layer4"}
    parts = {"2a": "1", "2b": "2", "2c": "3"}
    state = {}
    for name, value in state_of(reference).items():
        zoo, suffix = name.removeprefix("layers.").rsplit(".", 1)
        block = re.fullmatch(r"(res|bn)(\d)([a-f])_branch(1|2[abc])", zoo)
        if block:
            kind, stage, letter, branch = block.groups()
            norm = kind == "bn"
            inner = (
                f"downsample.{int(norm)}" if branch == "1" else f"{'bn' if norm else 'conv'}{parts[branch]}"
            )
            module = f"{stages[stage]}.{ord(letter) - ord('a')}.{inner}"
        else:
            module = {"conv1": "conv1", "bn_conv1": "bn1", "fc1000": "fc"}[zoo]
        state[f"{module}.{suffix}"] = value
    assert {name.rsplit(".", 1)[0] for name in state} == set(torchvisions()) == set(torch_names().values())

    net, images = build_model((2, 3, 32, 32), 10), numbers(2, 3, 32, 32)
    fitted = fit(of(state), [net["prob"]], torch_names())
    assert not fitted.left and not fitted.unused
    for p in get_all_params(net["prob"]):
        p.set_value(fitted.values[p.name])
    scores = get_output(net["fc1000"], device.shared(images), deterministic=True)
    with torch.no_grad():
        expected = reference(torch.from_numpy(images)).numpy()
    found = pytensor.function([], scores, mode=device.mode())()
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


# The other networks of torchvision.


class TorchVGG11(nn.Module):
    """VGG11 for pictures of 32 × 32, its modules named and numbered as in torchvision."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for times in (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8, 0):
            if times == 0:
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, times * width, 3, padding=1), nn.ReLU()]
                channels = times * width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            *(nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, 10)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))


class DenseLayerOfTorch(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = (
            nn.BatchNorm2d(4 * growth),
            nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())
        return torch.cat([x, inner], 1)


class TorchDenseNet(nn.Module):
    """A DenseNet, its modules named as in torchvision."""

    def __init__(self, blocks: tuple[int, ...], growth: int) -> None:
        super().__init__()
        channels = 2 * growth
        features: dict[str, nn.Module] = {
            "conv0": nn.Conv2d(3, channels, 7, 2, 3, bias=False),
            "norm0": nn.BatchNorm2d(channels),
            "relu0": nn.ReLU(),
            "pool0": nn.MaxPool2d(3, 2, 1),
        }
        for i, layers in enumerate(blocks, 1):
            block = nn.Sequential()
            for j in range(1, layers + 1):
                block.add_module(f"denselayer{j}", DenseLayerOfTorch(channels, growth))
                channels += growth
            features[f"denseblock{i}"] = block
            if i < len(blocks):
                parts = {
                    "norm": nn.BatchNorm2d(channels),
                    "relu": nn.ReLU(),
                    "conv": nn.Conv2d(channels, channels // 2, 1, bias=False),
                    "pool": nn.AvgPool2d(2, 2),
                }
                features[f"transition{i}"] = nn.Sequential(OrderedDict(parts))
                channels //= 2
        features["norm5"] = nn.BatchNorm2d(channels)
        self.features, self.classifier = nn.Sequential(OrderedDict(features)), nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("reference", "net", "names"),
    [
        (
            TorchVGG11(4, 8),
            vgg.build_model((2, 3, 32, 32), 10, configuration="A", width=4, hidden=8),
            vgg.torch_names("A"),
        ),
        (
            TorchDenseNet((1, 2, 1), 8),
            densenet.build_model((2, 3, 32, 32), 10, blocks=(1, 2, 1), growth=8),
            densenet.torch_names((1, 2, 1)),
        ),
    ],
    ids=["VGG", "DenseNet"],
)
def test_others_compute_the_scores_of_a_state_dict_of_torchvision(
    reference: nn.Module, net: dict[str, Layer], names: dict[str, str]
) -> None:
    scores_agree(reference, net["fc8" if "fc8" in net else "classifier"], names, numbers(2, 3, 32, 32))


def scores_agree(reference: nn.Module, scores: Layer, names: dict[str, str], images: np.ndarray) -> None:
    """Assert that all of a module's weights fit, and that it then gives our scores."""
    reference.eval()
    with torch.no_grad():
        for name, value in reference.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape) * 0.5 + 0.5)
    fitted = fit(of(state_of(reference)), [scores], names)
    assert not fitted.left and not fitted.unused
    for p in get_all_params(scores):
        p.set_value(fitted.values[p.name])
    found = pytensor.function(
        [], get_output(scores, device.shared(images), deterministic=True), mode=device.mode()
    )()
    with torch.no_grad():
        expected = reference(torch.from_numpy(images)).numpy()
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_networks_have_torchvisions_names_and_scores() -> None:
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs a torchvision that fits this torch: {error}")
    net = inception_v3.build_model((2, 3, 299, 299), 10)
    googlenet = googlenet_bn.build_model((2, 3, 224, 224), 10)
    both = ConcatLayer([net["fc"], net["AuxLogits_fc"]])
    fit(of(state_of(models.inception_v3(num_classes=10, init_weights=False))), [both],
        inception_v3.torch_names(net.values()))  # fmt: skip
    for reference, scores, names in (
        (models.vgg11(num_classes=10), vgg.build_model((2, 3, 224, 224), 10, configuration="A")["fc8"],
         vgg.torch_names("A")),
        (models.densenet121(num_classes=10), densenet.build_model((2, 3, 224, 224), 10)["classifier"],
         densenet.torch_names()),
        (models.alexnet(num_classes=10), one_tower.build_model((2, 3, 224, 224), 10)["fc8"],
         one_tower.TORCH_NAMES),
        (models.googlenet(num_classes=10, aux_logits=False, init_weights=False), googlenet["fc"],
         googlenet_bn.torch_names(googlenet.values())),
        (models.resnet50(num_classes=10), build_model((2, 3, 224, 224), 10)["fc1000"], torch_names()),
    ):  # fmt: skip
        scores_agree(reference, scores, names, numbers(2, 3, 224, 224))


# Runs.

SETTINGS: dict[str, Any] = {
    "modelfile": "small_models",
    "modelclass": "Normalised",
    "batch_size": 4,
    "accumulation": 1,
    "max_iterations": 3,
    "seed": 3,
    "base_lr": 0.01,
    "devices": ["cpu"],
}


def well(n: int, out: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    done = run_warm(n, {**SETTINGS, "out": str(out), **settings})
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The folder of a run of two ranks, the file that it has started from, and what it printed."""
    folder = tmp_path_factory.mktemp("begun")
    module = nn.ModuleDict({
        "conv0": nn.Conv2d(1, 8, 3, bias=False), "bn0": nn.BatchNorm2d(8),
        "conv1": nn.Conv2d(8, 16, 3, bias=False), "bn1": nn.BatchNorm2d(16), "dense": nn.Linear(16, 5),
    })  # fmt: skip
    torch.save({"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}}, folder / "net.pt")
    # So small a rate that weights stay what they are.
    done = well(2, folder / "run", init=str(folder / "net.pt"), base_lr=1e-30, max_iterations=1)
    return folder / "run", folder / "net.pt", done.stdout


def test_all_ranks_of_a_run_start_from_the_file(begun: tuple[Path, Path, str]) -> None:
    run, file, printed = begun
    config, found, state = (
        json.loads((run / "config.json").read_text()),
        read_weights(run),
        read_weights(file),
    )
    assert config["init"] == str(file) and config["init_sha256"] == state.sha256
    line = f"weights of {file} (SHA-256 {state.sha256[:12]}): 10 of 12 arrays; left at their initial values: "
    assert line + "dense.W, dense.b; not used: dense.weight, dense.bias\n" in printed
    for name, there in (("conv0.W", "conv0.weight"), ("bn1.gamma", "bn1.weight"), ("bn0.beta", "bn0.bias")):
        np.testing.assert_allclose(
            found.arrays[name], state.arrays[f"module.{there}"], atol=1e-25, err_msg=name
        )
    assert found.arrays["dense.W"].std() > 0 and np.abs(found.arrays["dense.b"]).max() < 1e-25


def test_two_ranks_go_on_from_a_checkpoint_as_one(begun: tuple[Path, Path, str], tmp_path: Path) -> None:
    run, _, _ = begun
    well(2, tmp_path / "two", init=str(run))
    well(1, tmp_path / "one", init=str(run / "checkpoint.h5"), accumulation=2)
    two, one, first = (read_weights(folder).arrays for folder in (tmp_path / "two", tmp_path / "one", run))
    for name, value in two.items():
        np.testing.assert_allclose(value, one[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert all((two[name] != first[name]).any() for name in two)
    # Whoever resumes has the checkpoint, and needs no file to start from.
    well(1, tmp_path / "one", init="gone.npz", accumulation=2, max_iterations=4, resume=True)


def test_what_does_not_fit_ends_a_run_with_one_line(
    begun: tuple[Path, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, _ = begun
    model = Plain(SETTINGS | {"init": str(run), "modelclass": "Plain"})
    (tmp_path / "net.pkl").write_bytes(pickle.dumps([Evil(tmp_path / "done")]))
    for init, words in (
        (run, "array 'conv.W': expected shape (8, 1, 3, 3), got no such array, nor 'conv.weight'"),
        (tmp_path / "net.pkl", f"would load '{open.__module__}.open'"),
    ):
        with pytest.raises(SystemExit):
            start_from(model, replace(model.config, init=str(init)), MPI.COMM_SELF)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("theanompi: weights ") and words in line
    model.cleanup()


def test_what_is_not_there_is_said_before_anything_starts(tmp_path: Path) -> None:
    config = RunConfig(init=str(tmp_path / "net.pt#module"))
    text = refusal(lambda: check(config))
    assert text.startswith("init: expected a file of weights or the folder of a run, got ")
    (tmp_path / "net.pt").touch()
    check(config)
    (tmp_path / "net.pt#module").touch()
    assert split_prefix(str(tmp_path / "net.pt#module")) == (str(tmp_path / "net.pt#module"), "")


# The command.


def test_export_writes_each_format(
    begun: tuple[Path, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, _ = begun
    expected = read_weights(run).arrays
    for ending in ENDINGS:
        out = str(tmp_path / f"net{ending}")
        assert cli.main(["export", str(run), "-o", out]) == 0
        assert same(read_weights(out).arrays, expected)
    assert capsys.readouterr().out.startswith(f"{tmp_path}/net.safetensors: 12 arrays, 1,490 numbers")
    for source in [*tmp_path.iterdir()]:
        assert cli.main(["export", str(source), "-o", str(tmp_path / "again.pt"), "--overwrite"]) == 0
        assert same(read_weights(tmp_path / "again.pt").arrays, expected)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["export", str(run), "-o", out])
    assert capsys.readouterr().err.endswith(
        "expected no file of this name, got one; --overwrite replaces it\n"
    )


def test_export_has_torchs_names_and_layout(begun: tuple[Path, Path, str], tmp_path: Path) -> None:
    run, file, _ = begun
    assert cli.main(["export", str(run), "-o", str(tmp_path / "net.pt"), "--torch-names"]) == 0
    state = torch.load(tmp_path / "net.pt", weights_only=True)
    arrays, before = read_weights(run).arrays, read_weights(file).arrays
    assert np.array_equal(state["dense.weight"].numpy(), arrays["dense.W"].T)
    assert np.array_equal(state["conv0.weight"].numpy(), before["module.conv0.weight"])
    assert {*state} == {name.removeprefix("module.") for name in before if "num_batches" not in name}
