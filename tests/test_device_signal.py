"""Fourier transforms and convolutions against PyTensor's interpreter."""

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from interpreter import DTYPES, assert_as_interpreted, on_device
from pytensor.compile.mode import Mode
from pytensor.tensor import fft, signal
from pytensor.tensor.signal.conv import Convolve1d, Convolve2d
from tolerance import assert_close

from theanompi import device

MODE = device.mode("cpu")
REFERENCE = Mode(linker="py", optimizer=None)


def compare(inputs: list[Any], outputs: list[Any], values: list[np.ndarray]) -> None:
    reference = pytensor.function(inputs, outputs, mode=REFERENCE)(*values)
    results = pytensor.function(inputs, outputs, mode=MODE)(*values)
    for got, expected, v in zip(results, reference, outputs, strict=True):
        assert_close(got, expected, str(v))


@pytest.mark.filterwarnings("ignore:.*axes.*:DeprecationWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 8), (3, 4, 5), (1, 7)])
def test_fourier_transforms_and_their_gradients(dtype: str, shape: tuple[int, ...]) -> None:
    x = pt.tensor("x", dtype=dtype, shape=(None,) * len(shape))
    value = np.random.default_rng(0).normal(size=shape).astype(dtype)
    outputs = []
    for norm in (None, "ortho"):
        spectrum = fft.rfft(x, norm=norm)
        again = fft.irfft(spectrum, norm=norm, is_odd=shape[-1] % 2 == 1)
        outputs += [spectrum, again, pytensor.grad((spectrum**3).sum() + (again**2).sum(), x)]
    compare([x], outputs, [value])


def test_a_fourier_transform_of_integers_is_refused() -> None:
    x = pt.matrix("x", dtype="int64")
    with pytest.raises(NotImplementedError, match="RFFTOp: not supported on the device: of int64"):
        pytensor.function([x], fft.rfft(x), mode=MODE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_convolutions(dtype: str) -> None:
    rng = np.random.default_rng(1)
    for n, k in ((7, 3), (3, 7), (4, 4), (5, 1)):
        for full in (True, False):
            values = [rng.integers(0, 9, length).astype(dtype) for length in (n, k)]
            line = Convolve1d()(pt.vector(dtype=dtype), pt.vector(dtype=dtype), np.bool_(full)).owner
            assert_as_interpreted(line, [*values, np.bool_(full)])
            if dtype not in ("bool", "float16"):
                values = [rng.integers(0, 9, (length, length + 1)).astype(dtype) for length in (n, k)]
                plane = Convolve2d("direct")(
                    pt.matrix(dtype=dtype), pt.matrix(dtype=dtype), np.bool_(full)
                ).owner
                assert_as_interpreted(plane, [*values, np.bool_(full)])


def test_convolutions_of_batches_and_their_gradients() -> None:
    x, k = pt.tensor3("x", dtype="float64"), pt.matrix("k", dtype="float64")
    rng = np.random.default_rng(2)
    values = [rng.normal(size=(2, 5, 6)), rng.normal(size=(3, 2))]
    outputs = []
    for mode in ("full", "valid", "same"):
        y = signal.convolve2d(x, k, mode=mode, method="direct")
        z = signal.convolve1d(x[0], k[0], mode=mode)
        outputs += [y, z, *pytensor.grad((y**2).sum() + (z**3).sum(), [x, k])]
    compare([x, k], outputs, values)


@pytest.mark.filterwarnings("ignore:.*axes.*:DeprecationWarning")
def test_what_is_no_number_is_none_in_the_whole_transform() -> None:
    x = pt.tensor3("x", dtype="float64")
    value = np.random.default_rng(3).normal(size=(3, 4, 2))
    value[0, 0, 1], value[1, 2, 0] = np.nan, np.nan
    with np.errstate(invalid="ignore"):
        compare([x], [fft.irfft(x)], [value])


def test_infinity_stays_where_it_is() -> None:
    node = Convolve1d()(pt.dvector(), pt.dvector(), np.True_).owner
    assert_as_interpreted(node, [np.array([1.0, 2, 3]), np.array([1, np.inf]), np.True_])
    with pytest.raises(ValueError, match="expected signals with elements"):
        on_device(node, [np.zeros(0), np.ones(2), np.True_])


def test_an_infinite_kernel_makes_nan_of_what_is_around_a_picture() -> None:
    x, kernel = pt.fmatrices("x", "kernel")
    values = [np.arange(12, dtype="float32").reshape(4, 3), np.float32([[1, np.inf], [-2, 3]])]
    for mode in ("full", "valid"):
        compare([x, kernel], [signal.convolve2d(x, kernel, mode=mode, method="direct")], values)
