"""What every benchmark here shares: paired contenders, medians, the facts of the machine, JSON.

A contender is a program that warms up and then waits. It reads one number of steps a line from a named pipe
per rank and says on standard output how long a burst took; the driver lets the contenders run in turn. Pipes,
because a rank that waited for its go inside MPI or gloo would spin and slow down whoever is running.
"""

import argparse
import json
import os
import platform
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# So that a benchmark runs in any checkout, and finds the reference network, which the tests share.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from theanompi.system.cgroup import cores  # noqa: E402
from theanompi.system.output import print_anything  # noqa: E402

print_anything()

RESULTS = ROOT / "benchmarks" / "results"
MARK = "@benchmark "
PIPES = "BENCHMARK_PIPES"
END = "end\n"
"""What a driver writes to a contender that is to end."""
WARM_UP_STEPS = 2
ORDER = Path("/sys/module/page_reporting/parameters/page_reporting_order")
MOST_ORDER = 10
"""Of free blocks, whose pages are two to the power of it."""
SETTLE_S = 6.0
BACK = """
import mmap, numpy
with mmap.mmap(-1, 4 << 30) as memory:
    memory.madvise(mmap.MADV_HUGEPAGE)
    numpy.frombuffer(memory, numpy.uint8)[::mmap.PAGESIZE] = 1
"""


def rank_and_size() -> tuple[int, int]:
    """Rank and number of ranks, as ``mpirun`` put them in the environment, or (0, 1)."""
    for rank, size in (("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")):
        if rank in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


def say(**facts: Any) -> None:
    """Tell the driver, one JSON object a line; ranks above 0 say nothing."""
    if rank_and_size()[0] == 0:
        print(MARK + json.dumps(facts), flush=True)


def peak_memory_mib(device: str) -> float:
    """The most memory this process held so far: allocations on the device, or on the CPU its resident set."""
    if device.startswith("cuda"):
        import torch  # the drivers, which import this module as well, do without

        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(
    step: Callable[[], object],
    synchronise: Callable[[], object],
    barrier: Callable[[], object],
    facts: Callable[[], Mapping[str, Any]],
    *,
    profile: bool = False,
) -> None:
    """A contender's life after its set-up: the first step, the warm-up, then bursts until the driver is gone.

    Parameters
    ----------
    step : callable
        One training step.
    synchronise : callable
        Returns when the device has finished.
    barrier : callable
        Returns when every rank has called it.
    facts : callable
        What to report besides the seconds of a burst, as peak memory.
    profile : bool
        Also report the ``kernels`` of a burst: the milliseconds of each on a CUDA device, by name.
    """

    def burst(steps: int) -> None:
        for _ in range(steps):
            step()
        synchronise()

    # Such as that a step cannot be recorded as a CUDA graph, and is slower.
    with warnings.catch_warnings(record=True) as warned:
        step()
        synchronise()
        say(first_step=True)
        start = time.perf_counter()
        for _ in range(WARM_UP_STEPS):
            step()
        synchronise()
        say(step_s=(time.perf_counter() - start) / WARM_UP_STEPS)
        with open(Path(os.environ[PIPES], str(rank_and_size()[0])), encoding="utf-8") as pipe:
            for line in pipe:
                if line == END:
                    break
                barrier()
                start = time.perf_counter()
                more = {}
                if profile:
                    more["kernels"] = kernel_times(partial(burst, int(line)))
                else:
                    burst(int(line))
                barrier()
                say(
                    seconds=time.perf_counter() - start,
                    **more,
                    **facts(),
                    warnings=sorted({str(w.message) for w in warned}),
                )


def kernel_times(run: Callable[[], object]) -> dict[str, float]:
    """Milliseconds that a CUDA device spends in each kernel and copy while something runs, by its name."""
    from torch import profiler  # the drivers, which import this module as well, do without

    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as recorded:
        run()
    times: dict[str, float] = {}
    for event in recorded.events():
        if str(event.device_type) == "DeviceType.CUDA":
            times[event.name] = times.get(event.name, 0.0) + event.self_device_time_total / 1e3
    return times


def page_reporting_order() -> int | None:
    """The order of free blocks that go back to a virtual machine's host; above `MOST_ORDER`, or negative, none do."""
    return int(ORDER.read_text("ascii")) if ORDER.exists() else None


def back_memory() -> None:
    """Touch memory, and give it back, so that a process that starts now finds it.

    A virtual machine may have to get a page from its host when it is first touched, which takes longer than all else
    of a page fault; then a start's time would tell who ran before. Where the host takes free memory back, within two
    seconds, that is waited for: a process finds what any that starts alone does.
    """
    if (order := page_reporting_order()) is not None and 0 <= order <= MOST_ORDER:
        time.sleep(SETTLE_S)
        return
    # In a process of its own: the most that this one ever held is counted to its children too.
    subprocess.run([sys.executable, "-c", BACK], check=True)


class Contender:
    """A contender's process, or its ``mpirun``, as the driver sees it.

    Parameters
    ----------
    name : str
        For the report.
    script : str
        File name in this folder, or in that of `root`.
    args : sequence of str
        The script's arguments.
    ranks : int
        With more than one, ``mpirun`` starts them.
    threads : int
        ``OMP_NUM_THREADS`` of each rank.
    root : pathlib.Path
        The checkout whose script and package it runs.

    Attributes
    ----------
    first_step_s : float
        Seconds from the start of the process to the end of its first step.
    step_s : float
        Seconds of one step in the warm-up.
    """

    def __init__(
        self, name: str, script: str, args: Sequence[str], ranks: int, threads: int, root: Path = ROOT
    ) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory()
        self._pipes = []
        for rank in range(ranks):
            pipe = Path(self._folder.name, str(rank))
            os.mkfifo(pipe)
            # Opened for reading too, or this would wait for a contender that may never come.
            self._pipes.append(os.open(pipe, os.O_RDWR))
        self._errors = open(Path(self._folder.name, "errors"), "w+", encoding="utf-8")  # noqa: SIM115
        python = [sys.executable, str(root / "benchmarks" / script), *args]
        back_memory()
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [*mpirun(ranks), *python] if ranks > 1 else python,
            cwd=root,
            env={**child_environment(threads, root), PIPES: self._folder.name},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )
        self._hear("first_step")
        self.first_step_s = time.perf_counter() - start
        self.step_s = float(self._hear("step_s")["step_s"])

    def _hear(self, key: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # A rank's other output may stand before the mark in the same line.
            _, mark, said = line.partition(MARK)
            if mark:
                facts: dict[str, Any] = json.loads(said)
                if key in facts:
                    return facts
        self._errors.seek(0)
        tail = "".join(self._errors.readlines()[-30:])
        raise RuntimeError(f"{self.name}: exited with {self._process.wait()}, expected its '{key}'\n{tail}")

    def burst(self, steps: int) -> dict[str, Any]:
        """Let it run.

        Parameters
        ----------
        steps : int
            Number of training steps.

        Returns
        -------
        dict
            ``seconds`` and what else the contender reports.
        """
        for pipe in self._pipes:
            os.write(pipe, f"{steps}\n".encode())
        return self._hear("seconds")

    def __enter__(self) -> "Contender":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Tell it to leave its loop, and wait for its end."""
        for pipe in self._pipes:
            os.write(pipe, END.encode())
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()
        # Not before: what nobody has opened yet keeps what was written as long as this one has it open.
        for pipe in self._pipes:
            os.close(pipe)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()
        self._folder.cleanup()


def child_environment(threads: int, root: Path = ROOT) -> dict[str, str]:
    """The environment of a contender: so many threads in each process, this ``mpirun`` and a checkout first.

    Modules are kept compiled, as they are where nothing else is said.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    modules = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    outer = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**outer, "PATH": path, "PYTHONPATH": modules, "OMP_NUM_THREADS": str(threads)}


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def mpirun(ranks: int) -> list[str]:
    """The first words of a command line for so many ranks, more than there are cores too, as root too."""
    path = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
    if path is None:
        raise FileNotFoundError(f"mpirun: expected it beside {sys.executable} or on PATH, found none")
    version = subprocess.run([path, "--version"], capture_output=True, encoding="utf-8", check=False).stdout
    extra = ["--allow-run-as-root", "--oversubscribe"] if "Open MPI" in version else []
    return [path, *extra, "-np", str(ranks)]


def interleave(contenders: Sequence[Contender], rounds: int, steps: int) -> dict[str, list[dict[str, Any]]]:
    """Bursts in turn, the order reversed every round, so that what disturbs the machine meets all of them.

    Parameters
    ----------
    contenders : sequence of Contender
        Already warm.
    rounds : int
        Bursts of each.
    steps : int
        Steps of a burst.

    Returns
    -------
    dict of str to list of dict
        By contender, what it said after each round.
    """
    said: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
    for turn in range(rounds):
        for contender in contenders[:: 1 if turn % 2 == 0 else -1]:
            said[contender.name].append(contender.burst(steps))
    return said


def spread(samples: Sequence[float]) -> dict[str, Any]:
    """Median and interquartile range.

    Parameters
    ----------
    samples : sequence of float
        At least one.

    Returns
    -------
    dict
        ``median``, ``q1``, ``q3``, ``iqr``, ``samples``.

    Examples
    --------
    >>> summary = spread([4.0, 1.0, 2.0, 3.0, 5.0])
    >>> summary["median"], summary["q1"], summary["q3"], summary["iqr"]
    (3.0, 2.0, 4.0, 2.0)
    """
    quartiles = [samples[0]] * 3
    if len(samples) > 1:
        quartiles = statistics.quantiles(samples, n=4, method="inclusive")
    q1, median, q3 = quartiles
    return {"median": median, "q1": q1, "q3": q3, "iqr": q3 - q1, "samples": list(samples)}


def compare(
    contenders: Sequence[Contender], rounds: int, burst_s: float, images_per_step: int
) -> dict[str, Any]:
    """Images per second of each contender, and of the first against each other one, burst against burst.

    Parameters
    ----------
    contenders : sequence of Contender
        The first is the one that the others are compared with.
    rounds : int
        Bursts of each.
    burst_s : float
        About how long the slowest one's burst takes, in seconds; at least one step.
    images_per_step : int
        Over all ranks.

    Returns
    -------
    dict
        ``steps_per_burst``; by name, ``images_per_s`` (`spread`), ``first_step_s``, ``peak_memory_mib`` and, if there
        were any, ``warnings``; for those after the first, ``ratio`` (`spread` of the first one's rate over theirs in
        the same round).
    """
    steps = max(1, round(burst_s / max(contender.step_s for contender in contenders)))
    said = interleave(contenders, rounds, steps)
    rates = {
        name: [images_per_step * steps / burst["seconds"] for burst in bursts]
        for name, bursts in said.items()
    }
    first = contenders[0].name
    report: dict[str, Any] = {"steps_per_burst": steps}
    for contender in contenders:
        name, last = contender.name, said[contender.name][-1]
        report[name] = {
            "images_per_s": spread(rates[name]),
            "first_step_s": contender.first_step_s,
            "peak_memory_mib": last["peak_memory_mib"],
        }
        if last.get("warnings"):
            report[name]["warnings"] = last["warnings"]
        if name != first:
            paired = [ours / theirs for ours, theirs in zip(rates[first], rates[name], strict=True)]
            report[name]["ratio"] = spread(paired)
    return report


def print_comparison(title: str, report: Mapping[str, Any]) -> None:
    """One line per contender of a `compare` report."""
    print(title)
    for name, row in report.items():
        if isinstance(row, dict):
            rate = row["images_per_s"]
            ratio = (
                f"  ratio {row['ratio']['median']:.3f} ± {row['ratio']['iqr'] / 2:.3f}"
                if "ratio" in row
                else ""
            )
            print(
                f"  {name:<24}{rate['median']:9.2f} images/s (IQR {rate['iqr']:.2f}), first step"
                f" {row['first_step_s']:.1f} s, peak {row['peak_memory_mib']:.0f} MiB{ratio}",
                flush=True,
            )
            for warning in row.get("warnings", []):
                print(f"    {warning}", flush=True)


def write_synthetic(path: Path, size: int, images: int) -> None:
    """Write a data set of noise in the shape of ImageNet: three channels, 1,000 classes, its augmentation.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    size : int
        Height and width in pixels.
    images : int
        Training images.
    """
    import numpy as np  # the contenders, which import this module as well, time their own imports

    from theanompi.data import write_dataset

    noise = np.random.default_rng(0)
    pixels = noise.integers(0, 256, (images, size, size, 3), dtype=np.uint8)
    labels = noise.integers(0, 1000, images)
    write_dataset(
        path,
        (pixels, labels),
        (pixels[:1], labels[:1]),
        name="noise",
        class_names=[str(label) for label in range(1000)],
        augmentation="imagenet",
        description="Random pixels and labels.",
        source="benchmarks/common.py",
        licence="CC0",
    )


LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")


def environment() -> dict[str, Any]:
    """Hardware, versions, commit and date, for the head of a result file."""
    packages = ("torch", "pytensor", "numpy", "mpi4py", "mpich", "openmpi", "impi-rt")
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "uncommitted_changes": bool(_output("git", "-C", str(ROOT), "status", "--porcelain")),
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in packages if name in installed},
        "cpu": _field("/proc/cpuinfo", "model name"),
        # What keeps torch from instructions that the processor has.
        "limited_to": {name: os.environ[name] for name in LIMITS if name in os.environ},
        "cores": cores(),
        "memory_mib": int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) // 1024,
        "page_reporting_order": page_reporting_order(),
        "gpus": (
            _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader") or ""
        ).splitlines(),
        "load_average_1_min": os.getloadavg()[0],
    }


def _output(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def _field(path: str, name: str) -> str | None:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def parser(text: str | None) -> argparse.ArgumentParser:
    """A parser whose help has a module's docstring, laid out for the terminal.

    Parameters
    ----------
    text : str
        Paragraphs, and lists in which two blanks or more follow each name.
    """
    from theanompi.config import OneLineParser  # not above, for the contenders' sake

    joined = re.sub(r"\n +", " ", str(text).strip())
    listed = re.sub(r"^(\S+(?: \S+)*) {2,}", r"\1\t", joined, flags=re.MULTILINE)
    return OneLineParser(description=re.sub(r"(?<!\n)\n(?!\n|[^\n]*\t)", " ", listed))


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result file, its folder too, and say where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {path}")


def gradient_shapes(network: Any) -> dict[str, tuple[int, ...]]:
    """What a run exchanges of a network, by name: its gradients in the order of backward, and its batch statistics."""
    from theanompi.lasagne.layers import get_all_params

    trainable = get_all_params(network, trainable=True)
    statistics = get_all_params(network, batch_norm_stat=True)
    return {p.name: p.type.shape for p in [*reversed(trainable), *statistics]}
