"""The parts of a CPU step that were made faster, each against what it replaced: `python benchmarks/parts.py`.

Filter gradients as torch computes them and as products of matrices, before and after freed memory is kept;
convolutions and both gradients by torch and as the package computes them, as products of matrices or of pixels handed
over as if of sixteen images, with one thread (``--threads``), as two ranks on two cores have it; batch normalisation
with rectifier in torch's calls and in ours; a gradient copied into its buffer and computed there; and the update in one
pass against torch's SGD. Variants take turns. The result is a JSON file under benchmarks/results/; the figures in
NOTES.md are from it.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import pytensor
import pytensor.tensor as pt
import torch

from theanompi import device
from theanompi.config import RunConfig, resolve
from theanompi.device.ops import columns, rows
from theanompi.device.ops.base import Context
from theanompi.device.ops.conv import Convolution, ConvolutionGrad
from theanompi.training.optimizers.momentum import Momentum
from theanompi.training.schedules.steps import Steps
from theanompi.training.update import Group, update_graph

# images, channels in, channels out, kernel, stride, height and width of the image
CONVOLUTIONS = [
    (16, 512, 512, 3, 1, 1),
    (16, 512, 512, 3, 2, 4),
    (16, 1024, 2048, 1, 2, 2),
    (16, 256, 256, 3, 1, 4),
    (16, 64, 64, 3, 1, 8),
    (8, 512, 512, 3, 1, 7),
    (8, 256, 128, 1, 1, 56),
]
# images, channels, height and width: what is normalised at 64 and at 224 pixels
NORMALISED = [
    (16, 64, 16),
    (16, 512, 8),
    (16, 2048, 2),
    (8, 64, 112),
    (8, 256, 56),
    (8, 512, 28),
    (8, 1024, 14),
    (8, 2048, 7),
]
# As in `CONVOLUTIONS`: those of ResNet-50 at 224 pixels, n = 8, and some at 64 pixels, n = 16.
LAYERS = [
    (8, 64, 64, 1, 1, 56),
    (8, 64, 256, 1, 1, 56),
    (8, 256, 64, 1, 1, 56),
    (8, 256, 128, 1, 1, 56),
    (8, 128, 512, 1, 1, 28),
    (8, 512, 128, 1, 1, 28),
    (8, 256, 1024, 1, 1, 14),
    (8, 1024, 256, 1, 1, 14),
    (8, 512, 2048, 1, 1, 7),
    (8, 2048, 512, 1, 1, 7),
    (8, 1024, 2048, 1, 2, 14),
    (8, 512, 512, 3, 2, 14),
    (8, 512, 512, 3, 1, 7),
    (16, 256, 256, 3, 1, 4),
    (16, 512, 512, 3, 1, 2),
]
# output pixels, channels out, channels in times kernel
PRODUCTS = [(16, 512, 4608), (64, 2048, 1024), (256, 256, 2304)]
PARAMETERS = 25_557_032


def turns(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Any]:
    """Milliseconds of each variant, called in turn after two calls of warm-up."""
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 2):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if number >= 2:
                samples[name].append(1e3 * (time.perf_counter() - start))
    return {name: common.spread(values) for name, values in samples.items()}


def filter_gradients(rounds: int) -> list[dict[str, Any]]:
    """Each convolution's gradient with respect to its filters, by torch and as a product of matrices."""
    table = []
    for n, channels, out, kernel, stride, size in CONVOLUTIONS:
        padding = kernel // 2
        x = torch.randn(n, channels, size, size).contiguous(memory_format=torch.channels_last)
        w = torch.randn(out, kernel, kernel, channels).permute(0, 3, 1, 2)
        gy = torch.randn_like(torch.conv2d(x, w, None, stride, padding))
        geometry = ((stride, stride), (padding, padding), (1, 1))

        def by_torch(x: Any = x, w: Any = w, gy: Any = gy, geometry: Any = geometry) -> object:
            mask = (False, True, False)
            return torch.ops.aten.convolution_backward(gy, x, w, None, *geometry, False, (0, 0), 1, mask)

        def by_matrices(x: Any = x, w: Any = w, gy: Any = gy, geometry: Any = geometry) -> object:
            return columns.backward_filters(x, w, gy, *geometry)

        chosen = "matrices" if columns.pays(x, w, gy.shape[2], gy.shape[3], 1)[1] else "torch"
        shape = {"images": n, "in": channels, "out": out, "kernel": kernel, "stride": stride, "size": size}
        table.append(
            {**shape, "chosen": chosen, **turns({"torch": by_torch, "matrices": by_matrices}, rounds)}
        )
    return table


def convolutions(rounds: int) -> list[dict[str, Any]]:
    """Each of `LAYERS`, and its two gradients: torch's calls, and the package's op."""
    table = []
    for n, channels, out, kernel, stride, size in LAYERS:
        pair, padding = (stride, stride), (kernel // 2, kernel // 2)
        x = torch.randn(n, channels, size, size).contiguous(memory_format=torch.channels_last)
        w = torch.randn(out, kernel, kernel, channels).permute(0, 3, 1, 2)
        gy = torch.randn_like(torch.conv2d(x, w, None, stride, padding))
        symbolic = [pt.tensor(dtype="float32", shape=tuple(t.shape)) for t in (x, w, gy)]
        forward, grad = (op(pair, padding, (1, 1), 1) for op in (Convolution, ConvolutionGrad))
        ours = [forward.function(forward.make_node(*symbolic[:2]), Context())]
        node = grad.make_node(*symbolic)
        masks = [(True, False, False), (False, True, False)]
        ours += [grad.function(node, Context(used=mask[:2])) for mask in masks]
        row: dict[str, Any] = {
            "images": n, "in": channels, "out": out, "kernel": kernel, "stride": stride, "size": size
        }  # fmt: skip

        def by_torch(
            mask: Any, x: Any = x, w: Any = w, gy: Any = gy, pair: Any = pair, pad: Any = padding
        ) -> Any:
            return torch.ops.aten.convolution_backward(
                gy, x, w, None, pair, pad, (1, 1), False, (0, 0), 1, mask
            )

        calls = {
            "forward": (partial(torch.conv2d, x, w, None, pair, padding), partial(ours[0], x, w)),
            "images_gradient": (partial(by_torch, masks[0]), partial(ours[1], x, w, gy)),
            "filters_gradient": (partial(by_torch, masks[1]), partial(ours[2], x, w, gy)),
        }
        for name, (theirs, own) in calls.items():
            row[name] = turns({"torch": theirs, "ours": own}, rounds)
        table.append(row)
    return table


def normalisation(rounds: int) -> list[dict[str, Any]]:
    """Batch normalisation, residual sum and rectifier, and their gradient: torch's calls, and few passes."""
    table = []
    for n, channels, size in NORMALISED:
        x, residual, gy = (
            torch.randn(n, channels, size, size).contiguous(memory_format=torch.channels_last)
            for _ in range(3)
        )
        gamma, beta = torch.rand(channels) + 0.5, torch.randn(channels)
        y, mean, inv_std = rows.forward(x, gamma, beta, residual, epsilon=1e-5, rectify=True)

        def forward_torch(
            x: Any = x, gamma: Any = gamma, beta: Any = beta, residual: Any = residual
        ) -> object:
            out = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, 1e-5)[0]
            return out.add_(residual).relu_()

        def forward(x: Any = x, gamma: Any = gamma, beta: Any = beta, residual: Any = residual) -> object:
            return rows.forward(x, gamma, beta, residual, epsilon=1e-5, rectify=True)

        def backward_torch(
            x: Any = x, gy: Any = gy, y: Any = y, gamma: Any = gamma, statistics: Any = (mean, inv_std)
        ) -> object:
            torch.ops.aten.threshold_backward.grad_input(gy, y, 0, grad_input=gy)
            return torch.ops.aten.native_batch_norm_backward(
                gy, x, gamma, None, None, *statistics, True, 1e-5, [True] * 3
            )

        def backward(
            x: Any = x, gy: Any = gy, y: Any = y, gamma: Any = gamma, mean: Any = mean, inv_std: Any = inv_std
        ) -> object:
            return rows.backward(gy, x, gamma, mean, inv_std, y, overwrite=True)

        table.append(
            {
                **{"images": n, "channels": channels, "size": size},
                "forward": turns({"torch": forward_torch, "ours": forward}, rounds),
                "backward": turns({"torch": backward_torch, "ours": backward}, rounds),
            }
        )
    return table


def destination(rounds: int) -> list[dict[str, Any]]:
    """A filter gradient as a product of matrices, then copied into the buffer of gradients, or written there."""
    table = []
    for pixels, out, columns_in in PRODUCTS:
        gy, images, store = (
            torch.randn(pixels, out),
            torch.randn(pixels, columns_in),
            torch.empty(out, columns_in),
        )

        def copied(gy: Any = gy, images: Any = images, store: Any = store) -> object:
            return store.copy_(gy.t() @ images)

        def written(gy: Any = gy, images: Any = images, store: Any = store) -> object:
            return torch.mm(gy.t(), images, out=store)

        shape = {"pixels": pixels, "out": out, "columns": columns_in}
        table.append({**shape, **turns({"copied": copied, "written": written}, rounds)})
    return table


def update(rounds: int) -> dict[str, Any]:
    """The compiled update of ResNet-50's parameters in one buffer, against torch's SGD on one tensor of that size."""
    values = [np.random.default_rng(0).normal(size=PARAMETERS).astype("float32") for _ in range(3)]
    w, v, g = (device.shared(value) for value in values)
    t, last_eta = device.shared(np.int64(0)), device.shared(np.float64(0))
    schedule = Steps(minibatch=256, iterations_per_epoch=5000)
    groups = [Group(w, g, {"velocity": v}, decayed=True)]
    eta, updates = update_graph(groups, Momentum(resolve(RunConfig())), schedule, t=t, last_eta=last_eta)
    ours = pytensor.function([], eta, updates=updates, mode=device.mode())
    parameter = torch.nn.Parameter(torch.from_numpy(values[0]))
    parameter.grad = torch.from_numpy(values[2])
    sgd = torch.optim.SGD([parameter], 0.1, 0.9, weight_decay=1e-4, nesterov=True, foreach=True)
    return turns({"ours": ours, "torch": sgd.step}, rounds)


def main() -> None:
    """Measure, print and write."""
    parser = common.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="calls of each variant (default: 15)")
    parser.add_argument("--threads", type=int, default=1, help="of the convolutions (default: 1)")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "parts.json")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "benchmark": "parts",
        "environment": common.environment(),
        "threads": torch.get_num_threads(),
        "threads_of_convolutions": args.threads,
        "rounds": args.rounds,
        "filter_gradients_ms": {"memory_returned": filter_gradients(args.rounds)},
    }
    device.use("cpu")  # from here on freed memory is kept
    result["filter_gradients_ms"]["memory_kept"] = filter_gradients(args.rounds)
    torch.set_num_threads(args.threads)
    result["convolutions_ms"] = convolutions(args.rounds)
    torch.set_num_threads(result["threads"])
    result["normalisation_ms"] = normalisation(args.rounds)
    result["destination_ms"] = destination(args.rounds)
    result["update_ms"] = update(args.rounds)
    before, after = result["filter_gradients_ms"].values()
    print(
        "filter gradients, ms     memory returned: torch, matrices    memory kept: torch, matrices    chosen"
    )
    for old, new in zip(before, after, strict=True):
        shape = f"{old['images']} x {old['in']} x {old['size']}², {old['out']} of {old['kernel']}², /{old['stride']}"
        times = [f"{row[name]['median']:8.2f}" for row in (old, new) for name in ("torch", "matrices")]
        print(f"{shape:36}{' '.join(times)}   {new['chosen']}")
    print("convolutions, ms     forward: torch, ours    images' gradient    filters' gradient")
    for row in result["convolutions_ms"]:
        shape = f"{row['images']} x {row['in']} x {row['size']}², {row['out']} of {row['kernel']}², /{row['stride']}"
        times = [
            f"{row[way][name]['median']:8.2f}"
            for way in ("forward", "images_gradient", "filters_gradient")
            for name in ("torch", "ours")
        ]
        print(f"{shape:36}{' '.join(times)}")
    print("batch normalisation, sum and rectifier, ms     forward: torch, ours    backward: torch, ours")
    for row in result["normalisation_ms"]:
        shape = f"{row['images']} x {row['channels']} x {row['size']}²"
        times = [
            f"{row[way][name]['median']:8.3f}"
            for way in ("forward", "backward")
            for name in ("torch", "ours")
        ]
        print(f"{shape:36}{' '.join(times)}")
    print("gradient into its buffer, ms     copied, written")
    for row in result["destination_ms"]:
        shape = f"{row['pixels']} x {row['out']}, {row['columns']}"
        print(f"{shape:36}{row['copied']['median']:8.3f} {row['written']['median']:8.3f}")
    print(
        "update, ms: " + ", ".join(f"{name} {row['median']:.1f}" for name, row in result["update_ms"].items())
    )
    common.write_json(args.out, result)


if __name__ == "__main__":
    main()
