"""The Triton kernels without a GPU: what they compute, in Triton's interpreter, and what they compile to, for sm_90."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytensor
import pytest
import torch
from pytensor.scalar.basic import Composite, float32

from tests.mpi import ROOT
from tests.without_memory import GpuWithoutMemory, compiled
from theanompi import device
from theanompi.device import ops, placement
from theanompi.device.ops import softmax_cross_entropy
from theanompi.device.triton import OPTIONS
from theanompi.lasagne.layers import get_all_params, get_output
from theanompi.lasagne.updates import momentum
from theanompi.models.resnet50 import build_model

triton = pytest.importorskip("triton", reason="needs Triton: pip install -e '.[triton]'")
# Imported only where Triton is.
crop = pytest.importorskip("theanompi.device.triton.crop")
elemwise = pytest.importorskip("theanompi.device.triton.elemwise")
norm = pytest.importorskip("theanompi.device.triton.norm")
pool = pytest.importorskip("theanompi.device.triton.pool")

# Triton 3.8 builds a piece of syntax in a way that Python 3.15 is to refuse.
pytestmark = pytest.mark.filterwarnings("ignore:AnnAssign.__init__ missing 1 required:DeprecationWarning")

FLOAT32, BFLOAT16, GRAPH = 4e-6, 2**-7, 2e-5
"""Largest errors beside the largest value; of a sum that is rounded to bfloat16 two such roundings; of layers on top of
each other, where torch's own calls in float32 come to 6e-6."""
GRAPHS = "graph", "graph of branches", "graph of biases"
REGISTERS = {torch.float32: 168, torch.bfloat16: 128}
"""Of a thread: three and four programs of 128 threads fit into a multiprocessor then; PROGRAMS expects four."""


@pytest.fixture(autouse=True)
def one_parser_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 before its version 8 counts the depths of syntax trees of all threads together, and fails."""
    lock, parse = threading.Lock(), ast.parse

    def locked(*args: Any, **options: Any) -> Any:
        with lock:
            return parse(*args, **options)

    monkeypatch.setattr(ast, "parse", locked)


@pytest.fixture(scope="module")
def cases() -> dict[str, dict[str, Any]]:
    """What each kernel computed, by case."""
    if np.lib.NumpyVersion(triton.__version__) < "3.7.0" and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("Triton's interpreter knows NumPy 2.4 and later from Triton 3.7 on")
    program = ROOT / "tests" / "triton_program.py"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = map(json.loads, done.stdout.splitlines())
    return {row["case"]: row for row in found}


def test_kernels_compute_what_numpy_computes_in_float64(cases):
    """At small odd shapes, into memory full of NaN."""
    wrong = [
        f"{name}: {what} is off by {error:.1e}"
        for name, row in cases.items()
        for what, error in row["errors"].items()
        if not error <= (BFLOAT16 if what in row["narrow"] else GRAPH if name in GRAPHS else FLOAT32)
    ]
    assert not wrong
    assert len(cases) >= 62


def test_kernels_give_equal_bits_twice(cases):
    assert [name for name, row in cases.items() if not row["same"]] == []


class Launches:
    """In the place of a kernel: keeps with what it was to be started."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.made = kernel, list[tuple[tuple[Any, ...], dict[str, Any]]]()

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert all(n > 0 for n in grid) and all(n < 2**16 for n in grid[1:])
        return lambda *args, **options: self.made.append((args, options))


NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int8: "i8", torch.uint8: "u8"}


def source(kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What Triton compiles for a launch: pointers and sizes that 16 divides are known to be so, and ones to be 1."""
    signature, constants, attributes = dict[str, str](), dict[str, Any](), dict[tuple[int, ...], Any]()
    values = dict(zip(kernel.arg_names, args, strict=False)) | options
    for index, name in enumerate(kernel.arg_names):
        value = values[name]
        if isinstance(value, torch.Tensor):
            signature[name] = f"*{NAMES[value.dtype]}"
        elif value is None or index >= len(args) or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
        if isinstance(value, torch.Tensor) or (signature[name] == "i32" and value % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    return triton.compiler.ASTSource(kernel, signature, constants, attributes)


INNER = ("_floats", "_cotangent", "_keep_bits", "_kept_bits", "_weight", "_gathered")


def launches(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> Iterator[tuple[str, Any, Any]]:
    """All that a layer of ResNet-50 starts, on tensors without memory: name, source, options."""
    recorded: dict[str, Launches] = {}
    for module in (crop, norm, pool):
        for name, kernel in vars(module).items():
            # What only other kernels call has no grid of its own.
            if isinstance(kernel, triton.JITFunction) and name not in INNER:
                recorded[name] = Launches(kernel)
                monkeypatch.setattr(module, name, recorded[name])
    shape = (256, 64, 56, 56)
    x, residual, gy, gy2 = (
        torch.empty(shape, dtype=dtype, device="meta").contiguous(memory_format=torch.channels_last)
        for _ in range(4)
    )
    vectors = [torch.empty(64, device="meta") for _ in range(4)]
    gamma, beta, mean, inv_std = vectors
    y, *_ = norm.forward(x, gamma, beta, residual, epsilon=1e-5, rectify=True)
    norm.forward(x, gamma, beta, epsilon=1e-5, rectify=True)
    norm.backward(gy, x, gamma, mean, inv_std, y, keep=True)
    norm.backward(gy, x, gamma, mean, inv_std, y)
    norm.backward(gy, x, gamma, mean, inv_std, beta=beta, gy2=gy2)
    ends = {"epsilon": 1e-5, "epsilon2": 1e-5, "keep": True}
    *_, bits = norm.block_end(x, gamma, beta, residual, **ends)
    norm.block_end(x, gamma, beta, residual, gamma, beta, **ends)
    norm.backward(gy, x, gamma, mean, inv_std, bits=bits, gy2=gy2, keep=True)
    norm.biased(x, beta)
    norm.biased_backward(gy, y)
    projection = residual, gamma, mean, inv_std
    norm.backward(gy, x, gamma, mean, inv_std, bits=bits, gy2=gy2, projection=projection)
    geometry = (3, 3), (2, 2), (1, 1)
    pooled, places = pool.forward(x, *geometry, (28, 28))
    pool.backward(pooled, x, places, *geometry)
    _, *statistics, places = pool.normalised_forward(x, gamma, beta, *geometry, (28, 28), epsilon=1e-5)
    pool.normalised_backward(
        *(pooled, x, gamma, beta, *statistics, places), size=(3, 3), stride=(2, 2), padding=(1, 1)
    )
    images, boxes = (
        torch.empty(256, 3, 256, 256, dtype=torch.uint8, device="meta"),
        torch.empty(256, 7, device="meta"),
    )
    crop.crop(images, boxes, gamma, beta, size=224, dtype=dtype)
    crop.crop(images, boxes, size=224, dtype=dtype)
    if dtype == torch.float32:
        # Sizes of 1 are constants for Triton.
        one, v = torch.empty(1, 1, 1, 1, device="meta"), torch.empty(1, device="meta")
        crop.crop(images[:, :1], boxes, size=1)
        _, *statistics, bits = norm.block_end(one, v, v, one, v, v, **ends)
        norm.backward(one, one, v, v, v, bits=bits, projection=(one, v, v, v))
        pooled, *statistics, places = pool.normalised_forward(one, v, v, *geometry, (1, 1), epsilon=1e-5)
        pool.normalised_backward(
            *(pooled, one, v, v, *statistics, places), size=(3, 3), stride=(2, 2), padding=(1, 1)
        )
        pool.backward(pooled, one, places, *geometry)
    if dtype == torch.float32:
        w, g, v, n = (float32(name) for name in "wgvn")
        velocity = n * v + (g + np.float32(0.0001) * w)
        graph = Composite([w, g, v, n], [w - velocity, velocity]).fgraph
        kernel = elemwise.kernel_of(graph.inputs, graph.outputs, graph.toposort(), {graph.inputs[3]})
        recorded["_elementwise"] = Launches(kernel)
        flat = [torch.empty(2**20, device="meta") for _ in range(5)]
        recorded["_elementwise"][(1,)](
            *flat[:3], torch.empty(1, device="meta"), *flat[3:], 2**20, ELEMENTS=elemwise.ELEMENTS
        )
    for name, kernel in recorded.items():
        assert kernel.made, f"{name} is never started"
        seen = set()
        for args, options in kernel.made:
            made = source(kernel.kernel, args, options)
            if (key := made.hash()) not in seen:
                seen.add(key)
                ones = ", of one" * any(isinstance(value, int) and value == 1 for value in args)
                chosen = OPTIONS | {k: v for k, v in options.items() if k == "maxnreg"}
                yield f"{name}, {len(seen)}, {NAMES[dtype]}{ones}", made, chosen


def step_of_resnet50(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """All kernels that a training step in bfloat16 starts: name, source, options."""
    made: list[tuple[Any, Any, Any]] = []
    monkeypatch.setattr(
        triton.JITFunction,
        "__getitem__",
        lambda kernel, grid: lambda *args, **options: made.append((kernel, args, options)),
    )
    monkeypatch.setattr(placement, "_current", torch.device("meta"))
    with GpuWithoutMemory():
        scores = build_model((4, 3, 64, 64))["fc1000"]
        x, y = device.shared(np.zeros((4, 3, 64, 64), "float32")), device.shared(np.zeros(4, "int64"))
        loss = softmax_cross_entropy(get_output(scores, x), y).mean()
        weights = get_all_params(scores, trainable=True)
        updates = momentum(loss, weights, learning_rate=0.1)
        compiled([], loss, updates=updates, precision="bf16")()
    for kernel, args, options in made:
        assert all(v.is_meta for v in args if isinstance(v, torch.Tensor))
        chosen = {k: v for k, v in options.items() if k in ("maxnreg", *OPTIONS)}
        yield kernel.fn.__name__, source(kernel, args, options), chosen


def test_a_step_of_resnet50_starts_kernels_that_compile_for_sm_90(monkeypatch):
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    started, sources = Counter[str](), {}
    for name, made, options in step_of_resnet50(monkeypatch):
        started[name] += 1
        sources[made.hash()] = made, options
    # 53 normalisations: 16 at the end of a block, of which 4 normalise a projection with it; one is pooled.
    assert started["_statistics"] == 53 and started["_pool"] == 1
    assert started["_apply"] == started["_sums_of_pieces"] == started["_gradient"] == 48
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(lambda one: triton.compile(one[0], target=target, options=one[1]), sources.values()))


def test_a_prediction_counts_each_operand_of_each_kernel_once(beside_the_benchmarks):
    """A convolution, a bias, a rectifier and their gradients at n = 2, of 8 filters, in bf16, by hand."""
    step_traffic = importlib.import_module("step_traffic")
    with step_traffic.counted() as traffic:
        x, w = (
            device.shared(np.zeros((2, 4, 6, 6), "float32")),
            device.shared(np.zeros((8, 4, 3, 3), "float32")),
        )
        b = device.shared(np.zeros(8, "float32"))
        out = ops.relu(ops.conv2d(x, w, padding=1) + b.dimshuffle("x", 0, "x", "x"))
        g_w, g_b = pytensor.grad(out.sum(), [w, b])
        step = compiled([], [], updates=[(w, g_w), (b, g_b)], precision="bf16")
        traffic.calls.clear()
        before = sum(traffic.held.values())
        with step_traffic.Gpu(traffic):
            step()
    x, y, w, b, pieces = 2 * 4 * 36, 2 * 8 * 36, 8 * 4 * 9, 4 * 8, 4 * 8 * 3
    kernels = [call for call in traffic.calls if call[0] not in ("_to_copy", "clone")]
    assert kernels == [
        ("_foreach_copy_", 4 * w, 2 * w),
        ("convolution", 2 * x + 2 * w, 2 * y),
        ("_apply", 2 * y + b, 2 * y),
        ("_sums_of_pieces", 2 * y + 2 * y, 2 * y + pieces),
        ("_sums", pieces, b),
        ("copy_", b, b),
        ("convolution_backward", 2 * y + 2 * x, 2 * w),
        ("copy_", 2 * w, 4 * w),
    ]
    # The output, its cotangent, in the end the gradient of the filters; both are bf16.
    assert 4 * y < traffic.peak - before < 4 * (4 * y + 4 * x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_for_sm_90_nothing_spills_and_memory_is_read_16_bytes_at_a_time(dtype, monkeypatch, tmp_path):
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

    def compiled(launch: tuple[str, Any, Any]) -> list[str]:
        name, made, options = launch
        file = tmp_path / f"{name}.cubin"
        file.write_bytes(triton.compile(made, target=target, options=options).asm["cubin"])
        run = [str(cuobjdump), "--dump-sass", "--dump-resource-usage", str(file)]
        text = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        (registers, stack), *more = re.findall(r"REG:(\d+) STACK:(\d+)", text)
        assert not more
        found = [f"{name}: a stack of {stack} bytes"] * (stack != "0")
        found += [f"{name}: {code}" for code in ("LDL", "STL") if re.search(rf"\b{code}\b", text)]
        found += [f"{name}: {registers} registers"] * (int(registers) > REGISTERS[dtype])
        passes_over_memory = not re.match(r"_statistics,|_sums,|.*, of one$", name)
        # A crop reads single bytes, and a thread writes four elements.
        crops = name.startswith("_crop,")
        access, bits = ("STG", 128 if dtype == torch.float32 else 64) if crops else ("LDG", 128)
        wide = not passes_over_memory or re.search(rf"\b{access}\.E[.\w]*\.{bits}\b", text)
        return found + [f"{name}: no {access} of {bits} bits"] * (not wide)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        wrong = threads.map(compiled, launches(monkeypatch, dtype))
        assert [line for lines in wrong for line in lines] == []
