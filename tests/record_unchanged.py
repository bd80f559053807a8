"""Records which bits training gives in this place: ``python -m tests.record_unchanged``.

It trains every case of `CASES` and adds the digests of all weights, velocities and running statistics to `RECORD`,
where `test_unchanged` looks them up. Run it at a revision that is known to be right (``git worktree add``): the
record says what must not change, not what is right, for which `test_training_reference` is there.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytensor
import torch

from tests.mpi import ROOT, run_warm
from theanompi.record import checkpoint

DATA = Path(__file__).with_name("data")
RECORD = DATA / "unchanged.json"
SETTINGS: dict[str, Any] = {
    "modelfile": "small_models",
    "modelclass": "Various",
    "data": "digits",
    # 1,437 images are 19 batches of 72: 19 updates of one batch, 10 of two (the last has one), or 5 of four (the last
    # has three). Warmup and first rate end in the first epoch.
    "batch_size": 72,
    "max_iterations": 20,
    "base_batch": 36,
    "base_lr": 0.02,
    "warmup_epochs": 0.5,
    "epochs": 5,
    "decay_epochs": [0.8],
    "seed": 3,
    "log_interval": 5,
    "verbose": False,
    "devices": ["cpu"],
}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    f"{ranks} rank{'s' * (ranks > 1)}, {sync_type}, A = {accumulation}": (
        ranks,
        {**SETTINGS, "sync_type": sync_type, "accumulation": accumulation},
    )
    for ranks in (1, 2)
    for sync_type in ("cdd", "avg")
    for accumulation in (1, 2)
}
"""Ranks and settings of each run, by name."""
KEPT_RUNS = {"run_cdd": "1 rank, cdd, A = 2", "run_avg": "2 ranks, avg, A = 1"}
"""The runs that a version has written (`keep_written`) and then stopped, and their cases."""
KEPT = sorted(DATA.glob("written_by_*"))
RESUMED: dict[str, tuple[int, dict[str, Any]]] = {
    f"{kept.name}/{run}": (CASES[case][0], {**CASES[case][1], "resume": True})
    for kept in KEPT
    for run, case in KEPT_RUNS.items()
}
"""Those runs, to be gone on with."""

# Read by the libraries that compute; what they are set to is part of the place.
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NPY_DISABLE_CPU_FEATURES",
    "ONEDNN_MAX_CPU_ISA",
)

Digests = dict[str, dict[str, str]]
"""By case, as `digests_of` gives them."""


def place() -> dict[str, Any]:
    """What the bits depend on, or may: two places in which all of it is the same have the same bits.

    On one machine other bits came from another number of threads, from torch's instruction set
    (``ATEN_CPU_CAPABILITY``), oneDNN's (``ONEDNN_MAX_CPU_ISA=AVX2``), MKL's (``MKL_CBWR=COMPATIBLE``, though not
    ``AVX2``), and without a C compiler; the same ones with ``rows.c`` compiled for AVX2. The processor's model counts
    because the libraries choose their blocks by its caches.
    """
    cpu = dict(
        (part.strip() for part in line.split(":", 1))
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        if ":" in line
    )
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    said = (
        subprocess.run([compiler, "--version"], capture_output=True, encoding="utf-8") if compiler else None
    )
    return {
        "cpu": ", ".join(
            f"{name} {cpu[name]}" for name in ("vendor_id", "cpu family", "model") if name in cpu
        ),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": 1,
        "compiler": said.stdout.splitlines()[0] if said else "none",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pytensor": pytensor.__version__,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def record_of(where: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a place, if there is one: with ``place``, ``revision`` and ``digests``."""
    records = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else []
    return next((record for record in records if record["place"] == where), None)


def train(runs: Iterable[tuple[int, dict[str, Any]]]) -> None:
    """Run settings with so many ranks each."""
    for ranks, settings in runs:
        done = run_warm(ranks, settings)
        assert done.returncode == 0, done.stdout + done.stderr


def digests_of(file: Path) -> dict[str, str]:
    """SHA-256 of a checkpoint's weights (the running statistics are among them) and of its velocities.

    Names, shapes and dtypes count as well.
    """
    arrays, _ = checkpoint.load(file)
    kinds: dict[str, Any] = {}
    for name, value in arrays.items():
        digest = kinds.setdefault(name.split("/")[0], hashlib.sha256())
        digest.update(f"{name} {value.dtype} {value.shape} ".encode() + value.tobytes())
    return {kind: digest.hexdigest() for kind, digest in kinds.items()}


def trained(folder: Path, cases: dict[str, tuple[int, dict[str, Any]]]) -> Digests:
    """The digests of each case, whose runs are made, or gone on with, in folders of their own under this one."""
    for name in cases.keys() & RESUMED.keys():
        shutil.copytree(DATA / name, folder / name)
    train((ranks, {**settings, "out": str(folder / name)}) for name, (ranks, settings) in cases.items())
    return {name: digests_of(folder / name / "checkpoint.h5") for name in cases}


def revision() -> str:
    """The last commit that has changed the package or the zoo, and whether there are changes since."""
    git, package = ["git", "-C", str(ROOT)], ["--", "theanompi", "models"]
    commands = ([*git, "log", "-1", "--format=%h", *package], [*git, "status", "--porcelain", *package])
    commit, changes = (
        subprocess.run(c, capture_output=True, encoding="utf-8", check=True).stdout for c in commands
    )
    return commit.strip() + ("-dirty" if changes else "")


def main() -> None:
    """Record this place."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is recorded for this place")
    args = parser.parse_args()
    where = place()
    if record_of(where) is not None and not args.overwrite:
        parser.error(f"{RECORD}: expected none for this place, got one; --overwrite replaces it: {where}")
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        digests = trained(Path(first), CASES | RESUMED)
        if trained(Path(second), CASES | RESUMED) != digests:
            parser.error(
                "training: expected the same bits from the same runs, got others; nothing is recorded"
            )
    records = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else []
    records = [record for record in records if record["place"] != where]
    records.append({"place": where, "revision": revision(), "digests": digests})
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    print(f"{RECORD}: recorded {len(digests)} runs for {where}")


if __name__ == "__main__":
    main()
