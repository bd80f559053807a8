"""Shared variables on the device, flat buffers, and the names of devices."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytensor
import pytest
import torch
from tolerance import assert_close

from theanompi import device
from theanompi.device import placement

OLD = np.arange(6, dtype="float32").reshape(2, 3)


def test_get_and_set_value_copy() -> None:
    source = OLD.copy()
    w = device.shared(source, "w")
    address = w.tensor.data_ptr()
    source[:] = -1
    assert_close(w.get_value(), OLD)
    w.get_value()[:] = -1
    assert_close(w.get_value(), OLD)
    source[:] = 7
    w.set_value(source)
    source[:] = -1
    assert_close(w.get_value(), np.full((2, 3), 7, "float32"))
    assert w.tensor.data_ptr() == address


def test_get_value_of_the_storage() -> None:
    w = device.shared(OLD, "w")
    assert w.get_value(borrow=True, return_internal_type=True) is w.tensor
    clone = w.get_value(return_internal_type=True)
    clone.zero_()
    assert_close(w.get_value(), OLD)
    assert np.shares_memory(w.get_value(borrow=True), w.tensor.numpy())


def test_set_value_of_a_wrong_shape() -> None:
    w = device.shared(OLD, "kernel")
    with pytest.raises(ValueError, match=r"shared variable 'kernel': expected shape \(2, 3\), got \(3, 2\)"):
        w.set_value(OLD.T)
    with pytest.raises(ValueError, match=r"expected shape \(2, 3\), got \(3,\)"):
        w.set_value(OLD[0])
    assert_close(w.get_value(), OLD)


def test_set_value_converts_between_floats_but_not_into_integers() -> None:
    w, n = device.shared(OLD, "w"), device.shared(np.arange(3), "n")
    w.set_value(np.ones((2, 3), "float64"))
    assert_close(w.get_value(), np.ones((2, 3), "float32"))
    with pytest.raises(
        ValueError, match=r"shared variable 'n': expected values that torch.int64 can hold, got torch.float32"
    ):
        n.set_value(np.ones(3, "float32"))


def test_values_however_they_lie_in_memory() -> None:
    fixed = OLD.copy()
    fixed.flags.writeable = False
    for value in (OLD[::-1, ::-1], fixed, OLD.astype(">f4"), OLD.T.copy().T):
        w = device.shared(np.zeros((2, 3), "float32"), "w")
        w.set_value(value)
        assert_close(w.get_value(), np.array(value, "float32"))
        assert_close(device.shared(value).get_value(), np.array(value, "float32"))


def test_zero() -> None:
    w = device.shared(OLD, "w")
    tensor = w.tensor
    w.zero()
    assert w.tensor is tensor and not tensor.any()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float32", "float64"])
def test_type_of_the_value(dtype: str) -> None:
    w = device.shared(np.ones((1, 3), dtype), "w")
    assert w.type.dtype == dtype and w.type.shape == (1, 3) and w.get_value().dtype == dtype


def test_images_lie_channels_last_but_read_as_they_are() -> None:
    value = np.arange(120, dtype="float32").reshape(2, 3, 4, 5)
    w = device.shared(value)
    assert w.tensor.is_contiguous(memory_format=torch.channels_last)
    assert w.get_value().flags.c_contiguous
    assert_close(w.get_value(), value)


def test_a_tensor_becomes_the_storage() -> None:
    tensor = torch.zeros(3)
    w = device.shared(tensor, "w")
    w.set_value(np.ones(3, "float32"))
    assert tensor.tolist() == [1, 1, 1] and w.tensor is tensor


def test_rebind_moves_the_value_and_compiled_functions_follow() -> None:
    w = device.shared(OLD, "w")
    f = pytensor.function([], w * 2, updates=[(w, w + 1)], mode=device.mode("cpu"))
    f()
    home = torch.zeros(3, 2).T
    w.rebind(home)
    assert_close(f(), 2 * (OLD + 1))
    assert_close(home, OLD + 2)
    with pytest.raises(
        ValueError,
        match=r"'w': expected a tensor of shape \(2, 3\) and dtype torch.float32 on cpu, got \(3, 2\)",
    ):
        w.rebind(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"got \(2, 3\) and torch.float64"):
        w.rebind(torch.zeros(2, 3, dtype=torch.float64))


def test_function_on_a_flat_buffer_and_on_its_views() -> None:
    buffer = device.FlatBuffer({"W": (2, 3), "K": (2, 3, 2, 2), "s": ()})
    assert buffer.flat.shape == (31,) and buffer.flat.dtype == torch.float32 and buffer.flat.is_contiguous()
    assert {n: tuple(v.shape) for n, v in buffer.views.items()} == {"W": (2, 3), "K": (2, 3, 2, 2), "s": ()}
    assert buffer.offsets == {"W": (0, 6), "K": (6, 30), "s": (30, 31)}
    assert buffer.views["K"].is_contiguous(memory_format=torch.channels_last)
    w, k = device.shared(buffer.views["W"], "W"), device.shared(buffer.views["K"], "K")
    fill = pytensor.function([], [], updates=[(w, w + 1), (k, k - 1)], mode=device.mode("cpu"))
    fill()
    assert buffer.flat.tolist() == [1] * 6 + [-1] * 24 + [0]
    flat = device.shared(buffer.flat, "flat")
    pytensor.function([], [], updates=[(flat, flat * 3)], mode=device.mode("cpu"))()
    assert_close(w.get_value(), np.full((2, 3), 3, "float32"))
    assert_close(k.get_value(), np.full((2, 3, 2, 2), -3, "float32"))


@pytest.mark.parametrize("name", ["gpu", "cuda", "cuda0", "cpu:0", "cpu:", "cuda:x", ""])
def test_device_names(name: str) -> None:
    for use in (device.use, device.mode):
        with pytest.raises(ValueError, match=f"device: expected 'cpu' or 'cuda:N', got '{name}'"):
            use(name)


def test_missing_cuda_device() -> None:
    count = torch.cuda.device_count()
    for use in (device.use, device.mode):
        with pytest.raises(
            ValueError, match=rf"device 'cuda:{count}': expected one of the {count} CUDA devices"
        ):
            use(f"cuda:{count}")
    assert device.current().type == "cpu"


def test_shared_variables_go_to_the_current_device() -> None:
    assert device.use("cpu") == device.current() == device.shared(OLD).tensor.device == torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if there was a CUDA device, of which only settings are asked; they are as before afterwards."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(placement, "_current", torch.device("cpu"))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before = torch.get_deterministic_debug_mode()
    yield
    torch.set_deterministic_debug_mode(before)


@pytest.mark.parametrize("deterministic", [False, True])
def test_on_a_gpu_algorithms_are_the_fastest_or_those_of_equal_bits(gpu, deterministic):
    device.use("cuda:0", deterministic=deterministic)
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (
        not deterministic,
        deterministic,
    )
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == deterministic


def test_the_cpu_leaves_the_algorithms_of_gpus_alone(gpu):
    device.use("cpu", deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()


_BACKING = """
import sys, torch
from theanompi import device
def huge():
    for line in open("/proc/self/smaps_rollup"):
        name, *words = line.split()
        if name == "AnonHugePages:":
            return int(words[0]) // 1024
device.use("cpu")
before = huge()
kept = torch.ones(32 << 18)
for _ in range(2):
    tensor = torch.ones(64 << 18)
    del tensor
touched = huge() - before
device.use_huge_pages()
moved = huge() - before
more = torch.ones(128 << 18)
print(touched, moved, huge() - before, int(kept.sum() + more.sum()) >> 18)
"""


def test_the_heap_moves_to_huge_pages_when_asked_and_keeps_what_is_freed_and_what_is_not() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text(encoding="ascii"):
        pytest.skip("this system has no huge pages to give")
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc's heap is advised")
    done = subprocess.run(
        [sys.executable, "-c", _BACKING], capture_output=True, encoding="utf-8", check=True, timeout=60
    )
    touched, moved, with_more, ones = map(int, done.stdout.split())
    # Older kernels cannot move what there is, and some give huge pages unasked.
    release = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
    if release >= (6, 1) and "[madvise]" in setting.read_text(encoding="ascii"):
        assert touched < 10  # MiB
    assert moved >= 90 and with_more >= moved + 60
    assert ones == 160
