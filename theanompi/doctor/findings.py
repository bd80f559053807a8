"""What is to be thought of a machine: each function turns answers of `theanompi.doctor.questions` into `Finding`s.

They are functions of plain numbers and texts, so that they can say what this machine cannot show.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from theanompi.config import ConfigError, Host, RunConfig, counted, default_loader_processes, local_device
from theanompi.launch.mpirun import LATE, World
from theanompi.record.metrics import as_number

LEVELS = ("ok", "warning", "problem")
MIB, GIB = 2**20, 2**30
THREAD_LEVELS = ("MPI_THREAD_SINGLE", "MPI_THREAD_FUNNELED", "MPI_THREAD_SERIALIZED", "MPI_THREAD_MULTIPLE")
MOST_NAMES = 4
SMALL_SHM = 256 * MIB
LARGER_SHM = (
    "remove what fills it, or make it larger: docker run --shm-size=2g, or mount -o remount,size=2g /dev/shm"
)
SMALL_MEMORY = GIB
_NETWORK = re.compile(r"nfs|lustre|gpfs|beegfs|ceph|cifs|smb|afs|glusterfs|9p|panfs|fuse\.(?!fuse-overlayfs)")

OTHER_MPIRUN = (
    "put the mpirun of that library first on PATH, or have mpi4py load the library of that mpirun: "
    "export MPI4PY_LIBMPI=/path/to/libmpi.so"
)
NOT_JUDGED = "this is not judged"
FAMILIES = {"mpich": "MPICH", "openmpi": "Open MPI", "intel": "Intel(R) MPI"}

Facts = Mapping[str, Any]


class Finding(NamedTuple):
    """One line of the doctor: a topic, one of `LEVELS`, what was found, and what helps unless it is ok."""

    topic: str
    level: str
    text: str
    remedy: str = ""


def ok(topic: str, text: str) -> Finding:
    """All is well.

    >>> ok("cores", "2").level
    'ok'
    """
    return Finding(topic, "ok", text)


def warning(topic: str, text: str, remedy: str) -> Finding:
    """It will work, though not as it could.

    >>> warning("cores", "4 ranks on 2 cores", "-s 2").level
    'warning'
    """
    return Finding(topic, "warning", text, remedy)


def problem(topic: str, text: str, remedy: str) -> Finding:
    """It will not work.

    >>> problem("data", "none there", "--data digits").level
    'problem'
    """
    return Finding(topic, "problem", text, remedy)


def load(busy: str) -> Finding:
    """Say whether what is timed on this machine means anything.

    >>> load("load 20 on 2 processors").text
    'load 20 on 2 processors: rates below are of a busy machine'
    """
    if busy:
        return warning("load", f"{busy}: rates below are of a busy machine", "this again when it is quiet")
    return ok("load", "the machine is quiet enough for what is timed")


def allowing_for(busy: str, finding: Finding) -> Finding:
    """Do not judge what has only taken too long, if the machine is busy.

    >>> late = problem("data", "digits: opening it had not ended after 60 s", "another data set")
    >>> allowing_for("load 20 on 2 processors", late).text
    'digits: opening it had not ended after 60 s; busy machine (load 20 on 2 processors): this is not judged'
    >>> allowing_for("", late) == late
    True
    """
    if finding.level != "problem" or LATE not in finding.text or not busy:
        return finding
    text = f"{finding.text}; busy machine ({busy}): {NOT_JUDGED}"
    return warning(finding.topic, text, "this again when it is quiet")


def size(n: float) -> str:
    """Spell a number of bytes.

    >>> size(65536), size(102228128), size(3e10)
    ('64 KiB', '97.5 MiB', '27.9 GiB')
    """
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if n >= unit:
            return f"{n / unit:.1f}".removesuffix(".0") + f" {name}"
    return f"{n:.0f} bytes"


def few(names: Sequence[str], most: int = 3) -> str:
    """Join names, the first few of many.

    >>> few(["a", "b"]), few(["a", "b", "c", "d"])
    ('a, b', 'a, b, c and 1 more')
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def software(facts: Facts) -> Iterator[Finding]:
    """Judge Python and the packages.

    >>> facts = {"packages": {"torch": {"error": "ImportError: libcudart.so.13: no such file"}}}
    >>> next(software(facts)).text
    'torch cannot be imported (ImportError: libcudart.so.13: no such file)'
    """
    if "python" in facts:
        yield ok(
            "python", f"{facts['python']} at {facts['executable']} on {facts['host']} ({facts['system']})"
        )
    if "packages" in facts:
        found = {name: about for name, about in facts["packages"].items() if "version" in about}
        for name, about in facts["packages"].items():
            if name not in found:
                remedy = f"pip install {name} into the environment of this Python, or start another one's tmlauncher"
                if "MPI library" in about["error"]:
                    remedy = "pip install mpich into the environment of this Python, load your cluster's MPI module, "
                    remedy += "or export MPI4PY_LIBMPI=/path/to/libmpi.so"
                yield problem("packages", f"{name} cannot be imported ({about['error']})", remedy)
        if found:
            own = f"theanompi {facts['theanompi']} ({facts['folder']}), " if "theanompi" in facts else ""
            yield ok(
                "packages", own + ", ".join(f"{name} {about['version']}" for name, about in found.items())
            )
    if "library" in facts:
        yield ok("MPI library", facts["library"])
    if facts.get("compiled"):
        yield ok("C compiler", "batch normalisation on the CPU is compiled")
    elif "compiled" in facts:
        yield warning(
            "C compiler",
            "none that works: batch normalisation on the CPU takes more passes over memory",
            "a C compiler on PATH, such as apt install gcc",
        )


def _triton(problem: str) -> Iterator[Finding]:
    """Judge whether our kernels for GPUs run.

    >>> [finding.text for finding in _triton("")]
    ["batch normalisation, max pooling and crops on GPUs are Triton's kernels"]
    """
    if not problem:
        yield ok("Triton", "batch normalisation, max pooling and crops on GPUs are Triton's kernels")
    else:
        yield warning(
            "Triton",
            f"{problem}: batch normalisation, max pooling and crops on GPUs are torch's, in more passes over memory",
            "pip install 'triton>=3.6', as torch's builds for CUDA bring along, with a C compiler and Python's headers",
        )


def launcher(place: World | None, devices: Sequence[str]) -> Iterator[Finding]:
    """Judge what a run would be that is started from where the doctor is: in a job, perhaps, of somebody's mpirun.

    >>> next(launcher(World(0, 2), ("cpu", "cpu", "cpu"))).text
    'this is a rank of an mpirun with 2: no other is started for the 3 devices'
    """
    if place is None:
        return
    if place.size == 1:
        yield ok(
            "launcher",
            "this is the only process of a job: "
            + ("it can be the worker" if len(devices) == 1 else f"an mpirun starts {len(devices)} ranks"),
        )
    elif len(devices) in (1, place.size):
        yield ok(
            "launcher", f"this is a rank of an mpirun with {place.size or 'several'}, and so will be a worker"
        )
    else:
        yield problem(
            "launcher",
            f"this is a rank of an mpirun with {place.size or 'several'}: no other is started for the {len(devices)} "
            "devices",
            "one device for all ranks, or as many on each machine as ranks, or tmlauncher without that mpirun",
        )


def mpirun(path: str, expected: int, library: str, facts: Facts) -> Iterator[Finding]:
    """Judge what each of `expected` ranks that were really started by the mpirun at `path` sees.

    >>> facts = {"size": 1, "threads": 3}
    >>> [finding.level for finding in mpirun("/usr/bin/mpirun", 2, "Open MPI v5.0.11", facts)]
    ['problem', 'ok']
    """
    if facts["size"] == expected:
        yield ok("mpirun", f"{path} started {expected} ranks, which see each other")
    else:
        yield problem(
            "mpirun",
            f"{path} does not belong to {library}: it started {expected} processes, and each is alone",
            OTHER_MPIRUN,
        )
    level = THREAD_LEVELS[facts["threads"]]
    if level == THREAD_LEVELS[-1]:
        yield ok("thread level", level)
    else:
        yield problem(
            "thread level",
            f"{level} is what MPI gave; the exchange needs {THREAD_LEVELS[-1]}, to sum while backward goes on",
            "unset MPI4PY_RC_THREADS and MPI4PY_RC_THREAD_LEVEL, or use an MPI library that was built with it",
        )


def window(helped: bool) -> Finding:
    """Say how ranks that are not in step get at each other's memory.

    >>> window(helped=False).text
    'ranks get at the centre while its owner computes, without help'
    """
    how = "with the help of a thread on each rank" if helped else "without help"
    return ok("one-sided", f"ranks get at the centre while its owner computes, {how}")


def no_mpirun(path: str, kind: str, library: str, how: str) -> Finding:
    """Judge an mpirun whose job failed, by its family and by the library that mpi4py loads.

    >>> no_mpirun("/usr/bin/mpirun", "openmpi", "MPICH Version: 5.0.2", "failed (exit status 16)").text
    '/usr/bin/mpirun is of Open MPI and does not belong to MPICH Version: 5.0.2: a job failed (exit status 16)'
    """
    if FAMILIES[kind] not in library:
        text = f"{path} is of {FAMILIES[kind]} and does not belong to {library}: a job {how}"
        return problem("mpirun", text, OTHER_MPIRUN)
    return problem(
        "mpirun",
        f"{path}: a job {how}",
        f"try '{path} -n 2 hostname': if that fails too, it is the launcher, else the MPI library",
    )


def cuda_aware(facts: Facts, gpus: bool) -> Iterator[Finding]:
    """Judge what the library claims and, where ranks have GPUs, what it proved.

    >>> list(cuda_aware({"claimed": False, "reason": "it says no"}, gpus=False))[0].text
    'not needed without a GPU (it says no)'
    """
    remedy = (
        "a CUDA-aware MPI library: Intel MPI (pip install 'impi-rt<2021.19', with I_MPI_OFFLOAD=1), or your "
        "cluster's Open MPI with UCX by MPI4PY_LIBMPI=/path/to/libmpi.so and its mpirun on PATH"
    )
    if not gpus:
        yield ok("CUDA-aware", f"not needed without a GPU ({facts['reason']})")
    elif not facts["claimed"]:
        yield warning(
            "CUDA-aware", f"{facts['reason']}: gradients are staged through pinned host memory", remedy
        )
    elif facts["use_direct"]:
        yield ok("CUDA-aware", f"claimed and proven: {facts['reason']}")
    else:
        yield warning(
            "CUDA-aware",
            f"claimed, but: {facts['reason']}; gradients are staged through pinned host memory",
            remedy,
        )


def allreduce(ranks: int, sums: Sequence[Facts]) -> Iterator[Finding]:
    """Judge the sums that were timed: one line per path.

    >>> sums = [{"path": "host", "bytes": 65536, "seconds": 1e-5, "right": True}]
    >>> next(allreduce(2, sums)).text
    'host memory, 2 ranks: 64 KiB 6.6 GB/s'
    """
    names = {"host": "host memory", "direct": "device memory", "staged": "staged from the device"}
    for path, name in names.items():
        own = [item for item in sums if item["path"] == path]
        wrong = [size(item["bytes"]) for item in own if not item["right"]]
        if wrong:
            yield problem(
                "allreduce",
                f"{name}, {ranks} ranks: wrong sums of {few(wrong)}",
                "another MPI library; nothing that this one sums can be trusted",
            )
        elif own:
            speeds = ", ".join(f"{size(i['bytes'])} {_speed(i['bytes'] / i['seconds'])}" for i in own)
            yield ok("allreduce", f"{name}, {ranks} ranks: {speeds}")


def _speed(rate: float) -> str:
    return f"{as_number(rate / 1e9, 2)} GB/s"


def devices(wanted: Sequence[str], facts: Facts, where: str) -> Iterator[Finding]:
    """Judge the GPUs of a machine and which rank gets which device.

    Parameters
    ----------
    wanted
        One name per rank of the machine, as `theanompi.config.hosts` gives them.
    facts
        With ``gpus`` and ``driver``.
    where
        The machine's name.

    Examples
    --------
    >>> facts = {"gpus": [], "driver": None}
    >>> [finding.text for finding in devices(("cuda:0",), facts, "node0")]
    ['none', "devices: expected one of the 0 GPUs that torch sees here, got 'cuda:0'"]
    """
    gpus, driver = facts["gpus"], facts["driver"]
    about = [f"cuda:{i} {g['name']}, {size(g['memory'])}, {g['uuid']}" for i, g in enumerate(gpus)]
    if gpus:
        yield ok("GPUs", f"{'; '.join(about)}; driver {driver or 'unknown'}")
    elif driver:
        yield warning(
            "GPUs",
            f"torch sees none, though driver {driver} is loaded",
            "a torch that was built for CUDA and for this driver; CUDA_VISIBLE_DEVICES must not hide the GPUs",
        )
    else:
        yield ok("GPUs", "none")
    if gpus and "triton" in facts:
        yield from _triton(facts["triton"])
    busy = [f"cuda:{i} ({size(g['free'])} of {size(g['memory'])})" for i, g in enumerate(gpus)]
    busy = [text for text, g in zip(busy, gpus, strict=True) if g["free"] < g["memory"] / 2]
    if busy:
        yield warning(
            "GPUs",
            f"less than half of the memory is free on {few(busy)}",
            "another job uses it (nvidia-smi shows whose): wait for its end, or choose other devices",
        )
    try:
        chosen = chosen_devices(wanted, len(gpus))
    except ConfigError as error:
        yield problem(
            "ranks",
            str(error),
            f"--devices (DEVICES in a cfg file) that {where} has, at most one rank for each"
            if gpus
            else "--device cpu, or a machine with a GPU that torch sees",
        )
        return
    each = ", ".join(f"{i} on {name}" for i, name in enumerate(chosen))
    text = f"{len(chosen)} on " + (f"the CPU of {where}" if set(chosen) == {"cpu"} else f"{where}: {each}")
    shared = [name for name in dict.fromkeys(chosen) if name != "cpu" and chosen.count(name) > 1]
    if shared:
        yield warning(
            "ranks",
            f"{text}: {few(shared)} shared by several ranks, which is no faster than one rank",
            "one rank per GPU with a larger --batch-size, or --accumulation",
        )
    else:
        yield ok("ranks", text)


def chosen_devices(wanted: Sequence[str], n_cuda: int) -> list[str]:
    """Return the device of each rank of a machine, as its worker will choose it.

    >>> chosen_devices(("auto", "auto"), n_cuda=0)
    ['cpu', 'cpu']
    """
    return [local_device(wanted, rank, n_cuda) for rank in range(len(wanted))]


def shares(cores: int, ranks: int, loader_processes: int | None) -> tuple[int, int]:
    """Return threads and loader processes of each rank, as its worker will choose them.

    >>> shares(16, 4, None)
    (4, 3)
    """
    threads = max(1, cores // ranks)
    return threads, loader_processes or default_loader_processes(threads)


def cores(
    facts: Facts, config: RunConfig, ranks: int, bind: bool, omp_threads: str | None
) -> Iterator[Finding]:
    """Judge cores and memory for the ranks of one machine.

    >>> memory = {"total": 8 * GIB, "available": 6 * GIB}
    >>> facts = {"cores": 2, "processors": 2, "limits": {}, "memory": memory}
    >>> [finding.level for finding in cores(facts, RunConfig(), ranks=4, bind=False, omp_threads=None)]
    ['warning', 'ok']
    """
    n, limits, memory = facts["cores"], facts["limits"], facts["memory"]
    threads, loaders = shares(n, ranks, config.loader_processes)
    limited = n < facts["processors"]
    of = f" (of {facts['processors']}: the control group allows {limits['cores']:.3g})" if limited else ""
    text = f"{n}{of} for {counted(ranks, 'rank')}: "
    text += f"OMP_NUM_THREADS={omp_threads}" if omp_threads else counted(threads, "thread")
    text += f" and {counted(loaders, 'loader process', 'loader processes')} each"
    if ranks > n and bind:
        yield problem("cores", f"{text}; --bind needs a core for each rank", "fewer ranks, or no --bind")
    elif limited and (omp_threads or "").isdecimal() and ranks * int(omp_threads or 0) > limits["cores"]:
        yield warning(
            "cores",
            f"{text}: threads above that limit are held up",
            f"unset OMP_NUM_THREADS, for {threads} each, or a larger CPU limit of the container",
        )
    elif ranks > n:
        yield warning("cores", f"{text}: ranks take turns on a core", f"at most {counted(n, 'rank')} here")
    else:
        yield ok("cores", text)
    total = min(memory["total"], limits.get("memory", memory["total"]))
    free = min(memory["available"], total - limits.get("memory_used", 0))
    text = f"{size(free)} of {size(total)} free, {size(free / ranks)} for each rank"
    if "memory" in limits:
        text += " (limited by the control group)"
    if free / ranks < SMALL_MEMORY:
        yield warning("memory", text, "fewer ranks, a smaller --batch-size or fewer --loader-processes")
    else:
        yield ok("memory", text)


def system(facts: Facts) -> Iterator[Finding]:
    """Judge locked memory, where it matters, and shared memory.

    >>> facts = {"gpus": [], "infiniband": False, "shm": {"size": GIB, "free": GIB, "left": {"mpich_shm_1_0": MIB}}}
    >>> next(system(facts)).remedy
    'while no job of yours runs: rm /dev/shm/mpich_shm_1_0'
    """
    if facts["gpus"] or facts["infiniband"]:
        limit = facts["locked_memory"]
        if limit < 0:
            yield ok("locked memory", "unlimited")
        else:
            yield warning(
                "locked memory",
                f"at most {size(limit)}: InfiniBand and GPUs register the memory that they transfer",
                "ulimit -l unlimited before the start, or memlock in /etc/security/limits.conf; "
                "docker run --ulimit memlock=-1",
            )
    shm = facts["shm"]
    text = f"{size(shm['free'])} of {size(shm['size'])} free"
    if shm["left"]:
        left = len(shm["left"])
        yield warning(
            "/dev/shm",
            f"{text}; crashed MPI jobs left {counted(left, 'file')}, {size(sum(shm['left'].values()))}",
            f"while no job of yours runs: {_remove(list(shm['left']))}",
        )
    elif shm["free"] < SMALL_SHM:
        yield warning("/dev/shm", f"{text}; ranks of one machine exchange through it", LARGER_SHM)
    else:
        yield ok("/dev/shm", text)


def small_shm(facts: Facts, how: str) -> Finding | None:
    """Judge whether a process that started MPI, and failed, had too little shared memory for it.

    >>> small_shm({"shm": {"size": 16 * MIB, "free": 16 * MIB}}, "crashed (Segmentation fault)").text
    '16 MiB of 16 MiB free, where 256 MiB should be: MPI needs it to start, and a process that did crashed \
(Segmentation fault)'
    >>> small_shm({"shm": {"size": GIB, "free": GIB}}, "crashed (Segmentation fault)")
    """
    shm = facts.get("shm")
    if shm is None or shm["free"] >= SMALL_SHM:
        return None
    return problem(
        "/dev/shm",
        f"{size(shm['free'])} of {size(shm['size'])} free, where {size(SMALL_SHM)} should be: MPI needs it to start, "
        f"and a process that did {how}",
        LARGER_SHM,
    )


def _remove(names: Sequence[str]) -> str:
    if len(names) > MOST_NAMES:
        names = sorted({re.split(r"(?<=[_.-])", name)[0] + "*" for name in names})
    return "rm " + " ".join(f"/dev/shm/{name}" for name in names)


def dataset(facts: Facts, config: RunConfig) -> Iterator[Finding]:
    """Judge the data set that was opened, and how fast it is read.

    >>> facts = {"items_per_s": 5120.0, "bytes_per_s": 5.24e6, "seconds": 2.0, "cached": 1.0}
    >>> next(dataset(facts, RunConfig(batch_size=16, loader_processes=1))).text
    '5,120 images/s, 5.2 MB/s, by 1 loader process, batches of 16; 100 % of the file was in memory before'
    """
    if "n_train" in facts:
        of_classes = f" of {counted(facts['n_classes'], 'class', 'classes')}" if facts["n_classes"] else ""
        yield ok(
            "data",
            f"{facts['name']}: {facts['n_train']:,} + {facts['n_val']:,} {facts.get('noun', 'images')}"
            f"{of_classes}, {facts['store']}, {size(facts['bytes'])}; opened in {facts['open_s']:.2f} s; "
            f"{facts['path']} {_on(facts['file_system'])}",
        )
    if "items_per_s" in facts:
        n = config.loader_processes or 1
        cached = facts["cached"]
        state = (
            "nobody knows what was in memory before"
            if cached is None
            else f"{100 * cached:.0f} % of the file was in memory before"
        )
        yield ok(
            "reading",
            f"{facts['items_per_s']:,.0f} {facts.get('noun', 'images')}/s, {facts['bytes_per_s'] / 1e6:,.1f} MB/s, "
            f"by {counted(n, 'loader process', 'loader processes')}, batches of {config.batch_size}; {state}",
        )


def _on(file_system: str) -> str:
    return f"on {'a network file system, ' * bool(_NETWORK.match(file_system))}{file_system}"


def run_folder(facts: Facts, config: RunConfig, parameters: int | None, needed: int) -> Iterator[Finding]:
    """Judge the run's folder and whether its checkpoints fit.

    Parameters
    ----------
    facts
        Of `theanompi.doctor.questions.folder`.
    config
        Resolved.
    parameters
        Of the model, None if it could not be built.
    needed
        Bytes that checkpoints take at most.

    Examples
    --------
    >>> facts = {"place": "/", "file_system": "ext4", "runs": [], "at_work": None}
    >>> facts |= {"refused": "Read-only file system", "full": False}
    >>> [finding.text for finding in run_folder(facts, RunConfig(out="/run"), None, 0)]
    ['/run: nothing can be written in / (Read-only file system)']
    """
    out, writable = config.out, facts.get("writable", False)
    if facts.get("refused") and not (writable and facts["full"]):
        yield problem(
            "run folder",
            f"{out}: nothing can be written in {facts['place']} ({facts['refused']})",
            "--out (OUT in a cfg file) with a folder of yours",
        )
        return
    where = f"{out} {_on(facts['file_system'])}"
    if facts["at_work"]:
        yield problem(
            "run folder", f"{where}: {facts['at_work']}, is at work in it", "its end, or another --out"
        )
    elif config.resume is True and "checkpoint.h5" not in facts["runs"]:
        yield problem("run folder", f"{where}: no checkpoint to resume from", "no --resume, or another --out")
    elif facts["runs"] and not (config.resume or config.overwrite):
        yield problem(
            "run folder",
            f"{where}: holds a run",
            "--resume to continue it, --overwrite to replace it, or another --out",
        )
    else:
        yield ok("run folder", f"{where}: can be written in")
    if parameters is None:
        return
    files = config.keep + 2
    text = f"{parameters:,} parameters: {size(needed / files)} each, {files} at a time; {size(facts['free'])} free"
    if facts.get("refused"):
        yield problem(
            "checkpoints",
            f"{text}: {size(needed)} do not fit ({facts['refused']})",
            "room or quota there, or --out on another file system",
        )
    else:
        yield ok("checkpoints", text)


def host(machine: Host, here: Facts, there: Facts, failure: str, data: str) -> Iterator[Finding]:
    """Judge another machine of the run by what a process that was started there said.

    Parameters
    ----------
    machine
        Its name, and one device per rank.
    here, there
        Of `theanompi.doctor.questions.machine`, on this machine and on that one.
    failure
        How the process there failed, or nothing.
    data
        What the run's data set is called.

    Examples
    --------
    >>> [f.text for f in host(Host("node1", ("cpu",)), {}, {}, "had not ended after 30 s", "digits")]
    ['node1: no process could be started there: it had not ended after 30 s']
    """
    name, topic = machine.name, "host"
    if "python" not in there:
        yield problem(
            topic,
            f"{name}: no process could be started there: it {failure}",
            f"'ssh {name} true' must work from here without a password, and {here.get('executable', 'this Python')} "
            "must be there under the same path",
        )
        return
    # Of a machine here that could not be examined nothing is known that could be other.
    ours, theirs = here.get("packages", {}), there.get("packages", {})
    differs = [
        f"{what} {there[what]}, here {here[what]}"
        for what in ("theanompi", "python")
        if what in here and there[what] != here[what]
    ]
    differs += [
        f"{package} {about.get('version', 'not importable')}, here {ours[package].get('version', 'not')}"
        for package, about in theirs.items()
        if package in ours and about.get("version") != ours[package].get("version")
    ]
    if differs:
        yield problem(
            topic,
            f"{name} has {'; '.join(differs)}",
            "the same environment on all hosts, as on a shared file system",
        )
    elif failure:
        yield problem(
            topic, f"{name}: a process was started there, but it {failure}", f"tmlauncher doctor on {name}"
        )
    else:
        yield ok(
            topic,
            f"{name}: a process was started there: Python {there['python']}, theanompi {there['theanompi']}",
        )
    if there.get("data") is False:
        yield problem(
            topic,
            f"{name}: expected the data set {data} there, got no such file",
            "a shared file system, or a copy at the same path",
        )
    if "gpus" in there:
        for finding in devices(machine.devices, there, str(name)):
            yield finding._replace(topic=topic, text=f"{name}: {finding.topic}: {finding.text}")
