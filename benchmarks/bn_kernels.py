"""How near kernels of normalisation, pooling and crops come to the rate of a copy: `python benchmarks/bn_kernels.py`.

On a CUDA GPU with Triton, in bf16, at shapes of ResNet-50. Each role is a function of theanompi/device/triton; its
bytes are what it must read and write, each tensor once. A copy of a tensor of the same shape, which reads and
writes it, gives the rate. Roles and copy take turns. Passed if each has at least LIMIT of the copy's rate at 56² and
28² pixels. The result is a JSON file under benchmarks/results/. Exit status: 1 if a role missed it, 2 without a GPU.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

LIMIT = 0.8
CALLS, ROUNDS = 10, 10
# channels, height and width: what is normalised in the stages, and what is pooled
SHAPES = [(64, 112), (64, 56), (256, 56), (128, 28), (512, 28), (256, 14), (1024, 14), (512, 7), (2048, 7)]
JUDGED = (56, 28)


def update(n: int, place: str) -> Callable[[], object]:
    """A step with momentum of n weights, as PyTensor fuses it."""
    import pytensor  # after the check for a GPU, which shall answer at once

    from theanompi import device

    device.use(place)
    w, g, v = (device.shared(np.zeros(n, np.float32)) for _ in range(3))
    velocity = np.float32(0.9) * v + (g + np.float32(1e-4) * w)
    compute: Callable[[], object] = pytensor.function(
        [], [], updates=[(v, velocity), (w, w - np.float32(0.1) * velocity)], mode=device.mode(place)
    )
    return compute


def roles(n: int, channels: int, size: int, place: str) -> dict[str, tuple[Callable[[], object], float]]:
    """What runs, and its bytes in copies' of one tensor: 2 for a tensor read and one written."""
    from theanompi.device.triton import crop, norm, pool  # only where there is Triton

    x, residual, gy, y, out, other = (
        torch.randn(n, channels, size, size, dtype=torch.bfloat16, device=place).contiguous(
            memory_format=torch.channels_last
        )
        for _ in range(6)
    )
    gamma, beta, mean, inv_std = (torch.rand(channels, device=place) + 0.5 for _ in range(4))
    given = (x, gamma, beta, mean, inv_std)
    own = (x, gamma, mean, inv_std)
    second = (gamma, beta, mean, inv_std)
    # One bit for each of 16.
    bits, bit = torch.zeros(norm.bits_shape(x.shape), dtype=torch.uint8, device=place), 1 / 16
    g_beta, g_gamma = torch.rand(2, channels, device=place).unbind()
    found: dict[str, tuple[Callable[[], object], float]] = {
        "copy": (lambda: out.copy_(x), 2),
        "statistics": (lambda: norm.statistics(x, 1e-5), 1),
        "apply": (lambda: norm.apply(*given, rectify=True, out=out), 2),
        "apply, residual": (lambda: norm.apply(*given, residual, rectify=True, out=out), 3),
        "apply, residual, bits": (
            lambda: norm.apply(*given, residual, rectify=True, bits=bits, out=out),
            3 + bit,
        ),
        "apply, projection, bits": (
            lambda: norm.apply(*given, residual, projection=second, rectify=True, bits=bits, out=out),
            3 + bit,
        ),
        "sums, mask of y": (lambda: norm.sums(gy, *own, y=y), 3),
        "sums, mask again": (lambda: norm.sums(gy, *own, beta=beta), 2),
        "sums, g kept": (lambda: norm.sums(gy, *own, y=y, g=out), 4),
        "sums, two, bits": (lambda: norm.sums(gy, *own, gy2=other, bits=bits, g=out), 4 + bit),
        "sums, two, projection": (
            lambda: norm.sums(gy, *own, gy2=other, bits=bits, projection=(residual, mean, inv_std)),
            4 + bit,
        ),
        "gradient": (lambda: norm.gradient(gy, *own, g_beta, g_gamma, out=out), 3),
        "gradient, mask of y": (lambda: norm.gradient(gy, *own, g_beta, g_gamma, y=y, out=out), 4),
        "gradient, mask again": (lambda: norm.gradient(gy, *own, g_beta, g_gamma, beta=beta, out=out), 3),
        "gradient, two, projection": (
            lambda: norm.gradient(
                *(gy, *own, g_beta, g_gamma),
                gy2=other,
                bits=bits,
                projection=(residual, gamma, mean, inv_std, g_gamma, y),
                out=out,
            ),
            6 + bit,
        ),
    }
    if size == 112:
        geometry = (3, 3), (2, 2), (1, 1)
        pooled, places = pool.forward(x, *geometry, (size // 2, size // 2))
        # A quarter of the elements, once in 16 and once in 8 bits.
        less = 0.25 * 1.5
        found["pooling"] = (lambda: pool.forward(x, *geometry, (size // 2, size // 2)), 1 + less)
        found["pooling's gradient"] = (lambda: pool.backward(pooled, x, places, *geometry), 1 + less)
        found["pooled normalisation"] = (
            lambda: pool.normalised_forward(x, gamma, beta, *geometry, (size // 2, size // 2), epsilon=1e-5),
            2 + less,
        )
        windows = dict(zip(("size", "stride", "padding"), geometry, strict=True))
        found["pooled normalisation's gradient"] = (
            lambda: pool.normalised_backward(pooled, x, gamma, beta, mean, inv_std, places, **windows),
            3 + 2 * less,
        )
        count = 25_000_000
        # In float32: three vectors read, two written.
        found["update"] = (update(count, place), 10 * count / x.numel())
        # From canvases of 256 pixels to 224. A byte of theirs is half an element.
        canvas = torch.randint(0, 256, (n, 3, 256, 256), dtype=torch.uint8, device=place)
        canvas = canvas.contiguous(memory_format=torch.channels_last)
        box = torch.tensor([16.5, 16.5, 230, 200, 1, 256, 256], device=place).expand(n, 7).contiguous()
        third = torch.rand(2, 3, device=place).unbind()
        share = (canvas.numel() / 2 + n * 3 * 224 * 224) / x.numel()
        found["crop"] = (lambda: crop.crop(canvas, box, *third, size=224, dtype=torch.bfloat16), share)
    return found


def measure(place: str) -> dict[str, Any]:
    """Rates of all roles at all shapes, printed as shares of the copy's.

    Parameters
    ----------
    place : str
        A CUDA device.

    Returns
    -------
    dict
        A row for each shape and role with ``share`` (of the copy's rate) and ``ms``, and ``passed``.
    """
    from theanompi.device import triton

    if triton.problem():
        return {"skipped": f"Triton: {triton.problem()}", "passed": False}
    n = 256
    table: list[dict[str, Any]] = []
    for channels, size in SHAPES:
        found = roles(n, channels, size, place)
        samples: dict[str, list[float]] = {name: [] for name in found}
        for number in range(ROUNDS + 1):
            for name, (run, _) in found.items():
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                for _ in range(CALLS):
                    run()
                end.record()
                end.synchronize()
                # The first round compiles.
                if number:
                    samples[name].append(start.elapsed_time(end) / CALLS)
        times = {name: common.spread(values) for name, values in samples.items()}
        rate = found["copy"][1] / times["copy"]["median"]
        for name, (_, passes) in found.items():
            share = passes / times[name]["median"] / rate
            row = {
                "n": n,
                "channels": channels,
                "size": size,
                "role": name,
                "share": share,
                "ms": times[name],
            }
            table.append(row)
            print(
                f"{n} x {channels} x {size}²  {name:<32}{times[name]['median']:8.3f} ms {share:7.1%}",
                flush=True,
            )
    passed = all(row["share"] >= LIMIT for row in table if row["size"] in JUDGED)
    return {"limit": LIMIT, "table": table, "passed": passed}


def main() -> int:
    """Measure and write.

    Returns
    -------
    int
        The exit status.
    """
    parser = common.parser(__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "bn_kernels.json")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"bn_kernels: expected a CUDA GPU, torch {torch.__version__} sees none", file=sys.stderr)
        return 2
    result: dict[str, Any] = {"benchmark": "bn_kernels", "environment": common.environment()}
    result |= measure(args.device)
    common.write_json(args.out, result)
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
