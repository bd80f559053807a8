"""What holds for all tests: settings before any module starts threads or processes, and which tests start an mpirun.

The whole of them runs in three processes, files that are named run in this one; ``-n`` has the last word.

One thread per process, and signals as in a terminal: what a script starts in the background ignores SIGINT, under
nohup also SIGHUP, and so would all that the tests start.
"""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
# A wait in MPI gives its core to others, of which there are more than cores.
os.environ["MPIR_CVAR_ENABLE_HEAVY_YIELD"] = "1"
# Where readline is loaded it puts the width of a terminal, or 80, into the environment of what it starts,
# past os.environ.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
    os.unsetenv(name)
# Hundreds of processes import the package, which none of them needs to compile but the first.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Without Triton, which is a thing of its own, its kernels are nothing to import.
collect_ignore = [] if find_spec("triton") else ["triton_program.py"]

HERE = str(Path(__file__).parent)
STARTING = {
    "tests.mpi": ("run_mpi", "run_warm", "mpirun"),
    "theanompi.launch.job": ("Job",),
    "theanompi.launch.mpirun": ("run_ranks",),
    "theanompi.rules": ("BSP",),
}
"""What starts an mpirun, by module."""
PROGRAMS = ("theanompi.cli", "theanompi.worker")
"""What starts one when it is the program of another process: named in a command line."""
BEGINNINGS: list[tuple[Any, Any]] = []
"""The generators that test modules have made, and their states by then."""

SLOW = """
test_benchmark_loader test_benchmark_revisions test_benchmark_scaling test_benchmark_zoo test_data_loader
test_data_writer test_device_differential test_device_native test_device_random_graphs test_doctor test_encoding
test_hostile test_launch test_pack test_plots test_report test_warm
""".split()
"""Modules that start and kill processes by the dozen, draw pictures, or try what is drawn at random."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the modules that are slow, and the tests that start an mpirun, themselves or by others in this folder."""
    starting = [
        getattr(sys.modules[m], name) for m, names in STARTING.items() if m in sys.modules for name in names
    ]

    @cache  # of a test with many parameters, and of a fixture that many tests use, once
    def starts_one(function: Any) -> bool:
        return any(is_start(value, starting) for value in everything_used([function]))

    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")
        if isinstance(item, pytest.DoctestItem):
            text = "".join(example.source for example in item.dtest.examples)  # type: ignore[union-attr]
            starts = any(f"{name}(" in text for names in STARTING.values() for name in names)
        else:
            fixtures = item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
            used = [item.function, *(definition.func for several in fixtures for definition in several)]  # type: ignore[attr-defined]
            given = [*getattr(getattr(item, "callspec", None), "params", {}).values()]
            starts = any(map(starts_one, used))
            starts = starts or any(is_start(value, starting) for value in everything_used(given))
        if starts:
            item.add_marker("mpirun")


@pytest.fixture
def drawn() -> None:
    """Pictures are drawn, for a test that looks at them, in a module that is marked for `pictures`."""


@pytest.fixture
def pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture of a report is an empty file where nobody looks at it."""
    if "drawn" not in request.fixturenames:
        for name in ("plot_comparison", "plot_time"):
            monkeypatch.setattr(f"theanompi.experiments.report.{name}", lambda _, path: path.touch())


@pytest.fixture
def figures(drawn: None, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved, as an empty picture: what is in them is known before any pixel is."""
    from matplotlib.figure import Figure  # as few tests need it
    from PIL import Image

    saved: list[Figure] = []

    def keep(figure: Figure, file: Any, **settings: Any) -> None:
        saved.append(figure)
        Image.new("RGB", (8, 8)).save(file, "PNG")

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


@pytest.fixture(scope="module")
def beside_the_benchmarks() -> Iterator[None]:
    """The benchmarks can be imported: scripts, which find each other because they lie in one folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(HERE).parent / "benchmarks"))
        yield


@pytest.fixture
def forks() -> Iterator[None]:
    """Loader processes begin as forks of this one."""
    from tests.forked import forked_loaders

    with forked_loaders():
        yield


def is_start(value: Any, starting: list[Any]) -> bool:
    """Whether a function, a class or a constant is one of those that start an mpirun."""
    if isinstance(value, str):
        return any(program in value for program in PROGRAMS)
    return any(value is other for other in starting)


def everything_used(values: list[Any]) -> Iterator[Any]:
    """All that functions use, directly or through functions, classes and constants of modules in this folder."""
    seen: set[int] = set()
    while values:
        value = values.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        value = getattr(value, "__wrapped__", value)
        if isinstance(value, MethodType):
            value = value.__func__
        if isinstance(value, FunctionType) and value.__code__.co_filename.startswith(HERE):
            names, constants = names_and_constants(value.__code__)
            values += [value.__globals__[name] for name in names if name in value.__globals__]
            values += constants
        elif isinstance(value, type) and str(
            getattr(sys.modules.get(value.__module__), "__file__", "")
        ).startswith(HERE):
            values += vars(value).values()
        elif isinstance(value, list | tuple):
            values += value
        elif isinstance(value, dict):
            values += value.values()


def names_and_constants(code: CodeType) -> tuple[set[str], list[Any]]:
    """The names that code looks up, and its constants; those of functions within it too."""
    names, constants = set(code.co_names), []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            more = names_and_constants(constant)
            names |= more[0]
            constants += more[1]
        else:
            constants.append(constant)
    return names, constants


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole in three processes: most tests keep one core at work, those under an mpirun two to four, or none.

    Each process takes a third, and then from the others what has not begun, so that most files are in one of them.
    """
    if hasattr(config, "workerinput"):  # this is one of the three
        return
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if whole and config.pluginmanager.hasplugin("xdist") and not config.option.usepdb:
        if config.option.numprocesses is None and len(os.sched_getaffinity(0)) > 1:
            config.option.numprocesses, config.option.dist = 3, "worksteal"


def pytest_collection() -> None:
    """Look for no garbage while modules are imported: they stay."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note where the modules' random numbers begin; take what they have made out of the garbage collector's sight."""
    from numpy.random import Generator  # after the settings above

    for module in {getattr(item, "module", None) for item in session.items} - {None}:
        generators = [value for value in vars(module).values() if isinstance(value, Generator)]
        BEGINNINGS.extend((generator, generator.bit_generator.state) for generator in generators)
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin all random numbers anew: what a test draws does not depend on those before it in its process."""
    for generator, state in BEGINNINGS:
        generator.bit_generator.state = state
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(0)
    if lasagne := sys.modules.get("theanompi.lasagne.random"):
        lasagne.set_rng(lasagne.Generator(lasagne.np.random.PCG64(0)))


def pytest_configure(config: pytest.Config) -> None:
    """Where tests that start an mpirun are left out, skip those that turn out to when they do."""
    if "not mpirun" in config.getoption("markexpr"):
        sys.addaudithook(skip_at_mpirun)


def skip_at_mpirun(event: str, arguments: tuple[Any, ...]) -> None:
    """End a test that is about to start an mpirun; called by Python for whatever happens.

    One that is asked for its version starts no ranks: some modules ask it where they are imported.
    """
    if event == "subprocess.Popen" and "--version" not in arguments[1]:
        if any(Path(os.fsdecode(word)).name == "mpirun" for word in arguments[1][:6]):
            pytest.skip("starts an mpirun")


@pytest.fixture
def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared variables are on torch's device "meta", as in tests/without_memory.py, and torch's own calls compute."""
    import torch  # as few tests need it

    monkeypatch.setattr("theanompi.device.placement._current", torch.device("meta"))
    monkeypatch.setattr("theanompi.device.triton.problem", lambda: "its kernels need a GPU")
