"""The command line: `main` is ``tmlauncher``, and `from_flags` reads the flags of a training script."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from theanompi import __version__
from theanompi.config import (
    RANKS,
    RULES,
    ConfigError,
    OneLineParser,
    RunConfig,
    add_arguments,
    counted,
    from_args,
    got,
    in_place_of,
    listed,
    one_line,
    read_as,
    read_field,
)
from theanompi.config.cfgfile import read_cfg
from theanompi.config.files import check_new, reason
from theanompi.config.flags import Help, commands, no_command
from theanompi.doctor.examination import examine
from theanompi.experiments.file import SHIPPED, read_experiment
from theanompi.experiments.presets import SCALES
from theanompi.experiments.report import report
from theanompi.experiments.runner import compare
from theanompi.launch.check import check
from theanompi.launch.hosts import read_hostfile, slurm_devices
from theanompi.launch.job import EVALUATOR, WORKER, mpi_rank
from theanompi.launch.mpirun import launched, world
from theanompi.launch.session import Evaluation
from theanompi.models import listing
from theanompi.record.folder import CURVES_FILE, LOG_FILE, find_checkpoint, to_use
from theanompi.record.terminal import folded, terminal_columns, text_columns
from theanompi.rules import RunFailed, get_rule
from theanompi.system.output import print_anything, unprinted


class Parser(OneLineParser):
    """An argument parser whose help fits a screen and whose errors are one line, printed by rank 0 alone.

    >>> parser = Parser("train.py", "Train a network.")
    >>> print(parser.format_help().splitlines()[0])
    usage: train.py [flags]
    """

    def __init__(self, prog: str | None, description: str | None):
        super().__init__(
            prog,
            usage="%(prog)s [flags]",
            description=description,
            formatter_class=lambda prog: Help(prog, text_columns() or 80),
        )

    def error(self, message: str) -> NoReturn:
        """Print `message` and exit with status 2."""
        try:
            rank = mpi_rank()
        except ConfigError:  # perhaps what the message is about
            rank = None
        if rank:
            self.exit(2)
        super().error(message)

    @contextlib.contextmanager
    def one_line(self) -> Iterator[None]:
        """Turn a `ConfigError` into `error`."""
        try:
            yield
        except ConfigError as error:
            self.error(str(error))


def from_flags(
    description: str | None = None, argv: list[str] | None = None, **base: Any
) -> tuple[RunConfig, bool]:
    """Read and check the flags of a training script; a bad one is one line and exit status 2.

    Parameters
    ----------
    description
        What ``--help`` says above the flags.
    argv
        The flags, by default those of this process.
    **base
        Fields of the `RunConfig` that differ from its defaults where no flag is given.

    Returns
    -------
    config, plan
        The settings, and whether ``--plan`` was given.

    Examples
    --------
    >>> config, plan = from_flags(argv=["--epochs", "2", "--plan"], seed=1)
    >>> config.epochs, config.seed, plan
    (2, 1, True)
    """
    print_anything()
    parser = Parser(None, description)
    add_arguments(parser)
    args = parser.parse_args(argv)
    with parser.one_line():
        config = from_args(args, **base)
        check(config)
    return config, args.plan


def _launcher(doctor: bool = False) -> Parser:
    if doctor:
        parser = Parser(
            "tmlauncher doctor",
            "Find out what this machine has and whether the run of a cfg file, flags, or both will work on it; "
            "without any, one on the digits. Prints ok, warning or problem for each thing, and what helps. "
            "Exit status: 0 when there is no problem, 1 when there is one, 2 when a flag is wrong.",
        )
    else:
        parser = Parser(
            "tmlauncher",
            "Start a training run, one process per device, from a cfg file, flags, or both."
            + commands(
                {
                    "doctor [flags]": "find out beforehand whether a run will work",
                    "plot RUN ...": "draw the curves of one run or several",
                    "evaluate RUN": "validate what a run has saved",
                    "predict RUN FOLDER -o FILE.csv": "say what images show",
                    "export RUN -o FILE": "write a run's weights as other programs read them",
                    "compare EXPERIMENT.toml": "run recipes side by side",
                    "report DIR": "report on that again",
                    "models": "list the networks that are there",
                }
            ),
        )
        parser.usage = "%(prog)s [flags]\n       %(prog)s COMMAND ..."
        parser.add_argument("--version", action="version", version=f"theanompi {__version__}")
    group = parser.add_argument_group("launcher")
    if doctor:
        group.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    suppress: dict[str, Any] = {"default": argparse.SUPPRESS}
    group.add_argument(
        "-cfg", "--cfg", "--config", metavar="FILE", help="KEY=value lines; flags override them"
    )
    group.add_argument(
        "-r",
        "--rule",
        dest="rule",
        metavar="RULE",
        help=f"how workers exchange: {', '.join(RULES)}, or a class of your own: MODULE.CLASS",
        **suppress,
    )
    group.add_argument(
        *("-file", "--modelfile"),
        dest="modelfile",
        metavar="MODULE",
        help="such as models.resnet50, or a file such as /home/me/my-model.py",
        **suppress,
    )
    group.add_argument(
        *("-class", "--modelclass"),
        dest="modelclass",
        metavar="CLASS",
        help="the model's class in it",
        **suppress,
    )
    group.add_argument("-s", "--size", metavar="N", help="workers: on the CPU, where no devices are given")
    group.add_argument(
        *("-hostfile", "--hostfile", "-machinefile"),
        metavar="FILE",
        help="hosts with their slots, one worker per slot; one --device serves all",
        **suppress,
    )
    group.add_argument(
        "-b", "-bind", "--bind", action="store_true", help="bind each rank to cores of its own"
    )
    group.add_argument(
        "-bsp_sync_type", dest="sync_type", metavar="TYPE", help="same as --sync-type", **suppress
    )
    group.add_argument(
        "-bsp_exch_strategy", dest="exchange", metavar="NAME", help="same as --exchange", **suppress
    )
    add_arguments(parser)
    return parser


def _devices(
    size: str | int | None, hostfile: str | None, given: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """One device per worker, from the first that says so: devices, a hostfile, a size, a Slurm allocation."""
    ranks = None if size is None else read_as(RANKS, "size", size)
    if hostfile is not None:
        if given is not None and (len(given) > 1 or given[0] not in ("auto", "cpu", "cuda")):
            raise ConfigError(
                "devices: expected one of auto, cpu, cuda for every slot of the hostfile, "
                f"got {listed(given)}"
            )
        given = read_hostfile(hostfile, *(given or ()))
    place = world()
    if place is not None and launched() and (given is None or len(given) == 1):
        # One name serves all ranks of the user's own mpirun.
        if ranks is not None and place.size is not None and ranks != place.size:
            raise ConfigError(f"size: expected {place.size}, the ranks of your own mpirun, got {ranks}")
        return given if given is not None or ranks is None else ("cpu",)
    if given is None:
        return slurm_devices() if ranks is None else ("cpu",) * ranks
    if ranks is not None and len(given) == 1:
        given = in_place_of(("cpu",) * ranks, given)
    if ranks is not None and len(given) != ranks:
        raise ConfigError(f"size: expected {len(given)}, the number of devices given, got {ranks}")
    return given


def _settings(args: argparse.Namespace) -> RunConfig:
    flags = {name for name, value in vars(args).items() if value is not None}
    settings = read_cfg(args.cfg, flags, rule=getattr(args, "rule", None)) if args.cfg is not None else {}
    hostfile = getattr(args, "hostfile", settings.pop("hostfile", None))
    size_in_file = settings.pop("size", None)
    size = size_in_file if args.size is None else args.size
    config = from_args(args, **settings)
    given = config.devices if "devices" in settings or "devices" in args else None
    both = "devices" in settings and "devices" in args
    if both and hostfile is None and size is None and not launched():
        given = in_place_of(settings["devices"], config.devices)
    devices = _devices(size, hostfile, given)
    return config if devices is None else replace(config, devices=devices)


def _doctor(argv: list[str]) -> int:
    parser = _launcher(doctor=True)
    args = parser.parse_args(argv)
    with parser.one_line():
        if args.plan:
            raise ConfigError("plan: expected a run, got the doctor; tmlauncher --plan prints it")
        config = _settings(args)
    return examine(config, bind=args.bind, as_json=args.json)


def _compare(argv: list[str], module: str) -> int:
    parser = Parser(
        "tmlauncher compare",
        "Run every arm of an experiment with every worker count and seed, and report mean and spread of their "
        "errors, curves, and what became of its claims. It may be stopped at any moment; the same command goes on. "
        "Exit status: 0 when all runs are done, diverged ones included, 1 when one failed, 2 when something in the "
        "file or a flag is wrong.",
    )
    parser.usage = "%(prog)s EXPERIMENT [flags]"
    parser.add_argument(
        "file",
        metavar="EXPERIMENT",
        help="a TOML file with arms, worker counts, seeds and claims, or one of the package's own: "
        + ", ".join(sorted(SHIPPED)),
    )
    parser.add_argument("--scale", metavar="NAME", help=f"one of {', '.join(SCALES)} (default: the file's)")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many, from 0 on (default: the file's)")
    parser.add_argument(
        "--workers", type=int, nargs="+", metavar="K", help="worker counts of every arm (default: the file's)"
    )
    parser.add_argument(
        "--simulate",
        type=int,
        metavar="R",
        help="ranks that are the workers of each run, by accumulation; 0: as many as workers "
        "(default: the scale's)",
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:N or auto (default: the scale's)")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs at once (default: as many as cores allow; on GPUs 1)"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="the experiment's folder (default: runs/compare/NAME-SCALE)"
    )
    parser.add_argument(
        "--reuse", nargs="+", default=(), metavar="DIR", help="copy runs with the same settings from there"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="run again what is there with other settings than the file's"
    )
    args = parser.parse_args(argv)
    with parser.one_line():
        if args.jobs is not None and args.jobs < 1:
            raise ConfigError(f"jobs: expected a whole number of at least 1, got {args.jobs}")
        experiment = read_experiment(
            args.file,
            scale=args.scale,
            seeds=args.seeds,
            workers=args.workers,
            simulate=args.simulate,
            device=args.device,
        )
        default = f"runs/compare/{experiment.name}-{experiment.scale}"
        out = Path(default if args.out is None else read_field("out", args.out))
        try:
            return compare(
                experiment,
                out,
                jobs=args.jobs,
                overwrite=args.overwrite,
                reuse=[Path(folder) for folder in args.reuse],
                module=module,
            )
        except KeyboardInterrupt:  # before or after the runs, which stop by themselves
            print("stopped; the same command goes on", file=sys.stderr)
            return 128 + signal.SIGINT
        except OSError as error:
            where = error.filename or out
            raise ConfigError(
                f"{where}: expected to be readable and writable, got: {reason(error)}"
            ) from None


def _why(error: Exception) -> str:
    """What has gone wrong, of the operating system's errors the file and the reason.

    >>> _why(PermissionError(13, "Permission denied", "photos"))
    'photos: Permission denied'
    """
    name = error.filename if isinstance(error, OSError) else None
    return str(error) if name is None else f"{name}: {reason(error)}"


def _report(argv: list[str]) -> int:
    parser = Parser(
        "tmlauncher report",
        "Make the report of an experiment again, from its runs' logs alone: report.md, report.json and curves.png.",
    )
    parser.usage = "%(prog)s DIR"
    parser.add_argument("folder", metavar="DIR", help="the experiment's folder, with experiment.json")
    folder = parser.parse_args(argv).folder
    try:
        print(report(folder, columns=terminal_columns(output=True)))
    except (ValueError, OSError) as error:
        parser.error(_why(error))
    return 0


def _export(argv: list[str]) -> int:
    parser = Parser(
        "tmlauncher export",
        "Write the weights of a run as float32 arrays by name, such as conv1.W. The file's ending says the format: "
        ".safetensors, .pt (a state_dict), .npz or .h5. --init FILE starts another run from any of them.",
    )
    parser.usage = "%(prog)s RUN -o FILE [flags]"
    parser.add_argument(
        "source", metavar="RUN", help="a run's folder, its checkpoint, or any file that --init reads"
    )
    parser.add_argument("-o", "--out", metavar="FILE", required=True, help="what to write")
    parser.add_argument(
        "--torch-names",
        action="store_true",
        help="names and layout of the same network in torch, such as conv1.weight; builds the model, with its data",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a FILE that is there")
    args = parser.parse_args(argv)
    # Only this command needs NumPy or more.
    from theanompi.record.weights import check_out, read_weights, write_weights

    with parser.one_line():
        check_out(args.out, overwrite=args.overwrite)
        weights = read_weights(args.source)
        if weights.ordered:
            raise ConfigError(
                f"weights {weights.path}: expected arrays with names, got a list of {len(weights.arrays)}"
            )
        # What torch counts in whole numbers is no weight.
        arrays = {name: array for name, array in weights.arrays.items() if array.dtype.kind == "f"}
        if args.torch_names:
            from theanompi.training.export import for_torch

            arrays = for_torch(weights)
        try:
            write_weights(args.out, arrays, overwrite=args.overwrite)
        except OSError as error:
            raise ConfigError(_why(error)) from None
    numbers = sum(array.size for array in arrays.values())
    print(f"{args.out}: {counted(len(arrays), 'array')}, {counted(numbers, 'number')}")
    return 0


def _evaluate(argv: list[str]) -> int:
    parser = Parser(
        "tmlauncher evaluate",
        "Validate what a run has saved, on any number of ranks, as the run itself does after an epoch, and print the "
        "figures in words and as a line of its log. Nothing in the run's folder is changed.",
    )
    parser.usage = "%(prog)s RUN [flags]"
    parser.add_argument("run", metavar="RUN", help="a run's folder, or a checkpoint in it")
    parser.add_argument(
        "--data", metavar="DATA", help="another data set, whose validation items count (default: the run's)"
    )
    _add_devices(parser, "such as cpu,cpu: a rank on each (default: auto, one rank)")
    args = parser.parse_args(argv)
    with parser.one_line():
        given = None if args.devices is None else read_field("devices", args.devices)
        devices = _devices(None, None, given) or ("auto",)
        checkpoint = find_checkpoint(args.run)
        config = to_use(checkpoint, devices)
        evaluation = Evaluation()
        data = config.data if args.data is None else args.data
        evaluation.start(replace(config, init=str(checkpoint), data=data), module=EVALUATOR)
    try:
        return evaluation.wait()
    except RunFailed as failure:
        return _say_how_it_ended(failure)


def _say_how_it_ended(failure: RunFailed) -> int:
    # A terminal has put its ^C beside the bar, which is gone.
    begin = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(begin + folded(one_line(f"tmlauncher: {failure}"), text_columns()), file=sys.stderr)
    return failure.status


def _predict(argv: list[str]) -> int:
    parser = Parser(
        "tmlauncher predict",
        "Write a table with the five most probable classes of each image, as a run's network sees it in validation. "
        "Files that show no picture are named and left out; the exit status is then 1. Of a run whose class has a "
        "method predictions, write what it predicts of the arrays in an .npz file.",
    )
    parser.usage = (
        "%(prog)s RUN FOLDER|FILE ... -o FILE.csv [flags]\n       %(prog)s RUN FILE.npz -o FILE.npz [flags]"
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or a checkpoint in it")
    parser.add_argument(
        "paths",
        metavar="FOLDER|FILE",
        nargs="+",
        help="images; of a folder all in it and below; or an .npz file",
    )
    parser.add_argument(
        "-o", "--out", metavar="FILE", required=True, help="what to write: .csv, or .npz of an .npz file"
    )
    _add_devices(parser, "cpu, cuda:N or auto (default: auto)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    args = parser.parse_args(argv)
    out = Path(args.out)
    with parser.one_line():
        check_new(out, f"out {out}", overwrite=args.overwrite)
        find_checkpoint(args.run)
        # Only this command needs torch.
        from theanompi.data import LoaderError
        from theanompi.training.prediction import predict

        try:
            return predict(args.run, args.paths, out, "auto" if args.devices is None else args.devices)
        except LoaderError as error:  # nothing that another flag puts right
            print(one_line(f"tmlauncher: {error}"), file=sys.stderr)
            return 1
        except (ValueError, OSError) as error:
            raise ConfigError(_why(error)) from None


def _add_devices(parser: Parser, help: str) -> None:
    parser.add_argument("--device", "--devices", dest="devices", metavar="DEVICE", help=help)


def _plot(argv: list[str]) -> int:
    parser = Parser(
        "tmlauncher plot",
        "Draw the curves of a run from its log, also while it is going on; of several runs the metric that they are "
        "compared by, and the loss, in one picture.",
    )
    parser.usage = "%(prog)s RUN ... [-o FILE.png]"
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the folder of a run")
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE.png",
        help=f"what to write (default: {CURVES_FILE} of the run, if it is one)",
    )
    args = parser.parse_args(argv)
    # Only this command needs NumPy and matplotlib.
    from theanompi.record.plots import plot_curves, plot_runs

    with parser.one_line():
        runs = [Path(run) for run in args.runs]
        if args.out is None and len(runs) > 1:
            raise ConfigError(f"out: expected -o FILE.png for a picture of {len(runs)} runs, got none")
        out = Path(runs[0] / CURVES_FILE if args.out is None else args.out)
        if out.suffix != ".png":
            raise ConfigError(f"out: expected a name that ends with .png, got {got(str(out))}")
        if args.out is not None:
            check_new(out, f"out {out}", overwrite=True)
        try:
            if len(runs) == 1:
                plot_curves(runs[0] / LOG_FILE, out)
            else:
                plot_runs(runs, out)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        except OSError as error:
            raise ConfigError(f"out {out}: expected to be written, got: {reason(error)}") from None
    print(out)
    return 0


def _models(argv: list[str]) -> int:
    parser = Parser(
        "tmlauncher models",
        "List the networks of the zoo: where they are (for -file and -class), parameters, multiply-adds, the input, "
        "how a run trains them that sets nothing, and their source.",
    )
    parser.usage = "%(prog)s [CLASS ...]"
    parser.add_argument("names", nargs="*", metavar="CLASS", help="these only, with all of their layers")
    names = parser.parse_args(argv).names
    with parser.one_line():
        print(listing(names, min(terminal_columns(output=True) or 100, 100)))
    return 0


def main(argv: list[str] | None = None, module: str = WORKER) -> int:
    """Run ``tmlauncher``: start the workers, wait for them, and return their exit status; or one of its other commands.

    Parameters
    ----------
    argv
        The flags, by default those of this process; none at all prints the help.
    module
        The worker's module.

    Returns
    -------
    int
        0 when the run ended well; 2 (by `SystemExit`) when a setting is wrong; else the run's own status, 1 for a
        problem that the doctor found or a standard output that cannot be written, or 130 after a Ctrl-C.
    """
    print_anything()
    try:
        return _main(sys.argv[1:] if argv is None else argv, module) or unprinted()
    except KeyboardInterrupt:
        print("tmlauncher: stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT


def _main(argv: list[str], module: str) -> int:
    known: dict[str, Callable[[list[str]], int]] = {
        "doctor": _doctor,
        "plot": _plot,
        "evaluate": _evaluate,
        "predict": _predict,
        "export": _export,
        "compare": partial(_compare, module=module),
        "report": _report,
        "models": _models,
    }
    parser = _launcher()
    if not argv:
        parser.print_help()
        return 0
    if argv[0] in known:
        return known[argv[0]](argv[1:])
    if not argv[0].startswith("-"):
        parser.error(no_command(argv[0], known, "flags or "))
    args = parser.parse_args(argv)
    with parser.one_line():
        config = _settings(args)
        rule = get_rule(config.rule)
        rule.start(config, bind=args.bind, plan=args.plan, module=module)
    try:
        return rule.wait()
    except RunFailed as failure:
        return _say_how_it_ended(failure)
