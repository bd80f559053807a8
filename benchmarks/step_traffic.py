"""What a step on a GPU reads and writes, kernel by kernel, told without a GPU: `step_profile.py --predict`.

Gradients and update are computed on tensors of torch's device "meta", which have shapes and no elements, as in
`tests/without_memory.py`. Each call of torch's that is no view counts what it reads and writes, each operand once; so
does each start of a Triton kernel, which does not run. A gather that reads an operand several times counts it once.
Needs Triton.
"""

import re
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import common
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.without_memory import GpuWithoutMemory
from theanompi.device import placement

VIEWS = set(
    """alias as_strided detach empty empty_like empty_strided expand lift_fresh permute select slice split squeeze t
    transpose unbind unsqueeze view _unsafe_view _reshape_alias""".split()
)
CONVOLUTIONS = "convolution", "convolution_backward"
WRITTEN_ONLY = "copy_", "fill_", "zero_", "_foreach_copy_"


def _bytes(tensors: list[torch.Tensor]) -> int:
    """Of the elements that lie in memory, of each tensor once."""
    own = {id(t): t for t in tensors}.values()
    shapes = ([n for n, stride in zip(t.shape, t.stride(), strict=True) if stride] for t in own)
    return sum(torch.Size(shape).numel() * t.element_size() for shape, t in zip(shapes, own, strict=True))


class Traffic(TorchDispatchMode):
    """Notes what each call reads and writes, and how much memory is held.

    Attributes
    ----------
    calls : list of (str, int, int)
        Name, bytes read, bytes written.
    peak : int
        The most bytes held at once, in blocks of 512 as the allocator gives them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int, int]] = []
        self.held, self.peak = dict[int, int](), 0
        self.simulated = False

    def note(self, name: str, read: list[torch.Tensor], written: list[torch.Tensor]) -> None:
        """Add a call, unless it is one that only the tensors without memory need."""
        if not self.simulated:
            self.calls.append((name, _bytes(read), _bytes(written)))

    def _hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.held and not self.simulated:
            self.held[key] = -(-storage.nbytes() // 512) * 512
            self.peak = max(self.peak, sum(self.held.values()))
            weakref.finalize(storage, self.held.pop, key, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.is_meta]
        name = func.overloadpacket.__name__
        read, written = list[torch.Tensor](), list[torch.Tensor]()
        arguments = [*zip(func._schema.arguments, args, strict=False)]
        arguments += [(a, kwargs[a.name]) for a in func._schema.arguments if a.name in kwargs]
        for argument, value in arguments:
            tensors = [t for t in tree_leaves(value) if isinstance(t, torch.Tensor) and t.is_meta]
            changed = argument.alias_info is not None and argument.alias_info.is_write
            written += tensors if changed else []
            read += [] if changed and (name in WRITTEN_ONLY or argument.kwarg_only) else tensors
        for t in made:
            self._hold(t)
        # Numbers of the CPU that are brought to "meta" are arguments of a kernel on a GPU.
        if name not in VIEWS and (read or (written and name in WRITTEN_ONLY) or (made and name == "full")):
            self.note(name, read, written or made)
        return out


class Gpu(GpuWithoutMemory):
    """The same, where layouts that are put right behind a convolution are no call."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        convolves = function in (torch.conv2d, torch.ops.aten.convolution_backward.default)
        if not convolves:
            return super().__torch_function__(function, types, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            x, w = args[:2] if function is torch.conv2d else args[1:3]
            self.traffic.simulated = True
            result = super().__torch_function__(function, types, args, kwargs)
            self.traffic.simulated = False
        made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        for t in made:
            self.traffic._hold(t)
        if function is torch.conv2d:
            self.traffic.note("convolution", [x, w], made)
        else:
            # Two kernels, each of which reads the cotangent.
            for gradient, other in ((result[0], w), (result[1], x)):
                if gradient is not None:
                    self.traffic.note("convolution_backward", [args[0], other], [gradient])
        return result


@contextmanager
def counted() -> Iterator[Traffic]:
    """Count what is computed on tensors without memory, on which shared variables then are; kernels are not run."""
    import triton  # only here: `step_profile.py` needs none of it to measure

    traffic = Traffic()

    def started(kernel: Any, grid: Any) -> Any:
        def launch(*args: Any, **options: Any) -> None:
            given = dict(zip(kernel.arg_names, args, strict=False)) | options
            tensors = {name: t for name, t in given.items() if isinstance(t, torch.Tensor)}
            stored = re.findall(r"(?:tl\.store|_keep_bits)\(\s*(\w+)", kernel.src)
            read = [t for name, t in tensors.items() if name not in stored]
            traffic.note(kernel.fn.__name__, read, [t for name, t in tensors.items() if name in stored])

        return launch

    with (
        mock.patch.object(placement, "_current", torch.device("meta")),
        mock.patch.object(triton.JITFunction, "__getitem__", started),
        traffic,
    ):
        yield traffic


def record(model: str, n: int, size: int) -> Traffic:
    """Record a step in bf16 of a rank by itself: without what arrives of the next batch, and workspaces of libraries.

    Parameters
    ----------
    model : str
        As ``resnet50:ResNet50``, of `theanompi.models`.
    n, size : int
        Images, and their height and width.

    Returns
    -------
    Traffic
    """
    module, _, name = model.partition(":")
    with tempfile.TemporaryDirectory() as folder, counted() as traffic:
        data = Path(folder, "noise.h5")
        common.write_synthetic(data, size, 2 * n)
        made = getattr(import_module(f"theanompi.models.{module}"), name)(
            {"data": str(data), "image_size": size, "batch_size": n, "precision": "bf16", "verbose": False}
        )
        made.compile_iter_fns()
        traffic.calls.clear()
        with Gpu(traffic):
            for gradients, update in zip(made._gradients, made._updates, strict=True):
                gradients()
                update()
    return traffic


def predict(model: str, batches: list[int], size: int, rate: float) -> dict[str, Any]:
    """Print and give what a step reads and writes.

    Parameters
    ----------
    model, size
        As of `record`.
    batches : list of int
        Images per step.
    rate : float
        At which the memory is taken to be read and written, in bytes a second.

    Returns
    -------
    dict
        By batch size ``kernels``, each with ``calls``, ``read`` and ``written`` (bytes), and ``calls``, ``bytes`` and
        ``ms`` of all but convolutions, and ``peak_mib``.
    """
    report: dict[str, Any] = {"model": model, "size": size, "rate": rate}
    for n in batches:
        traffic = record(model, n, size)
        calls, peak = traffic.calls, traffic.peak
        kernels: dict[str, dict[str, int]] = {}
        for name, read, written in calls:
            row = kernels.setdefault(name, {"calls": 0, "read": 0, "written": 0})
            row["calls"] += 1
            row["read"] += read
            row["written"] += written
        kernels = dict(sorted(kernels.items(), key=lambda item: -item[1]["read"] - item[1]["written"]))
        bound = sum(read + written for name, read, written in calls if name not in CONVOLUTIONS)
        print(f"{model}, n = {n}, predicted:{'calls':>28}{'MB read':>12}{'written':>12}")
        for name, row in kernels.items():
            print(f"  {name:<44}{row['calls']:>6}{row['read'] / 1e6:>12.1f}{row['written'] / 1e6:>12.1f}")
        ms = 1e3 * bound / rate
        print(
            f"  {len(calls)} calls; all but convolutions {bound / 1e9:.1f} GB, {ms:.1f} ms at {rate / 1e12:g} TB/s; "
            f"at most {peak >> 20} MiB held",
            flush=True,
        )
        report[f"n{n}"] = {
            "kernels": kernels,
            "calls": len(calls),
            "bytes": bound,
            "ms": ms,
            "peak_mib": peak / 2**20,
        }
    return report
