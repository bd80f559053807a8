"""The script that ships for Slurm, under a stand-in for it: one script starts a run and goes on with it."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.mpi import ROOT, environ_of_ranks, mpirun, run_warm

SCRIPT = ROOT / "examples" / "slurm" / "train.sbatch"
SETTINGS: dict[str, Any] = {
    "modelfile": "small_models",
    "modelclass": "Slow",
    "batch_size": 4,
    "max_iterations": 20,
    "log_interval": 1,
}
TMLAUNCHER = "import sys; from theanompi.cli import main; sys.exit(main())"


def options() -> set[str]:
    """What sbatch reads of the script: the comments before its first command."""
    lines = SCRIPT.read_text("utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    return {line.removeprefix("#SBATCH ") for line in lines[:first] if line.startswith("#SBATCH ")}


def install(commands: Path) -> None:
    """Put programs into a folder that do what Slurm's do here: start two tasks, and note a requeue."""
    commands.mkdir()
    # Intel's mpirun is a shell script, which a signal ends, as it does not srun.
    hydra = Path(mpirun()[0]).with_name("mpiexec.hydra")
    start = shlex.join([*([str(hydra)] if hydra.exists() else mpirun()), "-np", "2"])
    for name, lines in {
        "srun": f'[ "$1" = --mpi=pmi2 ] || exit 1\nshift\nexec env -u SLURM_JOB_ID {start} "$@"',
        "scontrol": f'echo "$@" >> {shlex.quote(str(commands / "asked"))}',
        "tmlauncher": f'exec {shlex.join([sys.executable, "-c", TMLAUNCHER])} "$@"',
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
        (commands / name).chmod(0o755)


def test_one_script_starts_a_run_is_requeued_by_a_signal_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    assert {"--requeue", "--signal=B:USR1@120"} <= options()
    straight, run, commands = tmp_path / "straight", tmp_path / "run", tmp_path / "commands"
    done = run_warm(2, {**SETTINGS, "devices": ["cpu"], "verbose": False, "out": str(straight)})
    assert done.returncode == 0, done.stderr
    install(commands)
    flags = ["--no-curves", *(f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items())]
    environ = environ_of_ranks()
    environ["PATH"] = f"{commands}:{environ['PATH']}"
    environ["PYTHONPATH"] += f":{ROOT / 'tests'}"

    def job() -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPT), *flags, "--device=cpu", f"--out={run}"],
            env={**environ, "SLURM_JOB_ID": "7"},
            stderr=subprocess.PIPE,
            text=True,
        )

    with job() as first:
        log = run / "log.jsonl"
        while first.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGUSR1)  # as B: has it, to the script alone
        _, errors = first.communicate(timeout=120)
    assert first.returncode == 75 and "stopped in good order by SIGUSR1" in errors, errors
    assert (commands / "asked").read_text("utf-8") == "requeue 7\n"
    with job() as second:
        _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert (commands / "asked").read_text("utf-8") == "requeue 7\n"
    assert (run / "checkpoint.h5").read_bytes() == (straight / "checkpoint.h5").read_bytes()
    # Tasks that were stopped without a warning to the script: the job is cancelled, or Slurm puts it back itself.
    (commands / "srun").write_text("#!/bin/sh\nexit 75\n", encoding="utf-8")
    with job() as cancelled:
        cancelled.communicate(timeout=60)
    assert cancelled.returncode == 75 and (commands / "asked").read_text("utf-8") == "requeue 7\n"
