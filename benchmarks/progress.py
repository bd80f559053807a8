"""Whether a rank that computes for a second lets the others wait for a second: two ranks, on one host and on two.

The first rank computes and calls no MPI. The other one wants its memory meanwhile, again and again, and what is noted
is how long that takes at most:

mpi_lock     MPI's own lock
lock         that of the centre, made of atomic operations
exchange     that lock, a megabyte read and a megabyte written

the last two without and with a thread on each rank that calls MPI every millisecond, which a run starts where it finds
out, when its centre is made, that it needs it (needs_thread).

The two hosts are network namespaces, joined by a link of 1 Gbit/s and 1 ms (`tests/network.py`); that needs root. The
MPI library is that of the environment whose Python this is; the JSON keeps what was found with others:

    python benchmarks/progress.py
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
from progress_child import COMPUTING, NBYTES

from tests.network import Hosts, refusal

START = "import sys; from theanompi.cli import main; sys.exit(main(sys.argv[1:], 'progress_child'))"


def measure(hosts: Hosts | None) -> dict[str, Any]:
    """What the two ranks have found, on this machine or on two hosts."""
    devices = ",".join(f"{name}:cpu" for name in hosts.names) if hosts else "cpu,cpu"
    environ = common.child_environment(threads=1)
    environ["PYTHONPATH"] = f"{common.ROOT / 'benchmarks'}{os.pathsep}{environ['PYTHONPATH']}"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        words = [sys.executable, "-c", START, "--device", devices, "--out", str(out)]
        if hosts:
            done = hosts.run(0, words, timeout=120, env=environ)
        else:
            done = subprocess.run(
                words, env=environ, capture_output=True, encoding="utf-8", timeout=120, check=False
            )
        if done.returncode:
            raise SystemExit(f"progress: ended with status {done.returncode}\n{done.stdout}{done.stderr}")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Run the benchmark."""
    parser = common.parser(__doc__)
    parser.add_argument("--rate", default="1gbit", help="of the link, as tc spells it")
    parser.add_argument("--delay", type=float, default=0.001, help="from host to host, in seconds")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "progress.json")
    args = parser.parse_args()
    found = {"one host": measure(None)}
    if refusal():
        print(f"progress: two hosts: {refusal()}")
    else:
        with Hosts(2, args.rate, args.delay) as hosts:
            found["two hosts"] = measure(hosts)
    library = found["one host"]["library"]
    for where, each in found.items():
        del each["library"]
        thread = "a thread is needed" if each["needs_thread"] else "no thread is needed"
        print(f"{library}, {where}: {thread}; at most, while the other rank computes for {COMPUTING:g} s:")
        print(
            "  " + ", ".join(f"{k.removesuffix('_s')} {v:.2g} s" for k, v in each.items() if k.endswith("_s"))
        )
    before = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {"libraries": {}}
    entry = {**found, "rate": args.rate, "delay_s": args.delay, "environment": common.environment()}
    common.write_json(
        args.out,
        {
            "benchmark": "progress",
            "unit": f"seconds at most, while rank 0 computes for {COMPUTING:g} s; exchange: {NBYTES} bytes each way",
            "libraries": {**before["libraries"], library: entry},
        },
    )


if __name__ == "__main__":
    main()
