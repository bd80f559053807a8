"""`init` and `wait`: what is checked before anything starts, how a run ends, and who is the worker."""

import gc
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.mpi import ROOT, run_mpi
from tests.test_launch import WORKER
from tests.test_processes import LINUX
from theanompi import BSP
from theanompi.config import EXCHANGES, RULES, ConfigError, RunConfig
from theanompi.launch import check, ends, mpirun, session
from theanompi.launch.job import Job
from theanompi.rules import Rule, RunFailed, get_rule


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "small_worker.py").write_text(WORKER)
    (tmp_path / "mymodel.py").write_text(
        "raise ImportError('imported by the launcher')\nclass Net:\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # In the user's own process the current folder comes first, and this repository's package is not there yet.
    for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


@pytest.fixture
def nothing_spawned(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a job was started")

    monkeypatch.setattr(session, "Job", refuse)


NET = {"modelfile": "mymodel", "modelclass": "Net"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sync_type": "sum"}, "sync_type: expected one of cdd, avg, swap, got 'sum'"),
        (
            {"exchange": "nccl64"},
            f"exchange: expected one of {', '.join(EXCHANGES)}, got 'nccl64'",
        ),
        ({"devices": ["gpu0"]}, "devices: .* got 'gpu0'"),
        ({"epoch": 3}, "unknown setting 'epoch'; did you mean 'epochs'"),
        (
            {"modelfile": "mymodle"},
            "modelfile: expected a module on sys.path, got 'mymodle'; did you mean 'mymodel'",
        ),
        ({"modelfile": "models.resnt50"}, "got 'models.resnt50'; did you mean 'models.resnet50'"),
        (
            {"modelfile": "nowhere.resnet50"},
            "modelfile: expected a module on sys.path, got 'nowhere.resnet50'$",
        ),
        ({"modelfile": "mymodel.net"}, "modelfile: expected a module on sys.path, got 'mymodel.net'$"),
        ({"modelfile": "sys"}, r"modelfile: expected a Python file, got 'sys' \(built-in\)"),
        (
            {"modelclass": "Ned"},
            "modelclass: expected a class of .*mymodel.py, got 'Ned'; did you mean 'Net'",
        ),
        ({"modelfile": "broken"}, "modelfile: expected Python in .*broken.py, got .* in line 2"),
        (
            {"data": "no.h5"},
            "data: expected digits, reviews, sentences or the path of an HDF5 file, got 'no.h5', which is none$",
        ),
        (
            {"data": "."},
            r"got '\.', which is none \(a folder\); a folder of images\? tmpack folder TRAIN_DIR ",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(folder, nothing_spawned, settings, message):
    (folder / "broken.py").write_text("import os\nclass Net\n")
    with pytest.raises(ConfigError, match=message) as caught:
        BSP().init(**{"devices": ["cpu"], **NET, **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "settings", "message"),
    [
        ("EASGD", {"devices": ["cpu"]}, "rule EASGD: expected two devices or more, .* got one"),
        ("GOSGD", {"devices": ["cuda0"]}, "rule GOSGD: expected two devices or more, .* got one"),
        ("ASGD", {"sync_type": "avg"}, "rule ASGD: expected no sync_type, which is for BSP, .* got 'avg'"),
        (
            "EASGD",
            {"settings": {"rule.period": 0}},
            "rule.period: expected a whole number of at least 1, got 0",
        ),
        (
            "EASGD",
            {"settings": {"rule.alpha": 1}},
            "rule.alpha: expected a number above 0 and below 1, got 1",
        ),
        (
            "EASGD",
            {"settings": {"rule.alpha": -0.1}},
            "rule.alpha: expected a number above 0 and below 1, got -0.1",
        ),
        ("EASGD", {"settings": {"rule.tau": 3}}, "rule: unknown setting 'tau'; known are period, alpha"),
        ("GOSGD", {"settings": {"rule.p": 1.5}}, "rule.p: expected a number from 0 to 1, got 1.5"),
        (
            "ASGD",
            {"settings": {"rule.staleness_aware": 3}},
            "rule.staleness_aware: expected true or false, got 3",
        ),
        (
            "EASGD",
            {"normalization": "worker"},
            "normalization: expected minibatch, as with rule EASGD no gradients",
        ),
        ("ASGD", {"scaled": "loss"}, "scaled: expected rate, as with scaling none there is nothing to scale"),
        ("BSP", {"settings": {"rule.period": 2}}, "rule.period: expected sync_type avg or swap, .* got cdd"),
        (
            "BSP",
            {"settings": {"rule.local_from": 2}, "sync_type": "swap"},
            "rule.local_from: expected sync_type avg",
        ),
        (
            "BSP",
            {"settings": {"rule.period": -1}, "sync_type": "avg"},
            "rule.period: expected a whole number",
        ),
    ],
)
def test_a_rule_that_does_not_fit_is_said_before_anything_starts(
    folder, nothing_spawned, rule, settings, message
):
    with pytest.raises(ConfigError, match=message) as caught:
        get_rule(rule).init(**{"devices": ["cpu", "cpu"], **NET, **settings})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


HIDDEN = """
import sys
from importlib.machinery import PathFinder
root = sys.argv[1]
sys.path[:] = [path for path in sys.path if path != root]

class Finder:
    def find_spec(self, name, path=None, target=None):
        return PathFinder.find_spec(name, [root]) if path is None else None

sys.meta_path.insert(sys.meta_path.index(PathFinder) + 1, Finder())
from theanompi.config import ConfigError, RunConfig
from theanompi.launch.check import check
try:
    check(RunConfig(modelfile="tests.train"))
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["package", "folder", "module"])
def test_what_hides_a_package_is_named(folder, kind):
    """All three hide an editable installation, which has a finder of its own behind all folders."""
    place = folder / ("tests.py" if kind == "module" else "tests")
    if kind == "module":
        place.touch()
    else:
        place.mkdir()
        (place / ("__init__.py" if kind == "package" else "notes.txt")).touch()
    words = [sys.executable, "-c", HIDDEN, str(ROOT)]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.stdout == (
        f"modelfile: expected a module on sys.path, got 'tests.train'; tests is {place} here, which hides "
        f"{ROOT / 'tests'}: rename it, or start elsewhere\n"
    ), done.stderr


def test_a_rank_that_does_not_find_the_model_says_what_hides_it(folder):
    """As on another host, where nobody has checked; what the model itself lacks is a traceback."""
    (folder / "tests").mkdir()
    (folder / "tests" / "__init__.py").touch()
    (folder / "lacks.py").write_text("import tests.nothing")
    program = (
        "from mpi4py import MPI; from theanompi.config import RunConfig\n"
        "from theanompi.training.model_class import make_model; from theanompi.training.ranks import together\n"
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        # That of an editable installation gives a hidden package's modules out all the same.
        "sys.meta_path[:] = [finder for finder in sys.meta_path if '_editable_' not in repr(finder)]\n"
        "config = RunConfig(modelfile=sys.argv[2])\n"
        "together(MPI.COMM_WORLD, lambda: make_model(config, MPI.COMM_WORLD))"
    )
    done = run_mpi(2, ["-m", "mpi4py", "-c", program, str(folder), "tests.train"])
    assert done.stderr.count("modelfile: expected") == 1 and "Traceback" not in done.stderr
    assert f"tests is {folder / 'tests'} here, which hides {ROOT / 'tests'}:" in done.stderr
    assert "No module named 'tests.nothing'" in run_mpi(1, ["-c", program, str(folder), "lacks"]).stderr


@pytest.mark.parametrize("name", ["models.resnet50", "theanompi.models.lasagne_model_zoo.resnet50"])
def test_the_zoo_is_found_whatever_else_is_called_models(folder, name):
    (folder / "models").mkdir()
    (folder / "models" / "__init__.py").touch()
    (folder / "models" / "own.py").write_text("class Net: pass")
    check.check(RunConfig(modelfile=name, modelclass="ResNet50"))
    check.check(RunConfig(modelfile="models.own", modelclass="Net"))
    with pytest.raises(ConfigError, match="got 'models.wide_resnets'; did you mean 'models.wide_resnet'"):
        check.check(RunConfig(modelfile="models.wide_resnets", modelclass="Wide_ResNet"))


def test_a_user_s_module_comes_before_that_of_the_zoo(folder):
    (folder / "models").mkdir()
    (folder / "models" / "__init__.py").touch()
    (folder / "models" / "resnet50.py").write_text("class Own: pass")
    check.check(RunConfig(modelfile="models.resnet50", modelclass="Own"))


def test_a_module_in_folders_without_an_init_file_is_found(folder):
    (folder / "nets" / "small").mkdir(parents=True)
    (folder / "nets" / "small" / "own.py").write_text("class Own: pass")
    check.check(RunConfig(modelfile="nets.small.own", modelclass="Own"))
    with pytest.raises(ConfigError, match="got 'nets.small.owm'; did you mean 'nets.small.own'"):
        check.check(RunConfig(modelfile="nets.small.owm", modelclass="Own"))


def test_the_model_may_be_an_imported_or_assigned_name(folder):
    for number, text in enumerate(
        ["from x import Net", "from x import M as Net", "Net = 1", "from x import *"]
    ):
        (folder / f"m{number}.py").write_text(text)
        check.check(RunConfig(modelfile=f"m{number}", modelclass="Net"))


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    from x import Net\nexcept ImportError:\n    pass\n",
        "import x\nif x.old:\n    class Net: pass\nelse:\n    class New: pass\n",
        "with open('x') as file:\n    class Net: pass\n",
        "Other, Net = 1, 2\n",
        "Net: type = 1\n",
    ],
)
def test_a_class_may_be_made_in_any_statement_of_the_module(folder, text):
    (folder / "branches.py").write_text(text)
    check.check(RunConfig(modelfile="branches", modelclass="Net"))


def test_a_class_inside_a_function_is_none_of_the_module(folder):
    (folder / "inner.py").write_text("def f():\n    class Net: pass\n")
    with pytest.raises(ConfigError, match="modelclass: expected a class of"):
        check.check(RunConfig(modelfile="inner", modelclass="Net"))


@pytest.fixture
def threads_switch_while_a_tree_is_built():
    """Collect garbage often and let the other threads run meanwhile, as a finalizer that waits would."""

    def pause(phase, info):
        time.sleep(0.0005)

    thresholds = gc.get_threshold()
    gc.set_threshold(50)
    gc.callbacks.append(pause)
    yield
    gc.callbacks.remove(pause)
    gc.set_threshold(*thresholds)


def test_models_can_be_checked_in_several_threads(threads_switch_while_a_tree_is_built):
    config = RunConfig(modelfile="models.resnet50", modelclass="ResNet50")
    with ThreadPoolExecutor(4) as pool:
        for checked in [pool.submit(check.check, config) for _ in range(40)]:
            checked.result()


def start(out: str | None = None, n: int = 2) -> Rule:
    rule = BSP()
    rule.start(RunConfig(devices=["cpu"] * n, out=out, **NET), module="small_worker")
    return rule


@pytest.mark.parametrize("n", [1, 2, 4])
def test_init_spawns_and_wait_reports(folder, capfd, n):
    assert start(n=n).wait() == 0
    out = capfd.readouterr().out
    assert out.startswith(f"BSP: {n} rank{'s' * (n > 1)} ended well after ")
    assert len(list(folder.glob("rank*.json"))) == n


@pytest.mark.parametrize(
    ("way", "how"),
    [
        (
            "exit",
            "left with exit status 3|no rank has said why: mpirun has above, or one |by mpirun perhaps when another",
        ),
        ("kill", "was ended by SIGKILL"),
    ],
)
def test_wait_raises_one_line_when_a_rank_dies(folder, capfd, way, how):
    with pytest.raises(
        RunFailed, match=rf"^BSP: 2 ranks failed with exit status \d+ after \d+ s; .*({how})"
    ) as caught:
        start(out=way).wait()
    assert caught.value.status != 0 and "\n" not in str(caught.value)
    # hydra's banner blames the application and names no rank.
    assert "BAD TERMINATION" not in capfd.readouterr().out


def test_a_file_that_hides_a_module_of_pythons_own_is_named_where_the_ranks_cannot_even_begin(folder):
    (folder / "antigravity.py").touch()  # which hides one that nobody needs
    (folder / "random.py").write_text("import math")
    (folder / "early.py").write_text("from random import Random")
    rule = BSP()
    rule.start(RunConfig(devices=["cpu"] * 2, **NET), module="early")
    file = re.escape(str(folder / "random.py"))
    with pytest.raises(RunFailed, match=f"; no rank has said why: {file} hides the module of Python's own"):
        rule.wait()
    (folder / "random.py").unlink()
    (folder / "early.py").write_text("raise SystemExit(1)")
    rule.start(RunConfig(devices=["cpu"] * 2, **NET), module="early")
    # Of Open MPI it is known which one has left.
    how = r"(\(pid \d.*\) was ended|rank [01] left with exit status 1 before it had begun)"
    with pytest.raises(RunFailed, match=f"{how}; tmlauncher doctor says what MPI needs$") as caught:
        rule.wait()
    assert len(f"tmlauncher: {caught.value}") <= 300


def test_a_host_that_cannot_be_reached_is_named(folder):
    """It was said that a rank had left, of those that had never begun."""
    rule = BSP()
    rule.start(RunConfig(devices="nosuchhost.invalid:cpu", **NET))
    how = "none has begun; 'ssh nosuchhost.invalid true' must work from here without a password, and "
    with pytest.raises(RunFailed, match=f"; no rank has said why: {how}{re.escape(sys.executable)} must"):
        rule.wait()


# As Intel's is: a script that waits for what it starts.
SHELL = r"""#!/bin/sh
[ "$1" = --version ] && exec echo HYDRA
bash -c "trap 'cat stopped; exit' USR1; cat ranks; while :; do sleep 0.05; done"
exit $?
"""


def test_an_mpirun_that_is_a_script_is_not_sent_what_the_ranks_shall_heed(folder, monkeypatch):
    (folder / "stopped").write_text('@theanompi {"stopped": "SIGUSR1"}\n')
    (folder / "ranks").write_text('@theanompi {"ranks": [["elsewhere", 1]]}\n')
    (folder / "mpirun").write_text(SHELL)
    (folder / "mpirun").chmod(0o755)
    monkeypatch.setattr(mpirun, "find_mpirun", lambda: str(folder / "mpirun"))
    job = Job(RunConfig(devices="cpu,cpu", **NET))
    while not job.account.ranks:
        time.sleep(0.01)
    job.ask()
    assert job.wait() == ends.STOPPED


def test_an_mpirun_that_starts_no_rank_is_pointed_to(folder, monkeypatch):
    (folder / "mpirun").write_text('#!/bin/sh\n[ "$1" = --version ] && exec echo HYDRA\nexit 7\n')
    (folder / "mpirun").chmod(0o755)
    monkeypatch.setattr(mpirun, "find_mpirun", lambda: str(folder / "mpirun"))
    rule = BSP()
    rule.start(RunConfig(devices="cpu,cpu", **NET))
    why = r"mpirun has above, or one has left by os._exit, or what started it \(pid \d+\) was ended; tmlauncher doctor"
    with pytest.raises(
        RunFailed, match=rf"failed with exit status 7 after \d+ s; no rank has said why: {why}"
    ):
        rule.wait()


# A rank that ends before the launcher has opened its process is one of several that have ended when it looks. And
# it has memory, as a rank has, which takes its time to free: one that has none is killed and gone before the first
# one's end is known to anybody but mpirun. The others have more of it than the one that is killed, lest a busy machine
# turn the order round.
TELL_AND_AWAIT_THE_WATCH = """
    memory = bytearray(os.urandom(4096)) * (25_000 if rank == 3 else 75_000)
    places = comm.gather((os.uname().nodename, os.getpid()))
    rank or tell(ranks=places)
    await_the_watch()
"""
AWAIT_THE_WATCH = """
def read_if_there(file):
    try:
        return file.read_text()
    except OSError:
        return ""


def await_the_watch():
    descriptors = Path("/proc", os.environ["THEANOMPI_LAUNCHER"].rpartition(":")[2], "fdinfo")
    while not any(f"Pid:\\t{os.getpid()}\\n" in read_if_there(file) for file in descriptors.iterdir()):
        time.sleep(0.01)
"""


def test_the_rank_that_was_killed_is_named_and_not_one_that_mpirun_killed_after_it(folder, capfd):
    (folder / "small_worker.py").write_text(
        AWAIT_THE_WATCH
        + WORKER.replace("    comm.Barrier()\n", f"{TELL_AND_AWAIT_THE_WATCH}    comm.Barrier()\n", 1)
    )
    with pytest.raises(RunFailed, match=r"rank 3 \(.*, pid \d+\) was (ended by SIGKILL|the first to end)"):
        start(out="kill", n=4).wait()


def test_who_left_is_named_though_one_had_left_before_anybody_watched(folder, monkeypatch):
    """The number of rank 0 is of a process that has ended; rank 1 leaves while the launcher watches."""
    told = """
    import subprocess
    gone = subprocess.Popen(["true"])
    gone.wait()
    places = comm.gather((os.uname().nodename, os.getpid() if rank else gone.pid))
    await_the_watch() if rank else tell(ranks=places)
"""
    (folder / "small_worker.py").write_text(
        AWAIT_THE_WATCH + WORKER.replace("    comm.Barrier()\n", f"{told}    comm.Barrier()\n", 1)
    )
    job = Job(RunConfig(devices=["cpu"] * 2, out="exit"), module="small_worker")
    assert job.wait() != 0
    assert job.account.ends == {0: None, 1: 3 if LINUX >= (6, 15) else None}


STOPPED = """
    comm.Barrier()
    rank or tell(ranks=[["node0", 1], ["node0", 2]], out="here", saved=5, stopped="SIGTERM to rank 1")
    comm.Barrier()
"""


def test_a_rank_that_is_killed_after_all_have_stopped_is_no_good_order(folder):
    killed = f"{STOPPED}    os.kill(os.getpid(), signal.SIGKILL)\n"
    (folder / "small_worker.py").write_text(WORKER.replace("    comm.Barrier()\n", killed, 1))
    with pytest.raises(RunFailed, match=r"^BSP: 2 ranks failed with exit status \d+ .* SIGKILL") as caught:
        start().wait()
    assert caught.value.status != 75


def test_of_ranks_that_have_stopped_in_good_order_none_is_blamed(folder):
    left = f"{STOPPED}    sys.exit(75)\n"
    (folder / "small_worker.py").write_text(WORKER.replace("    comm.Barrier()\n", left, 1))
    with pytest.raises(RunFailed) as caught:
        start().wait()
    assert caught.value.status == 75
    assert re.fullmatch(
        r"BSP: 2 ranks stopped in good order by SIGTERM to rank 1 after \d+ s; "
        "iteration 5 is saved in here: --resume goes on from there",
        str(caught.value),
    )


def test_ranks_that_leave_early_with_status_0_have_not_ended_well(folder):
    with pytest.raises(
        RunFailed, match="left before the end of the run, though with exit status 0"
    ) as caught:
        start(out="early").wait()
    assert caught.value.status == 1


def test_wait_before_init():
    with pytest.raises(RuntimeError, match="BSP.wait: expected a call of init before it, got none"):
        BSP().wait()


SCRIPT = """
from theanompi import BSP
rule = BSP()
rule.init(devices=["cpu"], modelfile="mymodel", modelclass="Net", seed=7)
print("between", flush=True)
rule.wait()
"""


@pytest.mark.parametrize("n", [1, 2, 4])
def test_under_the_users_mpirun_the_script_is_the_worker(folder, n):
    # The worker by its real name, as a user's script has no other.
    program = "import sys, small_worker; sys.modules['theanompi.worker'] = small_worker" + SCRIPT
    (folder / "train.py").write_text("import os; os.chdir(os.path.dirname(__file__))\n" + program)
    done = run_mpi(n, [str(folder / "train.py")], timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("between") == n
    assert len(list(folder.glob("rank*.json"))) == n


def test_a_rank_whose_script_ends_before_wait_takes_all_along(folder):
    (folder / "train.py").write_text(
        SCRIPT.replace(
            "rule.wait()", "from theanompi.launch.job import mpi_rank\nif mpi_rank() == 1: 1 / 0\nrule.wait()"
        )
    )
    done = run_mpi(
        2, ["-c", f"import os, runpy; os.chdir({str(folder)!r}); runpy.run_path('train.py')"], timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.count("ZeroDivisionError") == 1
    assert done.stderr.count("theanompi: a rank's program has ended before wait was called\n") == 1


def test_in_a_world_of_one_the_script_starts_its_workers(folder, monkeypatch):
    for name, value in {"PMI_RANK": "0", "PMI_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert start(n=2).wait() == 0
    assert len(list(folder.glob("rank*.json"))) == 2


def test_run_is_one_worker_in_this_process(folder, monkeypatch):
    calls = []
    monkeypatch.setitem(
        sys.modules, "stand_in", type("Worker", (), {"run": lambda *args: calls.append(args)})
    )
    config = RunConfig(devices="cuda0")
    BSP().run(config, plan=True, module="stand_in")
    assert calls == [(config, ("cuda:0",), True)]


@pytest.fixture
def started(folder, monkeypatch):
    """The settings of jobs that were to be started."""
    jobs = []
    monkeypatch.setattr(session, "Job", lambda config, **_: jobs.append(config))
    return jobs


def test_attributes_of_a_rule_count(started, monkeypatch):
    monkeypatch.setattr(BSP, "sync_type", "avg", raising=False)
    rule = BSP()
    rule.exch_strategy = "ar"
    rule.init(["cpu"], **NET)
    assert (started[-1].sync_type, started[-1].exchange) == ("avg", "ar")
    # The rule's own goes before its class's.
    rule.sync_type = "cdd"
    rule.init(["cpu"], **NET, epochs=3)
    assert (started[-1].sync_type, started[-1].epochs) == ("cdd", 3)
    # Those of a plug-in add up.
    rule.settings = {"schedule.power": 2}
    rule.init(["cpu"], **NET, settings={"optimizer.beta2": 0.98})
    assert started[-1].settings == {"optimizer.beta2": 0.98, "schedule.power": 2}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sync_type", "sum", "sync_type: expected one of cdd, avg, swap, got 'sum'"),
        (
            "synctype",
            "avg",
            "BSP.synctype: expected a setting of a run; did you mean 'sync_type'.*, got none",
        ),
        ("exch_strategy", "naive", "BSP.exch_strategy: expected 'ar', as exchange was given, got 'naive'"),
        ("devices", ["cpu"], "BSP.devices: expected a setting of a run"),
    ],
)
@pytest.mark.parametrize("of_class", [False, True])
def test_attributes_of_a_rule_that_cannot_count_are_refused(
    folder, nothing_spawned, monkeypatch, name, value, message, of_class
):
    rule = BSP()
    monkeypatch.setattr(BSP if of_class else rule, name, value, raising=False)
    with pytest.raises(ConfigError, match=message):
        rule.init(["cpu"], **NET, exchange="ar")


def test_every_rule_can_be_made_by_its_name():
    assert [get_rule(name).name for name in RULES] == list(RULES)
    with pytest.raises(ConfigError, match="rule: expected one of BSP, .* got 'EASDG'; did you mean 'EASGD'"):
        get_rule("EASDG")


LAUNCHING = """
import sys
from theanompi.config import RunConfig
from theanompi.rules import BSP
rule = BSP()
rule.start(RunConfig(devices="cpu", modelfile="mymodel", modelclass="Net"), module="small_worker")
rule.wait()
sys.exit(bool({"mpi4py", "torch", "mymodel"} & {*sys.modules}))
"""


def test_the_launching_script_loads_neither_mpi_nor_the_model(folder):
    assert (
        subprocess.run([sys.executable, "-c", LAUNCHING], stdout=subprocess.DEVNULL, timeout=60).returncode
        == 0
    )
