"""The whole check on a GPU in one call: `python benchmarks/gpu_check.py`.

correctness  loss and gradients of ResNet-50 on CUDA in float32, tf32 and bf16, against plain torch in float64
             on the CPU. The worst relative error of a parameter may be at most FLOAT32_LIMIT, and in tf32 and
             bf16 also up to TORCH_FACTOR times that of plain torch at the same precision on the same GPU.
data         batches of JPEG files and raw pixels that arrive through the loader and its stream of copies, and
             what the compiled crop makes of them, against the same on the CPU (limit in levels of 255)
ddp          images/s in bf16 at 224 pixels, n = 32 and 256, in turn with DDP (AMP, channels_last, cudnn.benchmark),
             eager, under torch.compile(mode="reduce-overhead"), and under torch.compile(mode="max-autotune") with
             fused SGD; passed if ours has more, in the median
profile      device time of such a step by class of kernel, ours and compiled torch's: `step_profile.py`
kernels      how near the normalisation's kernels come to the rate of a copy: `bn_kernels.py`
flax         the same with Flax, where it is installed
exchange     the sum of ResNet-50's gradients over 1, 2, 4 and 8 ranks that share the GPU, by every strategy that can,
             given an mpirun: is it right, by which path, how fast
hidden       training with 2 ranks that share the GPU: how much of the exchange is hidden, by strategy
curves       the loss over 200 iterations on the digits in float32, float32 with another seed, and bf16: the last may
             be as far from the first as the second is

The result is a JSON file under benchmarks/results/, written after each part. Exit status: 0 if all is well,
1 if a part failed or missed its limit, 2 without a GPU.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bn_kernels
import common
import numpy as np
import step_profile
import torch
from reference_resnet import ReferenceResNet50

from theanompi.launch.mpirun import run, run_ranks

FLOAT32_LIMIT = 1e-4
TORCH_FACTOR = 2.0
NEGLIGIBLE = 1e-3
DATA_LIMIT = 0.05
CURVE_ITERATIONS, CURVE_WINDOW = 200, 20
RANKS = (1, 2, 4, 8)
LIMIT = 300.0
"""Seconds that a job of several ranks, or a short training run, may take."""
SHARED_GPU = ("overlap", "ar", "shm", "naive", "asa32", "fp16", "bf16")
"""The strategies that let ranks share a GPU."""
BATCHES = (32, 256)
UNTIMED = ("correctness", "data", "curves")
"""Parts that may run side by side."""

Gradients = dict[str, np.ndarray]


def problem() -> tuple[Gradients, np.ndarray, np.ndarray]:
    """Parameters, images and labels, such that rounding is all that can go wrong.

    With γ = 0 the gradients inside the blocks would all vanish. With β = 0 many activations lie so near 0
    that rounding switches some ReLU: in float32 that alone moves the gradients by 3 %, in plain torch too.
    """
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    values = ReferenceResNet50().named_values()
    for name, value in values.items():
        if name.endswith(".gamma"):
            values[name] = random.uniform(0.5, 1.5, value.shape).astype(np.float32)
        elif name.endswith(".beta"):
            values[name] = random.normal(3, 0.1, value.shape).astype(np.float32)
    images = random.normal(size=(16, 3, 64, 64)).astype(np.float32)
    return values, images, random.integers(0, 1000, 16)


def torch_gradients(
    place: str, precision: str, values: Gradients, images: np.ndarray, labels: np.ndarray
) -> tuple[float, Gradients]:
    """Mean loss and gradients by plain torch; precision "float64" is the truth for the others."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = torch.float64 if precision == "float64" else torch.float32
    network = ReferenceResNet50()
    network.load_named(values)
    network = network.to(place, dtype)
    with torch.autocast(torch.device(place).type, torch.bfloat16, enabled=precision == "bf16"):
        scores = network(torch.from_numpy(images).to(place, dtype))
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels).to(place))
    loss.backward()
    return loss.item(), network.named_gradients()


def our_gradients(
    place: str, precision: str, values: Gradients, images: np.ndarray, labels: np.ndarray
) -> tuple[float, Gradients]:
    """Mean loss and gradients by the package."""
    import pytensor  # after the check for a GPU, which shall answer at once

    from theanompi import device
    from theanompi.device.ops import softmax_cross_entropy
    from theanompi.lasagne.layers import get_all_params, get_output
    from theanompi.models.resnet50 import build_model

    device.use(place)
    scores = build_model(images.shape)["fc1000"]
    parameters = get_all_params(scores, trainable=True)
    for parameter in parameters:
        parameter.set_value(values[parameter.name])
    x, y = device.shared(images), device.shared(labels)
    output = get_output(scores, x, batch_norm_update_averages=False)
    loss = softmax_cross_entropy(output, y).mean()
    compute = pytensor.function(
        [], [loss, *pytensor.grad(loss, parameters)], mode=device.mode(precision=precision)
    )
    loss_value, *gradients = compute()
    names = [parameter.name for parameter in parameters]
    return float(loss_value), dict(zip(names, gradients, strict=True))


def relative_error(got: Gradients, expected: Gradients) -> float:
    """The worst parameter's ‖got − expected‖₂ / ‖expected‖₂, in float64.

    Where a parameter has (nearly) no gradient, because a batch normalisation cancels it, rounding is measured
    against NEGLIGIBLE times the norm of all gradients together.
    """
    if got.keys() != expected.keys():
        raise ValueError(f"gradients: expected those of {sorted(expected)}, got {sorted(got)}")
    norms = {name: float(np.linalg.norm(value)) for name, value in expected.items()}
    floor = NEGLIGIBLE * float(np.linalg.norm(list(norms.values())))
    return max(
        float(np.linalg.norm(got[name] - value)) / max(norms[name], floor) for name, value in expected.items()
    )


def correctness(place: str) -> dict[str, Any]:
    """Errors of ours and of torch's on the device, at each precision, and whether ours keep the limits."""
    values, images, labels = problem()
    true_loss, truth = torch_gradients("cpu", "float64", values, images, labels)
    report: dict[str, Any] = {}
    for precision in ("float32", "tf32", "bf16"):
        row: dict[str, Any] = {}
        for name, compute in (("ours", our_gradients), ("torch", torch_gradients)):
            loss, gradients = compute(place, precision, values, images, labels)
            row[name] = {
                "loss_error": abs(loss - true_loss) / true_loss,
                "gradient_error": relative_error(gradients, truth),
            }
        theirs = row["torch"]["gradient_error"]
        row["limit"] = FLOAT32_LIMIT if precision == "float32" else max(FLOAT32_LIMIT, TORCH_FACTOR * theirs)
        row["passed"] = max(row["ours"].values()) <= row["limit"]
        print(
            f"correctness, {precision}: gradient error {row['ours']['gradient_error']:.2e} "
            f"(torch {theirs:.2e}, limit {row['limit']:.2e}), loss error {row['ours']['loss_error']:.2e}: "
            f"{'passed' if row['passed'] else 'FAILED'}",
            flush=True,
        )
        report[precision] = row
    report["passed"] = all(row["passed"] for row in report.values())
    return report


def loaded(place: str, path: Path, batches: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What the first batches of an epoch are on a device, and their crops, colours changed, before normalisation."""
    import pytensor  # as above

    from theanompi import device
    from theanompi.config import RunConfig, resolve
    from theanompi.data import Loader, Pictures, Sampler, open_pictures
    from theanompi.device import Pinned
    from theanompi.device.ops import color_adjust, crop_resize
    from theanompi.training.inputs import Feed, Inputs

    device.use(place)
    inputs_seen, crops = [], []
    dataset = open_pictures(path)
    pictures = Pictures(dataset, resolve(RunConfig(image_size=96, color_jitter=0.4, lighting=0.1)))
    with dataset, Loader(pictures, 16, processes=2) as loader:
        pinned = Pinned(loader.memory)
        inputs = Inputs(pictures, 16)
        seen = inputs.variables
        cropped = crop_resize(seen["images"].dimshuffle(0, 3, 1, 2), seen["boxes"], 96)
        crop = pytensor.function(
            [], 255 * color_adjust(cropped / np.float32(255), seen["colors"]), mode=device.mode()
        )
        sampler = Sampler(dataset.n_train, 16, 1, 0, 1, seed=0)
        feed = Feed(inputs, (unit for units in loader.train(sampler, epoch=0) for unit in units))
        for _ in range(batches):
            feed.load()
            crops.append(crop())
            feed.stage()
            inputs_seen += [value.get_value() for name, value in seen.items() if name != "images"]
        pinned.release()
    return inputs_seen, crops


def data(place: str) -> dict[str, Any]:
    """The largest difference between the two devices, in levels, for both ways to store images."""
    from photographs import jpeg, photograph

    from theanompi.data.store.schema import SPLITS
    from theanompi.data.store.writer import Block, Image, Writer, channel_sums

    report: dict[str, Any] = {"limit_levels": DATA_LIMIT}
    with tempfile.TemporaryDirectory() as folder:
        for store in ("jpeg", "raw"):
            path = Path(folder, f"{store}.h5")
            with Writer(path, {}) as writer:
                for split, n in zip(SPLITS, (128, 1), strict=True):
                    pictures = [photograph(seed, 256, 341) for seed in range(n)]
                    files = [
                        jpeg(seed, 256, 341) if store == "jpeg" else p.tobytes()
                        for seed, p in enumerate(pictures)
                    ]
                    rows = [Image(str(i), i % 10, 256, 341, file) for i, file in enumerate(files)]
                    writer.append(split, Block(rows, [], channel_sums(np.stack(pictures))))
                writer.finish(
                    name=store,
                    description="Generated photographs.",
                    source="tests/photographs.py",
                    licence="CC0",
                    class_names=[str(label) for label in range(10)],
                    store=store,
                    channels=3,
                    augmentation="imagenet",
                )
            (ours, crops), (expected, expected_crops) = (loaded(where, path, 8) for where in (place, "cpu"))
            same = all(np.array_equal(a, b) for a, b in zip(ours, expected, strict=True))
            levels = max(float(np.abs(a - b).max()) for a, b in zip(crops, expected_crops, strict=True))
            report[store] = {"same_inputs": same, "levels": levels, "passed": same and levels <= DATA_LIMIT}
            print(
                f"data, {store}: labels, boxes, keys and colours {'equal' if same else 'DIFFERENT'}, crops within "
                f"{levels:.1e} levels: {'passed' if report[store]['passed'] else 'FAILED'}",
                flush=True,
            )
    report["passed"] = report["jpeg"]["passed"] and report["raw"]["passed"]
    return report


def ddp(*flags: str) -> tuple[str, list[str]]:
    """The script and the flags of one of torch's ways."""
    return "opponents.py", ["--kind", "ddp", "--port", str(common.free_port()), *flags]


def throughput(place: str, opponents: dict[str, tuple[str, list[str]]]) -> dict[str, Any]:
    """Images per second, first step and peak memory of ours and of its opponents, in turn, for each n."""
    report: dict[str, Any] = {}
    for batch in BATCHES:
        shape = ["--image-size", "224", "--batch-size", str(batch), "--device", place, "--precision", "bf16"]
        failed: dict[str, str] = {}
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder, "noise.h5")
            common.write_synthetic(data, 224, 8 * batch)
            started: list[common.Contender] = []
            try:
                ours = ["--data", str(data), *shape]
                started.append(common.Contender("ours", "ours.py", ours, ranks=1, threads=8))
                for name, (script, flags) in opponents.items():
                    try:
                        started.append(common.Contender(name, script, [*flags, *shape], ranks=1, threads=8))
                    except RuntimeError as error:
                        failed[name] = str(error)
                        print(f"throughput, n = {batch}, {name}: {error}", file=sys.stderr, flush=True)
                report[f"n{batch}"] = common.compare(started, rounds=10, burst_s=1, images_per_step=batch)
            finally:
                for contender in started:
                    contender.close()
        common.print_comparison(f"throughput, bf16, 224 pixels, n = {batch}", report[f"n{batch}"])
        report[f"n{batch}"]["failed"] = failed
    rows = list(report.values())
    report["passed"] = all(
        name in row and row[name]["ratio"]["median"] > 1 for row in rows for name in opponents
    )
    return report


def flax(place: str) -> dict[str, Any]:
    """The comparison with Flax."""
    missing = [name for name in ("jax", "flax", "optax") if find_spec(name) is None]
    if missing:
        return {"skipped": f"not installed: {', '.join(missing)}", "passed": True}
    return throughput(place, {"flax": ("opponent_flax.py", [])})


def exchange(place: str) -> dict[str, Any]:
    """The sum over ranks on one device: is it right, by which path, how fast."""
    if shutil.which("mpirun") is None:
        return {"skipped": "no mpirun on PATH", "passed": True}
    report: dict[str, Any] = {}
    for ranks in RANKS:
        args = [__file__, "--exchange-rank", "--device", place]
        result = run_ranks(ranks, args, LIMIT, [place] * ranks)
        said = [line.partition(common.MARK)[2] for line in result.out.splitlines() if common.MARK in line]
        if result.status != 0 or not said:
            print(result.err, file=sys.stderr)
            raise RuntimeError(f"exchange over {ranks} ranks {result.how(LIMIT)}")
        report[f"ranks{ranks}"] = rows = {row.pop("strategy"): row for row in map(json.loads, said)}
        for strategy, row in rows.items():
            print(
                f"exchange, {ranks} ranks, {strategy}: {row['description']}, "
                f"{row['seconds']['median'] * 1e3:.1f} ms: {'passed' if row['passed'] else 'FAILED'}",
                flush=True,
            )
    report["passed"] = all(row["passed"] for rows in list(report.values()) for row in rows.values())
    return report


def exchange_rank(place: str) -> None:
    """One rank of `exchange`."""
    from mpi4py import MPI  # only the ranks may initialise it

    from theanompi import device
    from theanompi.exchange import STRATEGIES, get_exchanger
    from theanompi.models.resnet50 import build_model

    world = MPI.COMM_WORLD
    device.use(place)
    shapes = common.gradient_shapes(build_model()["prob"])
    for strategy in SHARED_GPU:
        buffer = device.FlatBuffer(shapes)
        exchanger = get_exchanger(strategy, world, buffer)
        right, seconds = True, []
        for _ in range(8):
            # Whole numbers that float16 and bfloat16 have too.
            buffer.flat.fill_(world.rank + 1)
            exchanger.synchronise()
            world.Barrier()
            start = time.perf_counter()
            exchanger.sum()
            exchanger.synchronise()
            seconds.append(time.perf_counter() - start)
            right = right and bool((buffer.flat == world.size * (world.size + 1) / 2).all())
        right = world.allreduce(right, MPI.LAND)
        # The first sum also sets up what the later ones use.
        common.say(
            strategy=strategy,
            exact=STRATEGIES[strategy].exact,
            description=exchanger.description,
            passed=right,
            seconds=common.spread(seconds[1:]),
        )
        exchanger.close()


def train(folder: Path, ranks: int, place: str, flags: list[str]) -> list[dict[str, Any]]:
    """The log of a run of the example."""
    example = str(common.ROOT / "examples" / "train_resnet50.py")
    args = [example, "--out", str(folder), "--device", place, *flags]
    if ranks > 1:
        result = run_ranks(ranks, args, LIMIT, [place] * ranks)
    else:
        result = run([sys.executable, *args], LIMIT)
    if result.status != 0:
        print(result.err, file=sys.stderr)
        raise RuntimeError(f"training {result.how(LIMIT)}")
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def hidden(place: str) -> dict[str, Any]:
    """Where the time of training goes with two ranks on the GPU, by strategy."""
    if shutil.which("mpirun") is None:
        return {"skipped": "no mpirun on PATH", "passed": True}
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "noise.h5")
        common.write_synthetic(data, 224, 1024)
        shape = ["--data", str(data), "--batch-size", "32", "--precision", "bf16"]
        for strategy in ("ar", "overlap", "shm"):
            flags = [*shape, "--exchange", strategy, "--max-iterations", "30", "--log-interval", "1"]
            log = train(Path(folder, strategy), 2, place, flags)
            # The first steps also compile, and fill caches.
            steps = [row for row in log if row["kind"] == "train"][5:]
            names = [name for name in steps[0] if name.endswith("_s")]
            report[strategy] = {name: common.spread([step[name] for step in steps]) for name in names}
            print(
                f"hidden, {strategy}: exposed {1e3 * report[strategy]['comm_s']['median']:.1f} ms, "
                f"hidden {1e3 * report[strategy]['comm_hidden_s']['median']:.1f} ms",
                flush=True,
            )
    report["passed"] = True
    return report


def curves(place: str) -> dict[str, Any]:
    """How far the loss in bf16 is from that in float32, against how far another seed is."""
    losses: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, flags in {
            "float32": [],
            "another seed": ["--seed", "1"],
            "bf16": ["--precision", "bf16"],
        }.items():
            iterations = ["--max-iterations", str(CURVE_ITERATIONS), "--log-interval", "1"]
            log = train(Path(folder, name), 1, place, [*flags, *iterations])
            loss = np.array([row["loss"] for row in log if row["kind"] == "train"])
            losses[name] = loss.reshape(-1, CURVE_WINDOW).mean(axis=1)
    reference = losses["float32"]
    apart = {name: float(np.abs(loss - reference).mean()) for name, loss in losses.items()}
    passed = apart["bf16"] <= apart["another seed"]
    print(
        f"curves: bf16 is {apart['bf16']:.4f} nats from float32, another seed {apart['another seed']:.4f}: "
        f"{'passed' if passed else 'FAILED'}",
        flush=True,
    )
    return {
        "window": CURVE_WINDOW,
        "loss": {k: v.tolist() for k, v in losses.items()},
        "apart": apart,
        "passed": passed,
    }


def side_by_side(names: list[str], place: str) -> dict[str, Any]:
    """Parts that measure no time, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, f"{name}.json") for name in names}
        running = {
            name: subprocess.Popen(
                [sys.executable, __file__, "--parts", name, "--device", place, "--out", str(path)]
            )
            for name, path in paths.items()
        }
        ended = {name: process.wait() for name, process in running.items()}
        return {
            name: json.loads(path.read_text(encoding="utf-8"))[name]
            if path.exists()
            else {"failed": f"exit {ended[name]}", "passed": False}
            for name, path in paths.items()
        }


def main() -> int:
    """Run the parts, write the result.

    Returns
    -------
    int
        The exit status.
    """
    parser = common.parser(__doc__)
    parts = {
        "correctness": correctness,
        "data": data,
        "ddp": lambda place: throughput(
            place,
            {
                "eager": ddp(),
                "compiled": ddp("--compile", "reduce-overhead"),
                "max-autotune": ddp("--compile", "max-autotune", "--fused"),
            },
        ),
        "profile": lambda place: step_profile.measure(place, BATCHES),
        "kernels": bn_kernels.measure,
        "flax": flax,
        "exchange": exchange,
        "hidden": hidden,
        "curves": curves,
    }
    parser.add_argument(
        "--parts", nargs="+", metavar="PART", choices=parts, default=list(parts), help="(default: all)"
    )
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "gpu_check.json")
    parser.add_argument("--exchange-rank", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.exchange_rank:
        exchange_rank(args.device)
        return 0
    if not torch.cuda.is_available():
        print(f"gpu_check: expected a CUDA GPU, torch {torch.__version__} sees none", file=sys.stderr)
        return 2
    result: dict[str, Any] = {"benchmark": "gpu_check", "environment": common.environment()}
    untimed = [name for name in args.parts if name in UNTIMED]
    if len(untimed) > 1:
        result |= side_by_side(untimed, args.device)
        common.write_json(args.out, result)
    for name in (name for name in args.parts if name not in result):
        # Time on a GPU is scarce: what one part runs into must not cost the results of the others.
        try:
            result[name] = parts[name](args.device)
        except (RuntimeError, ValueError, OSError) as error:
            result[name] = {"failed": f"{type(error).__name__}: {error}", "passed": False}
            print(f"{name}: {result[name]['failed']}", file=sys.stderr, flush=True)
        if "skipped" in result[name]:
            print(f"{name}: skipped, {result[name]['skipped']}", flush=True)
        common.write_json(args.out, result)
    return 0 if all(result[name]["passed"] for name in args.parts) else 1


if __name__ == "__main__":
    sys.exit(main())
