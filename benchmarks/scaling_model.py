"""Time per iteration and efficiency up to 1,024 workers, predicted: `python benchmarks/scaling_model.py`.

Latency and bandwidth are fitted to allreduces measured on this machine; how long a worker computes, and when its
gradients are ready, is measured in ResNet-50's own step; `cost_model.py` does the rest. What it says of 1, 2 and 4
ranks is held against what these take. `--paper` computes Goyal et al. 2017 instead, `--inputs FILE.json` numbers of
your own; neither measures anything. The result is a JSON file under benchmarks/results/ and a picture beside it.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import common
import numpy as np
from cost_model import ALGORITHMS, InputError, Inputs, Link, exposed, fit, pieces

IMAGENET_IMAGES = 1_281_167
LARGEST = 1024
ODD = 352  # Goyal et al.'s largest run: 44 servers, not a power of two
SIZES = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20, 4 << 20, 16 << 20, 102_228_128]
# A larger buffer no longer fits the caches: its bytes cost more, which a straight line cannot say. The exchange
# sends no such buffers.
FITTED_UP_TO = 16 << 20
MODEL, IMAGE_SIZE, BATCH_SIZE, EPOCH_STEPS = "models.resnet50.ResNet50", 64, 16, 20
BURST_STEPS = {"allreduce": 5, "training": 3}

# Goyal et al.'s (P): 32 images, 100 MB, 120 ms of backward, 8 GPUs a server; forward is what is left of the 8 × 32
# images at 1,100 images/s. Ours: gradients become ready in proportion to multiplications, and are exchanged one by
# one; NVLink; and of the 50 Gbit/s Ethernet 20 Gbit/s and 30 µs, chosen so that two figures of P come out (90 % at
# 256 GPUs; halving/doubling 3 × as fast as ring on 32 servers). A third, 12 % at 352 GPUs, is then a check.
PAPER: dict[str, Any] = {
    "name": "Goyal et al. 2017",
    "images_per_worker": 32,
    "forward_ms": round(1e3 * 8 * 32 / 1100 - 120, 1),
    "backward_ms": 120,
    "gradients_mb": 100,
    "bucket_mb": 0,
    "workers_per_server": 8,
    "server_gb_per_s": 20,
    "server_us": 5,
    "network_gb_per_s": 2.5,
    "network_us": 30,
}
LINE_RATE_GB_PER_S = 6.25  # 50 Gbit/s
PUBLISHED = {"efficiency_256": 0.90, "slowdown_352": 0.12, "ring_over_halving_doubling": 3.0}


Marks = tuple[Sequence[int], Sequence[float], str]
"""Workers, seconds per iteration, and what these are: points beside the model's lines."""


@cache
def profile(image_size: int = 224) -> tuple[tuple[float, float], ...]:
    """ResNet-50's gradients without a measurement: backward's time is spread in proportion to multiplications.

    Parameters
    ----------
    image_size : int
        Pixels.

    Returns
    -------
    tuple of (ready, bytes)
        Shares of backward's time, and of all gradients' bytes, from the last layer to the first.
    """
    from theanompi.lasagne.layers import Conv2DLayer, get_all_layers
    from theanompi.models.resnet50 import build_model

    layers = get_all_layers(build_model((1, 3, image_size, image_size))["fc1000"])
    work = 0.0
    gradients = []
    for layer in reversed(layers):
        for parameter in layer.get_params(trainable=True):
            size = math.prod(parameter.type.shape)
            if isinstance(layer, Conv2DLayer):
                _, _, height, width = layer.output_shape
                work += size * height * width
            elif parameter.ndim == 2:
                work += size
            gradients.append((work, size))
    total = sum(size for _, size in gradients)
    return tuple((ready / work, size / total) for ready, size in gradients)


def read_inputs(given: Any, where: str) -> Inputs:
    """The model's inputs from a JSON object.

    Parameters
    ----------
    given : dict
        ``name``, ``images_per_worker``, ``forward_ms`` (all that is not backward), ``backward_ms``; ``gradients_mb``,
        which become ready as ResNet-50's do, or ``gradients``, a list of [ms after backward began, MB];
        ``bucket_mb`` (0: one by one); ``workers_per_server``; ``server_gb_per_s`` and ``server_us``, which one
        worker a server does without; ``network_gb_per_s`` and ``network_us``, or ``allreduce``, a list of measured
        [ranks, MB, ms] to fit them to (halving/doubling). 1 MB = 10⁶ bytes.
    where : str
        For the messages.

    Raises
    ------
    InputError
        For a key that is missing, unknown or cannot be used.

    Examples
    --------
    >>> read_inputs(PAPER, "PAPER").workers_per_server
    8
    >>> read_inputs(PAPER | {"backward_ms": "long"}, "mine.json")
    Traceback (most recent call last):
    ...
    cost_model.InputError: mine.json: 'backward_ms': expected a number above 0, got 'long'
    """
    if not isinstance(given, dict):
        raise InputError(f"{where}: expected an object, got {type(given).__name__}")
    left = dict(given)

    def bad(key: str, expected: str, got: Any) -> InputError:
        return InputError(f"{where}: '{key}': expected {expected}, got {got!r}")

    def take(key: str) -> Any:
        if key not in left:
            raise InputError(f"{where}: expected a value for '{key}', got none")
        return left.pop(key)

    def number(key: str, above: bool = False) -> float:
        value = take(key)
        if not _is_number(value) or (above and value == 0):
            raise bad(key, "a number above 0" if above else "a number of at least 0", value)
        return float(value)

    def count(key: str) -> int:
        value = take(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise bad(key, "a whole number of at least 1", value)
        return value

    def rows(key: str, columns: str) -> list[list[float]]:
        value, width = take(key), columns.count(",") + 1
        good = isinstance(value, list) and value
        for row in value if good else []:
            if not (isinstance(row, list) and len(row) == width and all(map(_is_number, row))):
                raise bad(key, f"rows of {columns}", row)
        if not good:
            raise bad(key, f"a list of rows of {columns}", value)
        return value

    name = take("name")
    if not isinstance(name, str) or not name:
        raise bad("name", "a text", name)
    images, per_server = count("images_per_worker"), count("workers_per_server")
    forward, backward, bucket = number("forward_ms"), number("backward_ms", above=True), number("bucket_mb")
    if "gradients" in left:
        gradients = [(ms / 1e3, mb * 1e6) for ms, mb in rows("gradients", "[ms, MB]")]
        late = max(gradients)[0]
        if late > backward / 1e3 * (1 + 1e-9):
            raise bad("gradients", f"them to be ready within backward's {backward:g} ms", late * 1e3)
    else:
        total = number("gradients_mb", above=True)
        gradients = [(ready * backward / 1e3, share * total * 1e6) for ready, share in profile()]
    if "allreduce" in left:
        samples = [(int(p), mb * 1e6, ms / 1e3) for p, mb, ms in rows("allreduce", "[ranks, MB, ms]")]
        if any(p != ranks for (p, *_), (ranks, *_) in zip(samples, given["allreduce"], strict=True)):
            raise bad("allreduce", "whole numbers of ranks", given["allreduce"])
        try:
            network = fit(samples, "halving_doubling")
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    else:
        network = Link(number("network_us") / 1e6, 1e-9 / number("network_gb_per_s", above=True))
    server = network
    if per_server > 1:
        server = Link(number("server_us") / 1e6, 1e-9 / number("server_gb_per_s", above=True))
    if left:
        raise InputError(f"{where}: unknown key '{min(left)}'")
    return Inputs(
        name,
        images,
        forward / 1e3,
        backward / 1e3,
        tuple(gradients),
        bucket * 1e6,
        network,
        server,
        per_server,
    )


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < float("inf")


def read_file(path: Path) -> Inputs:
    """`read_inputs` of a file.

    Raises
    ------
    InputError
        Also where there is no such file, or it is not JSON.
    """
    try:
        given = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: expected a file of inputs, got {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, got {error}") from None
    return read_inputs(given, str(path))


def worker_counts(per_server: int) -> list[int]:
    """Powers of two, first within a server, then of full servers; and `ODD`.

    Examples
    --------
    >>> worker_counts(8)
    [1, 2, 4, 8, 16, 32, 64, 128, 256, 352, 512, 1024]
    """
    powers = [1 << i for i in range(LARGEST.bit_length())]
    counts = {p for p in powers if p < per_server} | {
        per_server * p for p in powers if per_server * p <= LARGEST
    }
    return sorted(counts | ({ODD} if ODD % per_server == 0 else set()))


def predict(inputs: Inputs) -> list[dict[str, Any]]:
    """Seconds per iteration and efficiency for every number of workers, algorithm, with overlap and without.

    Returns
    -------
    list of dict
        ``workers``, ``algorithm``, ``overlap``, ``iteration_s``, ``exchange_s`` (all of it), ``efficiency``
        (relative to a full server), ``images_per_s``.
    """
    rows = []
    for workers in worker_counts(inputs.workers_per_server):
        for algorithm in ALGORITHMS:
            for overlap in (False, True):
                seconds = inputs.iteration_s(workers, algorithm, overlap)
                rows.append(
                    {
                        "workers": workers,
                        "algorithm": algorithm,
                        "overlap": overlap,
                        "iteration_s": seconds,
                        "exchange_s": inputs.all_exchanges_s(workers, algorithm),
                        "efficiency": inputs.efficiency(workers, algorithm, overlap),
                        "images_per_s": workers * inputs.images_per_worker / seconds,
                    }
                )
    return rows


def show_predictions(inputs: Inputs, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print `predict`'s rows as a table."""
    link = inputs.network
    print(
        f"{inputs.name}: {inputs.images_per_worker} images a worker, {1e3 * inputs.forward_s:.1f} ms + backward"
        f" {1e3 * inputs.backward_s:.1f} ms, {sum(b for _, b in inputs.gradients) / 1e6:.1f} MB of gradients in"
        f" {len(pieces(inputs.gradients, inputs.bucket_bytes))} buckets, {inputs.workers_per_server} workers a"
        f" server, α = {1e6 * link.latency_s:.2f} µs, 1/β = {_rate(link.s_per_byte)}"
    )
    print(
        "ms per iteration (efficiency), the exchange after backward | behind it, where it costs no computing time"
    )
    titles = ("ring", "halving/doubling, fold", "halving/doubling, blocks")
    print("workers" + "".join(f"{title:>35}" for title in titles))
    for workers in dict.fromkeys(row["workers"] for row in rows):
        cells = [
            f"{1e3 * r['iteration_s']:9.1f} ({r['efficiency']:4.0%})" for r in rows if r["workers"] == workers
        ]
        pairs = (f"{after} |{behind:>16}" for after, behind in zip(cells[::2], cells[1::2], strict=True))
        print(f"{workers:7}" + "".join(f"{pair:>35}" for pair in pairs))


def _rate(s_per_byte: float) -> str:
    return f"{1e-9 / s_per_byte:.2f} GB/s" if s_per_byte else "no limit"


def paper() -> tuple[Inputs, dict[str, Any]]:
    """The paper's case and what the model says to its published figures.

    Returns
    -------
    inputs : Inputs
    report : dict
        ``published``, and by scenario what the model says: as above, the same in buckets, at the line's full rate.
    """
    inputs = read_inputs(PAPER, "PAPER")
    line = Link(0.0, 1e-9 / LINE_RATE_GB_PER_S)
    scenarios = {
        "gradient by gradient, 20 Gbit/s, 30 µs": inputs,
        "the same in buckets of 4 MB": replace(inputs, bucket_bytes=4e6),
        "gradient by gradient, 50 Gbit/s, 0 µs": replace(inputs, network=line),
    }
    return inputs, {"published": PUBLISHED, "model": {k: figures(v) for k, v in scenarios.items()}}


def figures(inputs: Inputs) -> dict[str, float]:
    """What the paper publishes, by the model.

    Parameters
    ----------
    inputs : Inputs
        With eight workers a server.

    Returns
    -------
    dict
        As `PUBLISHED`: with halving/doubling (in blocks) behind backward. Then the efficiency after backward, the
        slowdown with a fold instead of blocks, and the ratio of ring to halving/doubling between 32 servers for
        all gradients.
    """
    one = inputs.iteration_s(8, "binary_blocks", True)
    buckets = pieces(inputs.gradients, inputs.bucket_bytes)
    between = {
        name: sum(ALGORITHMS[name](32, nbytes, inputs.network) for _, nbytes in buckets)
        for name in ("ring", "halving_doubling")
    }
    return {
        "efficiency_256": inputs.efficiency(256, "binary_blocks", True),
        "slowdown_352": inputs.iteration_s(ODD, "binary_blocks", True) / one - 1,
        "ring_over_halving_doubling": between["ring"] / between["halving_doubling"],
        "efficiency_256_after_backward": inputs.efficiency(256, "binary_blocks", False),
        "slowdown_352_fold": inputs.iteration_s(ODD, "halving_doubling", True) / one - 1,
    }


def show_paper(report: Mapping[str, Any]) -> None:
    """Print `paper`'s report."""
    print(
        "of the paper: 32 images a GPU, 100 MB, 120 ms of backward, 8 GPUs a server, 1,100 images/s on one server"
    )
    print(
        "ours: when each gradient is ready, NVLink's 20 GB/s and 5 µs, the exchange one gradient after the other;"
    )
    print("  20 Gbit/s and 30 µs of the 50 Gbit/s Ethernet, chosen for the first and the third figure below")
    print(f"{'':40}{'256 GPUs':>10}{'352: slower':>13}{'ring ÷ h/d':>12}{'256, after':>12}{'352, fold':>11}")
    rows = {"the paper": report["published"], **report["model"]}
    for name, row in rows.items():
        print(
            f"{name:40}{row['efficiency_256']:10.1%}{row['slowdown_352']:+13.1%}"
            f"{row['ring_over_halving_doubling']:12.2f}"
            + (
                f"{row['efficiency_256_after_backward']:12.1%}{row['slowdown_352_fold']:+11.1%}"
                if "slowdown_352_fold" in row
                else ""
            )
        )


def measure_allreduces(ranks: Sequence[int], rounds: int) -> tuple[list[dict[str, Any]], float]:
    """Time allreduces of `SIZES`, the contenders (algorithm × ranks) in turn.

    Returns
    -------
    rows : list of dict
        ``algorithm``, ``ranks``, ``bytes``, ``seconds`` (`common.spread`).
    reduce_s_per_byte : float
        γ: median of the time that one process takes to add one buffer of 1 MiB to another.
    """
    started: dict[tuple[str, int], common.Contender] = {}
    sizes = [str(size) for size in SIZES]
    try:
        for algorithm in ("halving_doubling", "ring"):
            for k in ranks:
                words = ["--algorithm", algorithm, "--sizes", *sizes]
                name = f"{algorithm}, {k} ranks"
                started[algorithm, k] = common.Contender(name, "scaling_child.py", words, k, 1)
        said = common.interleave(list(started.values()), rounds, BURST_STEPS["allreduce"])
    finally:
        for contender in started.values():
            contender.close()
    rows, reduces = [], []
    for (algorithm, k), contender in started.items():
        bursts = said[contender.name]
        steps = [row for burst in bursts for row in burst["allreduce_s"][-BURST_STEPS["allreduce"] :]]
        if k == min(ranks):
            reduces += [s for b in bursts for s in b["reduce_s_per_byte"][-BURST_STEPS["allreduce"] :]]
        for nbytes, seconds in zip(SIZES, zip(*steps, strict=True), strict=True):
            row = {"algorithm": algorithm, "ranks": k, "bytes": nbytes, "seconds": common.spread(seconds)}
            rows.append(row)
    return rows, common.spread(reduces)["median"]


def measure_training(ranks: Sequence[int], rounds: int) -> dict[int, dict[str, Any]]:
    """Time the phases of ResNet-50's step, the numbers of ranks in turn, one thread a rank.

    Returns
    -------
    dict of int to dict
        By ranks: `scaling_child.PHASES`, in seconds (`common.spread`); ``forward_s``; and ``buckets``, rows of
        seconds since the start of the gradient function and bytes. The last two are medians over the bursts.
    """
    from scaling_child import PHASES

    folder = tempfile.TemporaryDirectory()
    started: dict[int, common.Contender] = {}
    try:
        for k in ranks:
            data = Path(folder.name, f"{k}.h5")
            common.write_synthetic(data, IMAGE_SIZE, EPOCH_STEPS * BATCH_SIZE * k)
            words = ["--algorithm", "halving_doubling", "--model", MODEL, "--data", str(data)]
            words += ["--image-size", str(IMAGE_SIZE), "--batch-size", str(BATCH_SIZE)]
            started[k] = common.Contender(f"{k} ranks", "scaling_child.py", words, k, 1)
        said = common.interleave(list(started.values()), rounds, BURST_STEPS["training"])
    finally:
        for contender in started.values():
            contender.close()
        folder.cleanup()
    report = {}
    for k, contender in started.items():
        bursts = said[contender.name]
        steps = [row for burst in bursts for row in burst["phases_s"][-BURST_STEPS["training"] :]]
        phases = dict(zip(PHASES, zip(*steps, strict=True), strict=True))
        ready = [[row[0] for row in burst["buckets"]] for burst in bursts]
        sizes = [row[1] for row in bursts[0]["buckets"]]
        median_ready = [common.spread(times)["median"] for times in zip(*ready, strict=True)]
        report[k] = {
            **{phase: common.spread(seconds) for phase, seconds in phases.items()},
            "forward_s": common.spread([burst["forward_s"] for burst in bursts])["median"],
            "buckets": list(zip(median_ready, sizes, strict=True)),
        }
    return report


def machine_inputs(training: Mapping[str, Any], network: Link) -> Inputs:
    """The model's inputs for this machine, from a rank's step and the fitted link.

    Every worker counts as a server of its own, which is as far from each other as two processes here.
    """
    forward = training["forward_s"]
    backward = training["calc"]["median"] - forward
    # Statistics, which travel along, may be there before backward begins; and a bucket's time is a median over bursts,
    # backward's over steps, so that the last one may lie a little behind the end.
    buckets = [(min(max(0.0, ready - forward), backward), float(size)) for ready, size in training["buckets"]]
    return Inputs(
        name="this machine",
        images_per_worker=BATCH_SIZE,
        forward_s=training["wait"]["median"] + forward + training["update"]["median"],
        backward_s=backward,
        gradients=tuple(buckets),
        bucket_bytes=0.0,
        network=network,
        server=network,
        workers_per_server=1,
    )


def check(
    inputs: Inputs,
    allreduces: Sequence[dict[str, Any]],
    training: Mapping[int, Mapping[str, Any]],
    cores: int,
) -> dict[str, Any]:
    """What the model says of what was measured.

    With more ranks than cores, everything that the ranks do at once is taken to last ranks/cores times as long: the
    model has no other notion of that.

    Returns
    -------
    dict
        ``allreduce``: the rows, each with ``predicted_s`` and ``error`` (predicted / measured − 1; none for 1 rank).
        ``training``: by ranks, ``load_factor`` and, each with ``measured_s``, ``predicted_s`` and ``error``, the
        exchange, the step, the step with the computing measured at that number of ranks instead of at one, the step
        with overlap, and what is exposed of the exchange in the replay, whose buckets are those of that number of
        ranks.
    """

    def held_against(measured: float, predicted: float) -> dict[str, float | None]:
        error = predicted / measured - 1 if predicted else None
        return {"measured_s": measured, "predicted_s": predicted, "error": error}

    rows = []
    for row in allreduces:
        k = row["ranks"]
        predicted = max(1.0, k / cores) * ALGORITHMS[row["algorithm"]](k, row["bytes"], inputs.network)
        rows.append({**row, **held_against(row["seconds"]["median"], predicted)})
    steps = {}
    for k, measured in training.items():
        load = max(1.0, k / cores)
        here = machine_inputs(measured, inputs.network)
        exchange = load * inputs.all_exchanges_s(k, "halving_doubling")
        left = exposed(
            sorted(here.gradients),
            lambda nbytes, k=k, load=load: load * inputs.exchange_s(k, "halving_doubling", nbytes),  # type: ignore[misc]
            max(here.gradients)[0],
        )
        predictions = {
            "exchange": exchange,
            "step": load * inputs.iteration_s(k, "halving_doubling", overlap=False),
            "step_of_computing_measured": here.forward_s + here.backward_s + exchange,
            "overlapped_step": load * inputs.iteration_s(k, "halving_doubling", overlap=True),
            "replay_exposed": left,
        }
        steps[k] = {"cores": cores, "load_factor": load, "skew_s": measured["skew"]["median"]} | {
            name: held_against(measured[MEASURED.get(name, name)]["median"], predicted)
            for name, predicted in predictions.items()
        }
    return {"allreduce": rows, "training": steps}


MEASURED = {"step_of_computing_measured": "step"}
TITLES = {
    "exchange": "exchange",
    "step": "step",
    "step_of_computing_measured": "step, computing as measured",
    "overlapped_step": "step with overlap, none free",
    "replay_exposed": "exposed, a core free each",
}


def show_check(inputs: Inputs, checks: Mapping[str, Any], fitted_ranks: Sequence[int]) -> None:
    """Print the fit, and `check`'s report as tables."""
    link = inputs.network
    print(
        f"fitted to {'/'.join(map(str, fitted_ranks))} ranks, halving/doubling, up to {FITTED_UP_TO >> 20} MiB:"
        f" α = {1e6 * link.latency_s:.2f} µs, 1/β = {_rate(link.s_per_byte)};"
        f" measured by itself: 1/γ = {_rate(link.reduce_s_per_byte)}"
    )
    print(
        f"{'allreduce':28}{'ranks':>6}{'KiB':>9}{'measured ms (quartiles)':>32}{'predicted':>11}{'error':>8}"
    )
    for row in checks["allreduce"]:
        if row["error"] is None:
            continue
        seconds = row["seconds"]
        quartiles = f"{1e3 * seconds['median']:.3f} ({1e3 * seconds['q1']:.3f}–{1e3 * seconds['q3']:.3f})"
        print(
            f"{row['algorithm']:28}{row['ranks']:6}{row['bytes'] / 1024:9.0f}{quartiles:>32}"
            f"{1e3 * row['predicted_s']:11.3f}{row['error']:+8.0%}"
        )
    print(f"{'ResNet-50':28}{'ranks':>6}{'measured ms':>14}{'predicted':>11}{'error':>8}")
    for k, row in checks["training"].items():
        print(
            f"  {k} on {row['cores']} cores: predictions are times {row['load_factor']:g}; slower ranks were waited for"
            f" {1e3 * row['skew_s']:.1f} ms, which is not in them"
        )
        for name, title in TITLES.items():
            part = row[name]
            error = "" if part["error"] is None else f"{part['error']:+8.0%}"
            print(f"{title:28}{k:6}{1e3 * part['measured_s']:14.1f}{1e3 * part['predicted_s']:11.1f}{error}")


def plot(cases: Sequence[Inputs], png: Path, marks: Mapping[str, Marks]) -> None:
    """Draw time per iteration and per epoch, and images per second, as figures 7 and 8 of Goyal et al.

    Parameters
    ----------
    cases : sequence of Inputs
        One row of two pictures each.
    png : pathlib.Path
    marks : mapping of str to Marks
        By name of a case.
    """
    # Heavy, and needed only here. A Figure, not pyplot: no display, no state shared with the user's plots.
    from matplotlib.figure import Figure

    lines = {"ring": ("ring", "#ee7733"), "binary_blocks": ("halving/doubling", "#4477aa")}
    figure = Figure(figsize=(11, 4.2 * len(cases)), dpi=130, layout="constrained")
    for inputs, (time, rate) in zip(cases, figure.subplots(len(cases), 2, squeeze=False), strict=True):
        per_server, n = inputs.workers_per_server, inputs.images_per_worker
        workers = np.array([k for k in worker_counts(per_server) if k >= per_server])
        for algorithm, (title, colour) in lines.items():
            for overlap, style in ((False, ":"), (True, "-")):
                seconds = np.array([inputs.iteration_s(k, algorithm, overlap) for k in workers.tolist()])
                label = f"{title}, {'behind' if overlap else 'after'} backward"
                line = {"color": colour, "ls": style, "lw": 1.5, "marker": ".", "ms": 4, "label": label}
                time.plot(workers * n, seconds, **line)
                rate.plot(workers, workers * n / seconds, **line)
        # Those of the last line: halving/doubling, behind backward.
        epoch = time.twinx()
        minutes = IMAGENET_IMAGES / (workers * n) * seconds / 60
        epoch.plot(workers * n, minutes, color="#999999", lw=1.2, label="epoch (right axis)")
        base = inputs.forward_s + inputs.backward_s
        rate.plot(workers, workers * n / base, color="#222222", lw=0.9, ls="--", label="ideal")
        if inputs.name in marks:
            counts, measured, label = marks[inputs.name]
            dots = {"color": "#222222", "marker": "o", "ms": 5, "ls": "", "label": label, "zorder": 5}
            time.plot(np.array(counts) * n, measured, **dots)
            rate.plot(counts, np.array(counts) * n / np.array(measured), **dots)
        time.set_title(f"{inputs.name}: time per iteration and epoch", fontsize=11)
        time.set_xlabel(f"minibatch size kn (n = {n})")
        time.set_ylabel("time per iteration (s)")
        time.set_ylim(0, 2.6 * base)
        epoch.set_ylabel("time per epoch of ImageNet (min)", color="#777777")
        epoch.legend(frameon=False, fontsize=8, loc="lower left")
        rate.set_title(f"{inputs.name}: throughput", fontsize=11)
        rate.set_xlabel("workers k")
        rate.set_ylabel("images/s")
        rate.legend(frameon=False, fontsize=8, loc="upper left")
        for axes in (time, rate):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
            axes.grid(alpha=0.25, lw=0.6)
            axes.set_axisbelow(True)
        for axes in (epoch, rate):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda y, _: f"{y:,g}")
        for axes in (time, rate, epoch):
            axes.spines["top"].set_visible(False)
        rate.spines["right"].set_visible(False)
    png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png)
    print(f"written: {png}")


def measure(ranks: Sequence[int], rounds: int) -> tuple[Inputs, dict[str, Any]]:
    """Measure this machine, fit the model to it, and hold the model against it.

    Returns
    -------
    inputs : Inputs
    report : dict
        ``fit``, `check`'s ``allreduce`` and ``training``, and the measured ``phases_s`` by ranks.
    """
    from theanompi.system import cgroup

    cores = cgroup.cores()
    several = [k for k in ranks if k > 1]
    # Ranks that share a core wait for their turn, which is neither latency nor bandwidth.
    fitted = [k for k in several if k <= cores] or [min(several)]
    allreduces, reduce_s_per_byte = measure_allreduces(ranks, rounds)
    samples = [
        (row["ranks"], row["bytes"], row["seconds"]["median"])
        for row in allreduces
        if row["algorithm"] == "halving_doubling" and row["ranks"] in fitted and row["bytes"] <= FITTED_UP_TO
    ]
    network = fit(samples, "halving_doubling", reduce_s_per_byte)
    training = measure_training(ranks, rounds)
    inputs = machine_inputs(training[1], network)
    checks = check(inputs, allreduces, training, cores)
    show_check(inputs, checks, fitted)
    print(
        "below, every worker of this machine is a server of its own, as far from others as two processes are here"
    )
    fitting = {"ranks": fitted, "up_to_bytes": FITTED_UP_TO, **asdict(network)}
    return inputs, {"fit": fitting, **checks, "phases_s": training}


def main() -> None:
    """Measure or read, predict, print, write."""
    parser = common.parser(__doc__)
    parser.epilog = (
        f"A FILE.json (what else there may be in it: see read_inputs):\n{json.dumps(PAPER, indent=1)}"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--paper", action="store_true", help="Goyal et al. 2017 alone; measures nothing")
    source.add_argument("--inputs", type=Path, metavar="FILE.json", help="your own numbers; measures nothing")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="(default: 1 2 4)")
    parser.add_argument("--rounds", type=int, default=6, help="bursts of each contender (default: 6)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="with a picture beside it (default: benchmarks/results/scaling_model.json if this machine is measured)",
    )
    args = parser.parse_args()
    try:
        run(args)
    except (InputError, FileNotFoundError) as error:
        raise SystemExit(f"scaling_model: {error}") from None


def run(args: argparse.Namespace) -> None:
    """What the command line asks for."""
    if args.out and args.out.suffix != ".json":
        raise InputError(f"{args.out}: expected the name of a .json file")
    if min(args.rounds, *args.ranks) < 1:
        raise InputError(
            f"--ranks, --rounds: expected numbers of at least 1, got {min(args.rounds, *args.ranks)}"
        )
    if 1 not in args.ranks or max(args.ranks) == 1:
        given = " ".join(map(str, args.ranks))
        raise InputError(f"--ranks: expected 1 and at least one larger number, got {given}")
    result: dict[str, Any] = {"benchmark": "scaling_model", "environment": common.environment()}
    cases: list[Inputs] = []
    marks: dict[str, Marks] = {}
    out: Path | None = args.out
    if args.inputs:
        cases.append(read_file(args.inputs))
    else:
        inputs, result["paper"] = paper()
        cases.append(inputs)
        one = inputs.forward_s + inputs.backward_s
        slower = (1.0, 1 / PUBLISHED["efficiency_256"], 1 + PUBLISHED["slowdown_352"])
        marks[inputs.name] = ((8, 256, ODD), [one * factor for factor in slower], "published")
        show_paper(result["paper"])
        if not args.paper:
            out = out or common.RESULTS / "scaling_model.json"
            inputs, result["machine"] = measure(args.ranks, args.rounds)
            cases.append(inputs)
            steps = result["machine"]["training"]
            measured = [steps[k]["step"]["measured_s"] for k in steps]
            shared = [
                f", {k} ranks on {row['cores']} cores" for k, row in steps.items() if row["load_factor"] > 1
            ]
            marks[inputs.name] = (list(steps), measured, f"measured{''.join(shared)}")
    result["inputs"] = [asdict(inputs) for inputs in cases]
    result["predictions"] = {inputs.name: predict(inputs) for inputs in cases}
    for inputs in cases:
        show_predictions(inputs, result["predictions"][inputs.name])
    if out:
        common.write_json(out, result)
        plot(cases, out.with_suffix(".png"), marks)


if __name__ == "__main__":
    main()
