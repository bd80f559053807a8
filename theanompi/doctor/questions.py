"""What ``tmlauncher doctor`` wants to know of a machine and a run: each question in a process of its own.

``python -m theanompi.doctor.questions QUESTION [JSON]`` says what it finds as soon as it is known
(`theanompi.launch.mpirun.say`): what it touches (a driver, a file system, a user's model) may fail, crash or hang. The
questions are the functions of `QUESTIONS`; nothing here judges, that is for `theanompi.doctor.findings`.
"""

import ctypes
import errno
import importlib
import json
import mmap
import os
import platform
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from theanompi import __version__
from theanompi.config import RunConfig
from theanompi.launch.mpirun import say
from theanompi.record.folder import at_work
from theanompi.system import cgroup
from theanompi.system.output import print_anything
from theanompi.system.segments import SHARED_MEMORY, forget_alone, left_behind

PACKAGES = ("torch", "pytensor", "numpy", "h5py", "mpi4py", "PIL", "simplejpeg")
READ_SECONDS = 0.5


def machine(data: str | None = None) -> None:
    """Say what is on this machine: Python, packages, limits, GPUs and, if it is asked for, whether a file is there."""
    say(
        python=platform.python_version(),
        executable=sys.executable,
        theanompi=__version__,
        folder=str(Path(__file__).parents[1]),
        host=platform.node(),
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
    )
    say(
        cores=cgroup.cores(),
        processors=len(os.sched_getaffinity(0)),
        memory=_meminfo(),
        limits=cgroup.limits(),
        locked_memory=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        infiniband=Path("/sys/class/infiniband").is_dir(),
    )
    # Before MPI starts, which crashes where this is too small.
    say(shm=shared_memory())
    say(packages={name: _package(name) for name in PACKAGES})
    if "mpi4py.MPI" in sys.modules:
        forget_alone()
        say(library=library_version())
    say(gpus=list(_gpus()), driver=_driver(), cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"))
    if data is not None:
        say(data=Path(data).is_file())
    if {"torch", "pytensor", "numpy"} <= sys.modules.keys():
        from theanompi.device import triton  # needs them
        from theanompi.device.ops import rows

        say(compiled=rows.compiled(), triton=triton.problem())


def _package(name: str) -> dict[str, str]:
    try:
        importlib.import_module("mpi4py.MPI" if name == "mpi4py" else name)
        # Its own word: one that is only on the path has no metadata.
        return {"version": str(sys.modules[name].__version__)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def library_version() -> str:
    """Return name and version of the MPI library, in one line.

    >>> any(name in library_version() for name in ("MPICH", "Open MPI", "Intel(R) MPI"))
    True
    """
    from mpi4py import MPI

    return " ".join(MPI.Get_library_version().split("\n")[0].strip("\x00 ").split()).split(", package:")[0]


def _gpus() -> Iterator[dict[str, Any]]:
    try:
        import torch
    except Exception:  # which is said among the packages
        return
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        free, memory = torch.cuda.mem_get_info(index)
        yield {"name": about.name, "uuid": str(about.uuid), "memory": memory, "free": free}


def _driver() -> str | None:
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"Kernel Module.*?\s(\d[\d.]*)\s", text)
    return match[1] if match else text.splitlines()[0]


def _meminfo() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    kib = {words[0]: int(words[1]) for words in lines}
    return {"total": kib["MemTotal:"] * 1024, "available": kib["MemAvailable:"] * 1024}


def shared_memory(folder: Path = SHARED_MEMORY) -> dict[str, Any]:
    """Return size and free bytes of the file system of shared memory, 0 where there is none, and what is left in it.

    >>> sorted(shared_memory())
    ['free', 'left', 'size']
    """
    if not folder.is_dir():
        return {"size": 0, "free": 0, "left": {}}
    about = os.statvfs(folder)
    return {
        "size": about.f_blocks * about.f_frsize,
        "free": about.f_bavail * about.f_frsize,
        "left": left_behind(folder),
    }


def file_system(path: Path) -> str:
    """Return the type of the file system that a path is on or would be made on, such as ``"ext4"`` or ``"nfs4"``.

    >>> file_system(Path("/proc/self"))
    'proc'
    """
    path, kind, depth = path.resolve(), "", -1
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split()
        name = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), fields[4])
        point = Path(os.fsdecode(name))
        if path.is_relative_to(point) and len(point.parts) >= depth:
            kind, depth = os.fsdecode(fields[fields.index(b"-") + 1]), len(point.parts)
    return kind


def data(settings: dict[str, Any]) -> None:
    """Open the run's data set, then read batches of it with the loader for half a second."""
    from theanompi.data import Arrays, Loader, Modality, Pictures, Sampler, Tokens, open_dataset

    config = RunConfig.from_dict(settings)
    assert config.data and config.batch_size and config.loader_processes
    start = time.perf_counter()
    dataset = open_dataset(config.data)

    def bytes_of(modality: Modality, ids: Any) -> int:
        if isinstance(modality, Pictures):
            return int(modality.dataset.locate("train", ids)[1].sum())
        return len(ids) * sum(field.nbytes for field in modality.read.values())

    kinds: dict[str, type[Modality]] = {kind.name: kind for kind in (Pictures, Arrays, Tokens)}
    modality = kinds[dataset.modality](dataset, config)
    about = dataset.path.stat()
    say(
        path=str(dataset.path),
        name=dataset.name,
        file_system=file_system(dataset.path),
        bytes=about.st_size,
        n_train=modality.count("train"),
        n_val=modality.count("val"),
        noun=modality.noun,
        n_classes=dataset.n_classes,
        store=getattr(dataset, "store", dataset.modality),
        open_s=time.perf_counter() - start,
        cached=cached(dataset.path),
    )
    sampler = Sampler(
        modality.count("train"),
        config.batch_size,
        size=len(config.devices),
        rank=0,
        accumulation=config.accumulation,
        seed=config.seed,
    )
    with Loader(modality, config.batch_size, processes=config.loader_processes) as loader:
        items = read = epoch = 0
        start = 0.0
        # The first batch waits for the loader's processes to start.
        while not start or time.perf_counter() - start < READ_SECONDS:
            for units in loader.train(sampler, epoch):
                for batch in units:
                    if start:
                        items += len(batch.ids)
                        read += bytes_of(modality, batch.ids)
                    start = start or time.perf_counter()
                if time.perf_counter() - start > READ_SECONDS:
                    break
            epoch += 1
        seconds = time.perf_counter() - start
    say(items_per_s=items / seconds, bytes_per_s=read / seconds, seconds=seconds, epochs=epoch)


def cached(path: Path, samples: int = 256) -> float | None:
    """Return which share of a file is in the page cache, from pages at regular distances; None if nobody knows.

    Of files that are not one's own and cannot be written, mincore(2) says that all is in memory. Reads that
    shall not block (RWF_NOWAIT) are no substitute: recent kernels read ahead for them, and then find that.

    >>> cached(Path("/proc/self/status")) is None
    True
    """
    import numpy as np

    facts = path.stat()
    own = facts.st_uid == os.geteuid() or os.access(path, os.W_OK)
    mincore = getattr(ctypes.CDLL(None), "mincore", None)
    if not facts.st_size or not own or mincore is None:
        return None
    with open(path, "rb") as file:
        try:
            mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except OSError:
            # Not every file system maps files into memory.
            return None
    with mapping:
        start = np.frombuffer(mapping, np.uint8).ctypes.data
        pages, resident, hits = -(-facts.st_size // mmap.PAGESIZE), ctypes.c_ubyte(), 0
        for i in range(samples):
            address = ctypes.c_void_p(start + i * pages // samples * mmap.PAGESIZE)
            if mincore(address, ctypes.c_size_t(1), ctypes.byref(resident)):
                return None
            hits += resident.value & 1
    return hits / samples


def model(given: dict[str, Any]) -> None:
    """Import the class of the run's model, say what the run is with its defaults, build it and count its parameters."""
    import numpy as np

    from theanompi.training.model_class import find_model_class, resolve_by_class

    config = resolve_by_class(RunConfig.from_dict(given))
    settings = config.to_dict()
    say(settings=settings)
    made = find_model_class(config)({**settings, "rank": 0, "size": 1, "verbose": False})
    say(parameters=int(sum(np.size(p.get_value(borrow=True)) for p in made.params)))
    made.cleanup()


def folder(settings: dict[str, Any]) -> None:
    """Try whether so many bytes can be written where the run's folder is or will be made."""
    out, size = Path(settings["out"]), int(settings["bytes"])
    runs = [name for name in settings["files"] if (out / name).exists()]
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    say(place=str(place), file_system=file_system(place), runs=runs, at_work=at_work(out))
    about = os.statvfs(place)
    say(free=about.f_bavail * about.f_frsize)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            say(writable=True)
            # A quota shows nowhere but here.
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        say(
            refused=os.strerror(error.errno or 0),
            full=error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        )


def proof(settings: dict[str, Any]) -> None:
    """Have the MPI library prove on these devices that it is CUDA-aware."""
    from theanompi.exchange import cuda_aware

    claimed, reason = cuda_aware.query()
    say(claimed=claimed, reason=reason)
    if claimed:
        found = cuda_aware.prove(settings["devices"])
        say(**found._asdict(), use_direct=found.use_direct)


QUESTIONS: dict[str, Callable[..., None]] = {
    "machine": machine,
    "data": data,
    "model": model,
    "folder": folder,
    "proof": proof,
}


if __name__ == "__main__":
    print_anything()
    try:
        QUESTIONS[sys.argv[1]](*map(json.loads, sys.argv[2:]))
    except (ValueError, OSError) as error:
        say(error=str(error))
        raise
