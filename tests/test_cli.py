"""``tmlauncher`` and the flags of a training script, as a user meets them."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mpi import ROOT, run_mpi
from tests.test_launch import WORKER, assert_gone, await_files, facts
from theanompi import BSP, __version__, cli
from theanompi.config import EXCHANGES, RunConfig, run, run_folder
from theanompi.config.plugins import import_module
from theanompi.experiments.file import SHIPPED
from theanompi.launch.ends import Account
from theanompi.rules import RunFailed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "small_worker.py").write_text(WORKER)
    (tmp_path / "mymodel.py").write_text("class Net:\n    pass\n")
    (tmp_path / "bsp.cfg").write_text("MODELFILE=mymodel\nMODELCLASS=Net\nDEVICES=cpu0,cpu1\nSEED=7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """What would be started, instead of a job."""
    calls: list[tuple[RunConfig, dict]] = []

    class Recorded:
        def __init__(self, config, **how):
            calls.append((config, how))
            self.account, self.ended_by = Account(print), None
            self.account.well = True

        def wait(self):
            return 0

    monkeypatch.setattr("theanompi.launch.session.Job", Recorded)
    return calls


def tmlauncher(*argv: str) -> list[str]:
    program = "import sys; from theanompi.cli import main; sys.exit(main(sys.argv[1:], 'small_worker'))"
    return [sys.executable, "-c", program, *argv]


@pytest.mark.parametrize(
    "way", [["-cfg", "bsp.cfg"], ["-cfg=bsp.cfg"], ["--config", "bsp.cfg"], ["--cfg=bsp.cfg"]]
)
def test_every_spelling_of_the_cfg_flag(folder, started, way):
    assert cli.main(way) == 0
    expected = RunConfig(modelfile="mymodel", modelclass="Net", devices="cpu,cpu", seed=7)
    assert started == [(expected, {"module": "theanompi.worker", "bind": False, "plan": False})]


def test_theano_mpis_flags(folder, started):
    argv = "-file mymodel.py -class Net -r BSP -s 3 -bsp_sync_type avg -bsp_exch_strategy naive -b --plan"
    assert cli.main(argv.split()) == 0
    expected = RunConfig(
        modelfile="mymodel", modelclass="Net", devices="cpu,cpu,cpu", sync_type="avg", exchange="naive"
    )
    assert started == [(expected, {"module": "theanompi.worker", "bind": True, "plan": True})]


def test_a_model_may_be_given_by_its_path_with_dashes_in_its_name(folder, started, tmp_path_factory, capsys):
    elsewhere = tmp_path_factory.mktemp("my models.1")
    (elsewhere / "my-model.py").write_text("class Net:\n    pass\n")
    (folder / "its-model.py").write_text("class Net:\n    pass\n")
    for given, name in [
        (str(elsewhere / "my-model.py"), f"{elsewhere}/my-model"),
        (f"../{elsewhere.name}/my-model.py", f"{elsewhere}/my-model"),
        (str(folder / "its-model.py"), "its-model"),
    ]:
        started.clear()
        assert cli.main(["-file", given, "-class", "Net", "-s", "2", "--quiet"]) == 0
        ((config, _),) = started
        assert (config.modelfile, config.verbose) == (name, False)
        path = list(sys.path)
        assert import_module("modelfile", config.modelfile).Net
        sys.path[:] = path
    assert capsys.readouterr() == ("", "")
    assert run_folder(RunConfig(modelfile=f"{elsewhere}/my-model", data="digits")) == "runs/my-model-digits"


def test_what_starts_is_said_before_anything_is_imported(folder, started, capsys):
    for size, words in ((1, "starting 1 rank …\n"), (2, "starting 2 ranks …\n")):
        assert cli.main(["-file", "mymodel", "-class", "Net", "-s", str(size)]) == 0
        assert capsys.readouterr().err == words


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("doctor", [False, True])
def test_the_help_fits_the_terminal(columns, doctor, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    widths = [len(line) for line in cli._launcher(doctor).format_help().splitlines()]
    assert columns - 12 < max(widths) <= columns


@pytest.mark.parametrize(
    "names",
    [
        "RULES",
        "EXCHANGES",
        "ALGORITHMS",
        "OPTIMIZERS",
        "SCHEDULES",
        "LOGGERS",
        "PACKAGED",
        "SYNC_TYPES",
        "PRECISIONS",
    ],
)
def test_the_help_has_every_name_that_a_setting_may_have(names):
    words = set(re.findall(r"[\w-]+", cli._launcher().format_help()))
    assert set(getattr(run, names)) <= words


def helped(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_the_help_has_a_line_for_each_command_and_each_has_a_help(capsys):
    assert cli.main([]) == 0
    above, _, table = capsys.readouterr().out.partition("commands, each with a --help of its own:\n")
    assert above.startswith(
        "usage: tmlauncher [flags]\n       tmlauncher COMMAND ...\n\nStart a training run,"
    )
    names = [line.split()[0] for line in table.partition("\n\n")[0].splitlines() if line[2] != " "]
    assert names == ["doctor", "plot", "evaluate", "predict", "export", "compare", "report", "models"]
    for name in names:
        text = helped(name, capsys)
        assert text.startswith(f"usage: tmlauncher {name} ")
        assert max(map(len, text.splitlines())) <= 80


HOSTS = ("a:auto", "a:auto", "b:auto")


@pytest.mark.parametrize(
    ("argv", "cfg", "expected"),
    [
        ("-hostfile hosts.txt", "", HOSTS),
        ("-machinefile hosts.txt --device cuda", "", ("a:cuda", "a:cuda", "b:cuda")),
        ("", "HOSTFILE=hosts.txt", HOSTS),
        ("-s 3", "HOSTFILE=hosts.txt\nDEVICES=cpu", ("a:cpu", "a:cpu", "b:cpu")),
        ("--hostfile other.txt", "HOSTFILE=hosts.txt", ("c:auto",)),
    ],
)
def test_a_hostfile_is_one_worker_per_slot(folder, started, argv, cfg, expected):
    (folder / "hosts.txt").write_text("a:2\nb\n")
    (folder / "other.txt").write_text("c\n")
    (folder / "more.cfg").write_text(f"MODELFILE=mymodel\nMODELCLASS=Net\n{cfg}\n")
    assert cli.main(["-cfg", "more.cfg", *argv.split()]) == 0
    assert started[0][0].devices == expected


def test_in_an_allocation_of_slurm_its_nodes_are_the_hosts(folder, started, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setenv("SLURM_TASKS_PER_NODE", "2,1")
    words = ["-file", "mymodel", "-class", "Net"]
    for more in ([], ["-s", "2"], ["-s", "2", "--device", "auto"], ["--device", "cpu"], ["-cfg", "bsp.cfg"]):
        assert cli.main([*words, *more]) == 0
    assert [config.devices for config, _ in started] == [
        ("n1:auto", "n1:auto", "n2:auto"),
        ("cpu", "cpu"),
        ("auto", "auto"),
        ("cpu",),
        ("cpu", "cpu"),
    ]


def test_under_an_mpirun_of_several_ranks_it_says_how_many_there_are(folder, monkeypatch, capsys):
    devices: list[tuple[str, ...]] = []
    monkeypatch.setattr(BSP, "run", lambda self, config, **how: devices.append(config.devices))
    for name, value in {"PMI_RANK": "0", "PMI_SIZE": "2", "SLURM_JOB_NODELIST": "n[1-2]"}.items():
        monkeypatch.setenv(name, value)
    words = ["-file", "mymodel", "-class", "Net"]
    for more in ([], ["-s", "2"]):
        assert cli.main([*words, *more]) == 0
    assert devices == [("auto",), ("cpu",)]
    with pytest.raises(SystemExit) as caught:
        cli.main([*words, "-s", "3"])
    assert caught.value.code == 2
    assert (
        capsys.readouterr().err
        == "tmlauncher: error: size: expected 2, the ranks of your own mpirun, got 3\n"
    )


def test_flags_override_the_file_and_what_is_wrong_in_it(folder, started):
    with open("bsp.cfg", "a", encoding="utf-8") as file:
        file.write("EPOCHS=many\n")
    cli.main("-cfg bsp.cfg --seed 8 --device cpu --epochs 2 --rule BSP -bind --size 1".split())
    config, how = started[0]
    assert (config.seed, config.devices, config.epochs, config.modelclass) == (8, ("cpu",), 2, "Net")
    assert how["bind"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("-cfg no.cfg", r"cfg file: expected a readable text file, got 'no.cfg' (No such file or directory)"),
        ("-cfg bad.cfg", "bad.cfg, line 1: unknown key 'EPOCS'; did you mean 'EPOCHS'?"),
        ("-cfg bsp.cfg --epochs x", "epochs: expected a whole number of at least 1, got 'x'"),
        ("-cfg bsp.cfg -s 3", "size: expected 2, the number of devices given, got 3"),
        ("-file mymodel -class Net -s none", "size: expected a whole number of at least 1, got 'none'"),
        (
            "-file mymodel -class Net -s 10001",
            "size: expected a whole number of at least 1, got '10001'; the largest is 10000",
        ),
        (
            f"-file mymodel -class Net -s {'9' * 20}",
            "size: expected a whole number of at least 1, got '99999",
        ),
        (
            f"-file mymodel -class Net -s {'9' * 5000}",
            "size: expected a whole number of at least 1, got '99999",
        ),
        (
            "-file mymodel -class Net --hostfile /dev/zero",
            "hostfile: expected a readable text file, got '/dev/zero' (a",
        ),
        (
            f"-cfg bsp.cfg --data {'d' * 300}",
            "data: expected digits, reviews, sentences or the path of an HDF5 file, got 'ddd",
        ),
        (f"-cfg bsp.cfg --{'e' * 5000}", "--eee"),
        ("-cfg bsp.cfg -class Ned", "modelclass: expected a class of "),
        (
            "-cfg bsp.cfg -bsp_exch_strategy asa64",
            f"exchange: expected one of {', '.join(EXCHANGES)}, got 'asa64'",
        ),
        (
            "-cfg bsp.cfg -hostfile no.txt",
            "devices: expected one of auto, cpu, cuda for every slot of the hostfile, got cpu, cpu",
        ),
        (
            "-file mymodel -class Net -hostfile no.txt",
            "hostfile: expected a readable text file, got 'no.txt' (No such file or directory)",
        ),
        (
            "-cfg bsp.cfg --allreduce-algorithm rings",
            "allreduce_algorithm: expected one of recursive_doubling, ",
        ),
        ("-cfg bsp.cfg --epoch 3", "--epoch: unknown; did you mean '--epochs'?"),
        ("-cfg bsp.cfg --learning-rate=0.1", "--learning-rate: unknown; did you mean '--base-lr'?"),
        ("-cfg bsp.cfg --wieght-decay 0", "--wieght-decay: unknown; did you mean '--weight-decay'?"),
        ("-cfg bsp.cfg epochs 3", "expected flags only, got 'epochs'"),
        (
            "evalute runs/mine",
            "expected flags or one of doctor, plot, evaluate, predict, export, compare, report, models, got 'evalute'; "
            "did you mean 'evaluate'?",
        ),
        (
            "bsp.cfg",
            "expected flags or one of doctor, plot, evaluate, predict, export, compare, report, models, got",
        ),
        (
            "-cfg bsp.cfg -file /no/such/mymodel",
            "modelfile: expected a Python file, got '/no/such/mymodel.py', ",
        ),
        ("-cfg", "argument -cfg/--cfg/--config: expected one argument"),
        ("-cfg=--", "argument -cfg: expected a value, got '--'"),
        # As of a variable of the shell that is not set.
        ("-cfg=", "cfg file: expected a readable text file, got '' (No such file or directory)"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(folder, started, capsys, argv, message):
    (folder / "bad.cfg").write_text("EPOCS=3")
    with pytest.raises(SystemExit) as caught:
        cli.main(argv.split())
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert err.startswith(f"tmlauncher: error: {message}")
    assert err.count("\n") == 1
    assert started == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("evaluate run --device=", "devices: expected device names such as "),
        ("evaluate run --data=", "data: expected a text that is not empty, got ''"),
        ("plot run --out=", "out: expected a name that ends with .png, got "),
        ("compare slides --scale=", "{slides}: scale: expected one of "),
        ("compare slides --device=", "{slides}: devices: expected device names such as "),
        ("compare slides --out=", "out: expected a text that is not empty, got ''"),
    ],
)
def test_an_empty_word_is_no_word_left_out(folder, started, capsys, argv, message):
    (folder / "run").mkdir()
    (folder / "run/config.json").write_text(json.dumps(RunConfig().to_dict()))
    (folder / "run/checkpoint.h5").touch()
    with pytest.raises(SystemExit) as caught:
        cli.main(argv.split())
    assert caught.value.code == 2
    begin = f"tmlauncher {argv.split()[0]}: error: {message}".format(slides=SHIPPED["slides"])
    assert capsys.readouterr().err.startswith(begin)
    assert started == []


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("mymodel", "current folder: expected one, got none: it has been removed"),
        ("../m", "modelfile: expected a"),
    ],
)
def test_in_a_folder_that_has_been_removed(folder, started, monkeypatch, capsys, module, message):
    (folder / "gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()
    with pytest.raises(SystemExit):
        cli.main(["-file", module])
    assert capsys.readouterr().err.startswith(f"tmlauncher: error: {message}")
    assert started == []


@pytest.mark.parametrize(("columns", "widest"), [(80, 80), (120, 100), (None, 100)])
def test_the_list_of_networks_fits_the_terminal(monkeypatch, capsys, columns, widest):
    monkeypatch.setattr(cli, "terminal_columns", lambda *, output: columns)
    assert cli.main(["models", "Wide_ResNet"]) == 0
    assert widest - 12 < max(map(len, capsys.readouterr().out.splitlines())) <= widest


def test_nothing_is_said_to_start_that_does_not(folder, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main("-file mymodel -class Net -bind -s 9999".split())
    message = r"tmlauncher: error: bind: expected at most \d+ ranks on \d+ cores, got 9999\n"
    assert re.fullmatch(message, capsys.readouterr().err)


def test_no_arguments_print_the_help(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: tmlauncher [flags]")
    for word in (
        "-cfg",
        "-file",
        "-class",
        "-r ",
        "-s ",
        "-bsp_sync_type",
        "-bsp_exch_strategy",
        "-b,",
        "--epochs",
    ):
        assert word in out
    assert max(map(len, out.splitlines())) <= 110


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_real_run(folder, n):
    done = subprocess.run(
        tmlauncher("-file", "mymodel", "-class", "Net", "-s", str(n)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, f"starting {n} rank{'s' * (n > 1)} …\n")
    assert re.fullmatch(rf"BSP: {n} ranks? ended well after \d+ s\n", done.stdout)
    assert [item["size"] for item in facts(folder)] == [n] * n


def test_the_exit_status_is_the_runs(folder):
    done = subprocess.run(
        tmlauncher("-cfg", "bsp.cfg", "--out", "exit"), capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    line = rf"^tmlauncher: BSP: 2 ranks failed with exit status {done.returncode} after \d+ s; "
    assert re.search(line, done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


def test_the_last_line_of_a_run_that_failed_is_of_at_most_300_characters(
    folder, started, monkeypatch, capsys
):
    def wait(self):
        raise RunFailed("BSP: " + "out " * 1000, 3)

    monkeypatch.setattr(BSP, "wait", wait)
    assert cli.main(["-cfg", "bsp.cfg"]) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("tmlauncher: BSP: out out ") and len(line) <= 300
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["-cfg", "bsp.cfg"]) == 3
    assert max(map(len, capsys.readouterr().err.splitlines())) <= 80


@pytest.mark.parametrize(("flags", "said"), [([], True), (["--resume"], False)])
def test_nothing_is_lost_with_a_resume_that_is_refused(folder, monkeypatch, capsys, flags, said):
    class Refused:
        def __init__(self, config, **how):
            self.account, self.ended_by = Account(print), None
            self.account.ranks = [("node0", 1)]

        def wait(self):
            return 1

    monkeypatch.setattr("theanompi.launch.session.Job", Refused)
    assert cli.main(["-cfg", "bsp.cfg", *flags]) == 1
    assert ("; nothing is saved" in capsys.readouterr().err) == said


def test_ctrl_c_ends_all_ranks(folder):
    process = subprocess.Popen(
        tmlauncher("-cfg", "bsp.cfg", "--out", "sleep"), stderr=subprocess.PIPE, text=True
    )
    await_files(process, folder, "rank*.json", 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "tmlauncher: BSP: 2 ranks ended by SIGINT after " in err
    assert "Traceback" not in err
    assert_gone([item["pid"] for item in facts(folder)])


def test_the_version_is_told_also_by_the_package_as_a_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["theanompi", "--version"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("theanompi", run_name="__main__")
    assert capsys.readouterr().out == f"theanompi {__version__}\n"


def test_ctrl_c_before_anything_is_imported_is_a_line(monkeypatch, capsys):
    class Pressed:
        def find_spec(self, name, *_):
            if name == "theanompi.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "theanompi.cli")
    monkeypatch.setattr(sys, "meta_path", [Pressed(), *sys.meta_path])
    with pytest.raises(SystemExit, match=str(128 + signal.SIGINT)):
        runpy.run_module("theanompi", run_name="__main__")
    assert capsys.readouterr().err == "tmlauncher: stopped by SIGINT\n"


EXAMPLE = ROOT / "examples" / "train_resnet50.py"


def run_example(*argv: str, n: int | None = None, worker: Path) -> subprocess.CompletedProcess[str]:
    """Run the example with another worker under the real one's name."""
    program = (
        "import runpy, sys, small_worker; sys.modules['theanompi.worker'] = small_worker\n"
        f"sys.argv = [{str(EXAMPLE)!r}, *sys.argv[1:]]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    path = os.pathsep.join([str(ROOT), str(worker)])
    if n:
        return run_mpi(n, ["-c", program, *argv], timeout=60, env={"PYTHONPATH": path})
    return subprocess.run(
        [sys.executable, "-c", program, *argv],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def test_the_example_alone_is_one_worker(folder):
    done = run_example("--seed", "3", worker=folder)
    assert done.returncode == 0, done.stderr
    assert [(item["size"], item["seed"], item["devices"]) for item in facts(folder)] == [(1, 3, ["auto"])]


def test_the_example_under_mpirun_is_the_worker(folder):
    worker = folder / "small_worker.py"
    worker.write_text(WORKER.replace('Path(f"rank', f'Path({str(folder)!r}, f"rank'))
    done = run_example("--plan", "--device", "cpu", n=2, worker=folder)
    assert done.returncode == 0, done.stderr
    assert [(item["size"], item["plan"], item["devices"]) for item in facts(folder)] == [
        (2, True, ["cpu"])
    ] * 2


def test_a_mistake_under_mpirun_is_said_once(folder):
    done = run_example("--epochs", "0", n=2, worker=folder)
    assert done.returncode != 0
    assert (done.stdout + done.stderr).count(
        "error: epochs: expected a whole number of at least 1, got '0'"
    ) == 1


def test_the_examples_help(folder):
    out = run_example("--help", worker=folder).stdout
    assert out.startswith("usage: train_resnet50.py [flags]")
    assert "--batch-size N" in out
