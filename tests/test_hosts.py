"""Runs on several hosts: real mpirun, real TCP between network namespaces, started by tmlauncher's own command line."""

import json
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from tests.mpi import ROOT
from tests.network import Hosts, measure, refusal
from tests.test_launch import WORKER, assert_gone, facts
from tests.test_training_mpi import SETTINGS, difference, trained
from theanompi.record import checkpoint

pytestmark = pytest.mark.skipif(refusal() is not None, reason=str(refusal()))

PROGRAM = "import sys; from theanompi.cli import main; sys.exit(main(sys.argv[2:], sys.argv[1]))"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Hosts(4) as four:
        yield four


def launch(
    hosts: Hosts, folder: Path, *argv: str, module: str = "theanompi.worker", timeout: float = 90
) -> CompletedProcess[str]:
    """``tmlauncher argv…`` on the first host."""
    path = f"{ROOT}:{ROOT / 'tests'}:{folder}"
    return hosts.run(0, [sys.executable, "-c", PROGRAM, module, *argv], timeout, {"PYTHONPATH": path})


def flags(**settings: object) -> list[str]:
    cfg = {"modelfile": "-file", "modelclass": "-class"}
    return [
        word
        for name, value in settings.items()
        for word in (cfg.get(name, "--" + name.replace("_", "-")), str(value))
    ]


def test_the_link_holds_its_rate_and_delay() -> None:
    """A busy machine can only make it slower; that it is not much slower is for the benchmarks."""
    with Hosts(2, rate="1gbit", delay=0.001) as two:
        round_trip, rate = measure(two)
    assert round_trip > 0.002
    # the token bucket lets its first 256 KiB through at once
    assert rate < 1.05e9


def test_training_on_two_hosts_is_training_on_one(hosts: Hosts, tmp_path: Path) -> None:
    settings = {name: value for name, value in SETTINGS.items() if name not in ("verbose", "devices")}
    a, b, *_ = hosts.names
    (tmp_path / "hosts.txt").write_text(f"# two\n{a}:2\n{b} slots=1\n")
    words = [*flags(**settings, out=tmp_path / "two"), "--no-curves", "--device", "cpu"]
    words += ["-hostfile", str(tmp_path / "hosts.txt")]
    before = hosts.sent(0), hosts.sent(1), hosts.sent(2)
    done = launch(hosts, tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 x cpu" in done.stdout
    two = checkpoint.load(tmp_path / "two" / "checkpoint.h5")[0]
    one = trained(3, tmp_path / "one")
    assert difference(two, one) < 1e-6
    # The gradients went over the network, both ways: what one host has to know of the other's at the least.
    gradients = 4 * sum(array.size for name, array in one.items() if name.startswith("weights/"))
    for number in (0, 1):
        assert hosts.sent(number) - before[number] > SETTINGS["max_iterations"] * gradients
    assert hosts.sent(2) - before[2] < 1000


def test_a_rank_killed_on_one_host_ends_the_run_on_all(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "small_worker.py").write_text(WORKER.replace('f"rank', f'"{tmp_path}/" + f"rank'))
    devices = ",".join(f"{name}:cpu" for name in hosts.names[:2])
    # The rank that is left would sleep for 100 s.
    done = launch(hosts, tmp_path, "--device", devices, "--out", "kill", module="small_worker")
    assert done.returncode > 0
    assert "tmlauncher: BSP: 2 ranks failed with exit status" in done.stderr
    assert len(facts(tmp_path)) == 2
    assert_gone([item["pid"] for item in facts(tmp_path)])


ASKING = """
import json, time
from pathlib import Path
from mpi4py import MPI
from theanompi.config import RunConfig, from_environment
from theanompi.exchange.window import LockedWindow
from theanompi.launch.ends import tell

def run(config, devices, plan=False):
    comm = MPI.COMM_WORLD
    window, asked, often = LockedWindow(comm, 8), 0, Path(f"{config.out}-often")
    helped, end = window.helped, time.monotonic() + 20
    while not often.exists() and time.monotonic() < end:
        if comm.rank:
            with window.locked(0):
                asked += 1
            if asked == 3:
                often.touch()
        else:
            pause = time.monotonic() + 0.1
            while time.monotonic() < pause:
                pass
    total = comm.allreduce(asked)
    window.close()
    if comm.rank == 0:
        Path(config.out).write_text(json.dumps([helped, total]))
        tell(well=True)

if __name__ == "__main__":
    run(*from_environment())
"""


def test_a_rank_that_computes_does_not_let_a_rank_on_another_host_wait(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "asking.py").write_text(ASKING)
    words = ["--device", ",".join(f"{name}:cpu" for name in hosts.names[:2]), "--out", str(tmp_path / "told")]
    done = launch(hosts, tmp_path, *words, module="asking")
    assert done.returncode == 0, done.stderr
    helped, asked = json.loads((tmp_path / "told").read_text())
    # Without the thread it is once: rank 0 answers when it has computed for 20 s.
    assert helped and asked > 2


DOCTOR = """
import sys
from theanompi.config import RunConfig
from theanompi.doctor.examination import Doctor
from theanompi.launch.mpirun import identify
doctor = Doctor(RunConfig(rule="EASGD", devices=sys.argv[1]), bind=False)
print(*(finding.text for finding in doctor._one_sided(*identify()[:2])), sep="\\n")
"""


def test_the_doctor_asks_ranks_of_different_hosts_whether_they_wait_for_each_other(hosts: Hosts) -> None:
    devices = ",".join(f"{name}:cpu" for name in hosts.names[:2])
    done = hosts.run(0, [sys.executable, "-c", DOCTOR, devices], 90, {"PYTHONPATH": str(ROOT)})
    expected = "ranks get at the centre while its owner computes, with the help of a thread on each rank\n"
    assert done.stdout == expected, done.stderr


# What the sum of a large number, its negative and two small ones is in float32 depends on the order of the
# additions, and this on the algorithm.
SUMMING = """
import json
from itertools import permutations
from pathlib import Path
import numpy as np
from mpi4py import MPI
from theanompi.config import RunConfig, from_environment
from theanompi.launch.ends import tell

def run(config, devices, plan=False):
    comm = MPI.COMM_WORLD
    result = {"local": comm.Split_type(MPI.COMM_TYPE_SHARED).size, "sums": []}
    for values in sorted(set(permutations([1e8, 1.0, -1e8, 1.0]))):
        buffer = np.full(1 << 18, values[comm.rank], np.float32)
        comm.Allreduce(MPI.IN_PLACE, buffer)
        result["sums"].append(buffer[:: 1 << 16].tolist())
    if comm.rank == 0:
        Path(config.out).write_text(json.dumps(result))
        tell(well=True)

if __name__ == "__main__":
    run(*from_environment())
"""


@pytest.fixture
def summing(tmp_path: Path) -> Path:
    (tmp_path / "summing.py").write_text(SUMMING)
    return tmp_path


def sums(path: Path, local: int) -> np.ndarray:
    """By permutation of the four addends and quarter of the buffer; `local` is the number of ranks on a host."""
    result = json.loads(path.read_text())
    assert result["local"] == local
    return np.array(result["sums"])


def pairwise() -> np.ndarray:
    """What recursive doubling and halving give: the sum of the sums of neighbours."""
    cases = np.array(sorted(set(permutations([1e8, 1.0, -1e8, 1.0]))), np.float32)
    return (cases[:, 0] + cases[:, 1]) + (cases[:, 2] + cases[:, 3])


def test_the_algorithm_is_what_was_asked_for(hosts: Hosts, summing: Path) -> None:
    devices = ",".join(f"{host}:cpu" for host in hosts.names)
    traffic = {}
    for name in ("recursive_doubling", "reduce_scatter_allgather", "ring"):
        out = summing / name
        before = hosts.sent(0)
        words = ["--device", devices, "--out", str(out), "--allreduce-algorithm", name]
        done = launch(hosts, summing, *words, module="summing")
        assert done.returncode == 0, done.stderr
        traffic[name] = (hosts.sent(0) - before) / (12 * 4 * (1 << 18))
    # Volume that each of 4 ranks sends, in buffers: log2(4) = 2 against 2 (1 - 1/4) = 1.5, with some for TCP.
    assert traffic["recursive_doubling"] == pytest.approx(2, abs=0.2)
    assert traffic["reduce_scatter_allgather"] == pytest.approx(1.5, abs=0.2)
    assert traffic["ring"] == pytest.approx(1.5, abs=0.2)
    # A ring sums each quarter from another rank on; the others sum all of them alike.
    assert (sums(summing / "recursive_doubling", 1) == pairwise()[:, None]).all()
    assert np.ptp(sums(summing / "reduce_scatter_allgather", 1), axis=1).max() == 0
    assert np.ptp(sums(summing / "ring", 1), axis=1).max() > 0


def test_the_algorithm_holds_across_and_inside_hosts(hosts: Hosts, summing: Path) -> None:
    devices = ",".join(f"{name}:cpu,cpu" for name in hosts.names[:2])
    words = ["--device", devices, "--out", str(summing / "ring"), "--allreduce-algorithm", "ring"]
    done = launch(hosts, summing, *words, module="summing")
    assert done.returncode == 0, done.stderr
    assert np.ptp(sums(summing / "ring", 2), axis=1).max() > 0
