"""Where the device's time of a step goes, by class of kernel: `python benchmarks/step_profile.py --n 32 256`.

ResNet-50 at 224 pixels in bf16 on a CUDA GPU, ours and torch's under torch.compile(mode="max-autotune") with
channels_last, AMP, fused SGD and cudnn.benchmark. torch's profiler gives the time of each kernel; what class it is of,
its name says. Milliseconds per step. The result is a JSON file under benchmarks/results/ with the time of every kernel.
Exit status: 2 without a GPU.

With --predict, without a GPU: how many kernels our step starts and what each kind of them reads and writes, counted by
`step_traffic.py` on tensors that have no elements; of any model of ours, as --model resnet:ResNet152.
"""

import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

STEPS = 10
CLASSES = {
    "exchange": r"nccl",
    "pooling": r"max_?pool|^_pool|avg_?pool",
    "crop": r"embedding_?bag|^_crop",
    "normalisation": r"batch_?norm|^_statistics|^_apply|^_sums|^_gradient|triton_red",
    "convolution": r"fprop|dgrad|wgrad|conv|cudnn|nchwtonhwc|nhwctonchw|gemm|cutlass|xmma|splitk|nvjet|triton_mm",
    "copies": r"memcpy|memset|copy",
    "element-wise": r"elementwise|triton|foreach|multi_tensor|sgd|reduce|softmax|nll_loss|fill|cat",
}
"""The first that is found in a kernel's name. What Inductor has fused counts as the first of what it is named for."""


def class_of(kernel: str) -> str:
    """The class of a kernel.

    >>> class_of("triton_poi_fused__native_batch_norm_legit_functional_relu_5"), class_of("_pool_gradient")
    ('normalisation', 'pooling')
    >>> class_of("Memcpy DtoD (Device -> Device)"), class_of("my_kernel")
    ('copies', 'other')
    """
    return next((name for name, words in CLASSES.items() if re.search(words, kernel.lower())), "other")


def by_class(kernels: dict[str, float]) -> dict[str, float]:
    """Sums of the kernels' times by class, and of all.

    >>> by_class({"_apply": 2.0, "_statistics": 1.0, "nccl": 0.5})
    {'exchange': 0.5, 'normalisation': 3.0, 'all': 3.5}
    """
    sums = dict.fromkeys([*CLASSES, "other"], 0.0)
    for kernel, time in kernels.items():
        sums[class_of(kernel)] += time
    return {name: time for name, time in sums.items() if time} | {"all": sum(kernels.values())}


def measure(place: str, batches: Sequence[int]) -> dict[str, Any]:
    """Profile both for each batch size, and print what they have spent.

    Parameters
    ----------
    place : str
        A CUDA device.
    batches : sequence of int
        Images per step.

    Returns
    -------
    dict
        By batch size and contender ``classes``, ``kernels``, both in milliseconds per step, and ``step_ms``.
    """
    report: dict[str, Any] = {}
    for batch in batches:
        shape = ["--image-size", "224", "--batch-size", str(batch), "--device", place, "--precision", "bf16"]
        rows: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder, "noise.h5")
            common.write_synthetic(data, 224, 8 * batch)
            best = ["--kind", "plain", "--compile", "max-autotune", "--fused"]
            for name, script, flags in (
                ("ours", "ours.py", ["--data", str(data)]),
                ("compiled torch", "opponents.py", best),
            ):
                words = [*flags, *shape, "--profile"]
                with common.Contender(name, script, words, ranks=1, threads=8) as contender:
                    # What the profiler does for the first time is not of a step.
                    contender.burst(2)
                    said = contender.burst(STEPS)
                kernels = {kernel: time / STEPS for kernel, time in said["kernels"].items()}
                rows[name] = {
                    "classes": by_class(kernels),
                    "kernels": dict(sorted(kernels.items(), key=lambda item: -item[1])),
                    "step_ms": 1e3 * said["seconds"] / STEPS,
                }
        print(f"device time of a step by class, ms, n = {batch}:{'ours':>14}{'compiled torch':>18}")
        for name in [*CLASSES, "other", "all"]:
            times = [row["classes"].get(name, 0.0) for row in rows.values()]
            print(f"  {name:<46}{times[0]:>10.2f}{times[1]:>18.2f}", flush=True)
        report[f"n{batch}"] = rows
    report["passed"] = True
    return report


def main() -> int:
    """Measure and write.

    Returns
    -------
    int
        The exit status.
    """
    import torch  # only here: `gpu_check.py` has it already, and a contender's driver needs none of it

    parser = common.parser(__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[32, 256], help="images per step")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--predict", action="store_true", help="count what our step reads and writes; no GPU")
    parser.add_argument("--model", default="resnet50:ResNet50", help="of theanompi.models, with --predict")
    parser.add_argument("--size", type=int, default=224, help="pixels, with --predict")
    parser.add_argument("--rate", type=float, default=4e12, help="bytes/s of the memory, with --predict")
    parser.add_argument(
        "--out", type=Path, help="(default: step_profile.json or step_traffic.json in results/)"
    )
    args = parser.parse_args()
    if args.predict:
        from theanompi.device import triton  # after the arguments, which shall be answered at once

        if triton.problem():
            print(
                f"step_profile: --predict: expected Triton (pip install 'theanompi[triton]'), got: {triton.problem()}",
                file=sys.stderr,
            )
            return 2
        import step_traffic  # only here, as it imports torch

        predicted = step_traffic.predict(args.model, args.n, args.size, args.rate)
        common.write_json(
            args.out or common.RESULTS / "step_traffic.json", {"benchmark": "step_traffic"} | predicted
        )
        return 0
    if not torch.cuda.is_available():
        print(f"step_profile: expected a CUDA GPU, torch {torch.__version__} sees none", file=sys.stderr)
        return 2
    result: dict[str, Any] = {"benchmark": "step_profile", "environment": common.environment()}
    out = args.out or common.RESULTS / "step_profile.json"
    common.write_json(out, result | measure(args.device, args.n))
    return 0


if __name__ == "__main__":
    sys.exit(main())
