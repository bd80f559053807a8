"""``tmlauncher doctor``: what this machine has, and whether a run will work on it.

Whatever may fail, crash or hang is asked in a process of its own under a time-out (`theanompi.doctor.questions`,
`theanompi.exchange.probe`); that it did is a finding like any other.
"""

import json
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from theanompi import __version__
from theanompi.config import (
    ASYNCHRONOUS,
    PACKAGED,
    ConfigError,
    Host,
    RunConfig,
    hosts,
    resolve,
    to_environment,
)
from theanompi.doctor import findings
from theanompi.doctor.findings import Finding, ok, problem, warning
from theanompi.launch.check import check, check_init
from theanompi.launch.job import command
from theanompi.launch.libraries import launch_settings
from theanompi.launch.mpirun import Outcome, environment, identify, run, run_ranks, world
from theanompi.record.terminal import folded, text_columns
from theanompi.system.cgroup import cores
from theanompi.system.load import Load

TIMEOUTS = {
    "machine": 60.0,
    "ranks": 60.0,
    "proof": 90.0,
    "model": 90.0,
    "data": 60.0,
    "folder": 20.0,
    "host": 30.0,
}
"""Seconds that each question may take."""
VALUES = (16_384, 262_144, 4_194_304, 25_557_032)
"""float32 values of the sums that are timed; the last are the gradients of ResNet-50."""
MOST_RANKS = 8
RUN_FILES = ("config.json", "log.jsonl", "checkpoint.h5")
PROBE = ("-P", "-X", "faulthandler", "-m", "mpi4py", "-m", "theanompi.exchange.probe")

Answer = tuple[dict[str, Any], str]
"""What was said, and how the process failed, or nothing."""


def examine(config: RunConfig, bind: bool = False, as_json: bool = False) -> int:
    """Print what is found, each line as soon as it is known.

    Parameters
    ----------
    config
        The run that shall work.
    bind
        Whether its ranks are bound to cores.
    as_json
        Print one JSON object at the end, and nothing else.

    Returns
    -------
    int
        The exit status: 1 if there is a problem, else 0.
    """
    doctor, found = Doctor(config, bind), []
    if not as_json:
        print(f"theanompi {__version__} on {platform.node()}: {', '.join(config.devices)}", flush=True)
    for finding in doctor.examine():
        found.append(finding)
        if not as_json:
            print(folded(line(finding), text_columns(), indent=24), flush=True)
    counts = {level: sum(item.level == level for item in found) for level in findings.LEVELS}
    status = int(counts["problem"] > 0)
    if as_json:
        report = {
            "theanompi": __version__,
            "host": platform.node(),
            "config": doctor.config.to_dict(),
            "findings": [item._asdict() for item in found],
            "counts": counts,
            "exit_status": status,
            "facts": doctor.facts,
        }
        print(json.dumps(report, indent=2))
    else:
        print(summary(counts, judged=not any(item.text.endswith(findings.NOT_JUDGED) for item in found)))
    return status


def line(finding: Finding) -> str:
    """Lay out a finding, with what helps on a second line.

    >>> print(line(warning("cores", "2 for 4 ranks", "at most 2 ranks here")))
    warning  cores          2 for 4 ranks
                            remedy: at most 2 ranks here
    """
    text = f"{finding.level:<8} {finding.topic:<14} {finding.text}"
    return text + (f"\n{'':23} remedy: {finding.remedy}" if finding.remedy else "")


def summary(counts: dict[str, int], *, judged: bool = True) -> str:
    """Say in one line what it all means.

    >>> summary({"ok": 12, "warning": 1, "problem": 0})
    'It will work: 12 ok, 1 warning, 0 problems.'
    >>> summary({"ok": 12, "warning": 1, "problem": 0}, judged=False)
    'Not all could be judged: 12 ok, 1 warning, 0 problems.'
    """
    words = [
        f"{counts[level]} {level}{'s' * (level != 'ok' and counts[level] != 1)}" for level in findings.LEVELS
    ]
    verdict = (
        "It will not work" if counts["problem"] else "It will work" if judged else "Not all could be judged"
    )
    return f"{verdict}: {', '.join(words)}."


class Doctor:
    """The questions about one run.

    Parameters
    ----------
    config
        The run.
    bind
        Whether its ranks are bound to cores.

    Attributes
    ----------
    config : RunConfig
        Resolved: with what the model's class has defaults for, once that is imported.
    facts : dict
        By question, all that was said.
    """

    def __init__(self, config: RunConfig, bind: bool) -> None:
        self.given, self.config, self.bind = config, resolve(config), bind
        self.machines = hosts(config.devices)
        self.ranks = max(len(machine.devices) for machine in self.machines)
        here = (None, "localhost", "127.0.0.1", platform.node(), platform.node().split(".")[0])
        self.local = next((machine for machine in self.machines if machine.name in here), None)
        self.facts: dict[str, Any] = {}
        self.starts_mpi = self.has_model = True
        self.building = ""
        self.load = Load()

    def examine(self) -> Iterator[Finding]:
        """Find out, one thing after the other: what is timed shall have the machine for itself."""
        yield findings.load(self.load.busy())
        for finding in self._parts():
            yield findings.allowing_for(self.load.busy(), finding)

    def _parts(self) -> Iterator[Finding]:
        yield from self._machine()
        yield from findings.launcher(world(), self.config.devices)
        yield from self._mpi()
        yield from self._model()
        yield from self._hosts()
        yield from self._run()

    def _ask(self, question: str, *args: Any) -> Answer:
        """Ask one of `theanompi.doctor.questions.QUESTIONS`."""
        words = [sys.executable, "-P", "-X", "faulthandler", "-m", "theanompi.doctor.questions", question]
        words += map(json.dumps, args)
        return self._answer(question, run(words, TIMEOUTS[question], environment(sys.executable)))

    def _answer(self, question: str, outcome: Outcome) -> Answer:
        facts: dict[str, Any] = {}
        for item in outcome.facts:
            facts |= item
        self.facts[question] = facts
        if "error" in facts:
            return facts, f"failed ({facts['error']})"
        return facts, "" if outcome.status == 0 else outcome.how(TIMEOUTS[question.split()[0]])

    def _machine(self) -> Iterator[Finding]:
        facts, failure = self._ask("machine")
        yield from findings.software(facts)
        if "cores" in facts:
            threads = environment(sys.executable).get("OMP_NUM_THREADS")
            yield from findings.cores(facts, self.config, self.ranks, self.bind, threads)
        if {"shm", "gpus"} <= facts.keys():
            yield from findings.system(facts)
        if "gpus" in facts and self.local:
            yield from findings.devices(self.local.devices, facts, platform.node())
        if failure:
            small = None if "packages" in facts else findings.small_shm(facts, failure)
            # Whatever starts MPI next would fail in the same way, without saying why.
            self.starts_mpi = small is None
            yield small or problem(
                "machine",
                f"the process that looks at it {failure}",
                f"{sys.executable} -m theanompi.doctor.questions machine shows where",
            )

    def _broken(self) -> list[str]:
        packages = self.facts["machine"].get("packages", {})
        broken = [name for name, about in packages.items() if "error" in about]
        return broken if self.starts_mpi else [*broken, "mpi4py"]

    def _mpi(self) -> Iterator[Finding]:
        if {"torch", "mpi4py"} & {*self._broken()}:
            return
        n = min(max(self.ranks, 2), MOST_RANKS)
        try:
            mpirun, kind = identify()[:2]
            outcome = self._sum(["cpu"] * n, ["host"])
        except ConfigError as error:
            text, _, remedy = str(error).partition("; remedy: ")
            yield problem("mpirun", text, remedy or "the mpirun of mpi4py's MPI library first on PATH")
            return
        # Under the mpirun of another MPI each process is rank 0, and says so.
        first = next(iter(outcome.facts), {})
        sums = [item for item in outcome.facts if "path" in item]
        library = self.facts["machine"].get("library", "the MPI library of mpi4py")
        self.facts["ranks"] = {**first, "mpirun": mpirun, "ranks": n, "sums": sums}
        if first:
            yield from findings.mpirun(mpirun, n, library, first)
        if outcome.status != 0:
            how = outcome.how(TIMEOUTS["ranks"])
            small = findings.small_shm(self.facts["machine"], f"as one of {n} ranks {how}")
            yield small or findings.no_mpirun(mpirun, kind, library, how)
        yield from findings.allreduce(n, sums)
        yield from (findings.window(item["helped"]) for item in outcome.facts if "helped" in item)
        if first:
            yield from self._cuda_aware(first)

    def _sum(self, devices: list[str], paths: list[str]) -> Outcome:
        window = self.config.rule in ASYNCHRONOUS and not self._reach_across
        task = {"devices": devices, "paths": paths, "sizes": VALUES, "window": window}
        return run_ranks(len(devices), [*PROBE, json.dumps(task)], TIMEOUTS["ranks"], devices)

    def _cuda_aware(self, library: dict[str, Any]) -> Iterator[Finding]:
        claim = {"claimed": library["claimed"], "reason": library["claim"]}
        if self.local is None:
            if any(name != "cpu" for machine in self.machines for name in machine.devices):
                yield warning(
                    "CUDA-aware",
                    f"{claim['reason']}; nothing is proven, because no rank runs on this machine",
                    f"tmlauncher doctor on {self.machines[0].name}",
                )
            return
        try:
            devices = findings.chosen_devices(self.local.devices, len(self.facts["machine"].get("gpus", [])))
        except ConfigError:  # which is a finding already
            return
        if "cpu" in devices or library["size"] < 2:
            yield from findings.cuda_aware(claim, gpus="cpu" not in devices)
            return
        devices = (devices if len(devices) > 1 else devices * 2)[:MOST_RANKS]
        facts, failure = self._ask("proof", {"devices": devices})
        if failure:
            facts = {"claimed": True, "use_direct": False, "reason": f"the proof {failure}"}
        yield from findings.cuda_aware(facts, gpus=True)
        outcome = self._sum(devices, ["staged", "direct"] if facts.get("right") else ["staged"])
        sums = self.facts["device sums"] = [item for item in outcome.facts if "path" in item]
        yield from findings.allreduce(len(devices), sums)

    def _hosts(self) -> Iterator[Finding]:
        if self.machines[0].name is None:
            return
        try:
            mpirun, kind = identify()[:2]
        except ConfigError:  # which is a finding already
            return
        with ThreadPoolExecutor(MOST_RANKS) as pool:
            answers = list(pool.map(lambda machine: self._ask_host(mpirun, kind, machine), self.machines))
        for machine, (facts, failure) in zip(self.machines, answers, strict=True):
            yield from findings.host(machine, self.facts["machine"], facts, failure, str(self.config.data))
        if self._reach_across and not any(failure for _, failure in answers):
            yield from self._one_sided(mpirun, kind)

    @property
    def _reach_across(self) -> bool:
        """Whether ranks get at memory of ranks on other machines."""
        return self.config.rule in ASYNCHRONOUS and len(self.machines) > 1

    def _one_sided(self, mpirun: str, kind: str) -> Iterator[Finding]:
        """Whether ranks of several machines have to help each other to get at their memory."""
        devices = tuple(f"{machine.name}:cpu" for machine in self.machines[:MOST_RANKS])
        some = replace(self.config, devices=devices)
        task = {"devices": ["cpu"] * len(devices), "paths": [], "sizes": [], "window": True}
        words: list[str] = []
        for word in [*command(some, mpirun, kind, threads=False, module="theanompi.exchange.probe"), ":"]:
            words += [json.dumps(task)] * (word == ":") + [word]
        environ = {
            **launch_settings(kind, devices, several_hosts=True),
            **environment(mpirun),
            **to_environment(some, ("cpu",)),
        }
        facts, failure = self._answer("ranks on hosts", run(words[:-1], TIMEOUTS["ranks"], environ))
        if failure:
            yield problem(
                "one-sided",
                f"ranks of {', '.join(devices)[:100]} did not get at each other's memory: a job {failure}",
                "a run by the rule BSP, or on one machine",
            )
        else:
            yield findings.window(facts["helped"])

    def _ask_host(self, mpirun: str, kind: str, machine: Host) -> Answer:
        one = replace(self.config, devices=(f"{machine.name}:cpu",))
        words = command(one, mpirun, kind, threads=False, module="theanompi.doctor.questions")
        data = None if self.config.data in PACKAGED else self.config.data
        environ = {**environment(mpirun), **to_environment(one, ("cpu",))}
        outcome = run([*words, "machine", json.dumps(data)], TIMEOUTS["host"], environ)
        return self._answer(f"host {machine.name}", outcome)

    def _model(self) -> Iterator[Finding]:
        broken = self._broken()
        if broken:
            yield warning(
                "not examined",
                f"what needs {findings.few(broken)}: some of MPI, the data set and the model",
                "once they can be imported, this again",
            )
        self.has_model = not broken
        try:
            # The data set is looked at elsewhere: here a file system may hang.
            check(replace(self.given, data=None, init=None))
        except ConfigError as error:
            yield problem("model", str(error), "-file and -class, or MODELFILE and MODELCLASS in a cfg file")
            self.has_model = False
        if self.has_model:
            _, loaders = findings.shares(cores(), self.ranks, self.given.loader_processes)
            # Its class is imported once, which takes longer than all else; what building it gives is told later.
            facts, self.building = self._ask("model", replace(self.given, loader_processes=loaders).to_dict())
            if "settings" in facts:
                config = RunConfig.from_dict(facts["settings"])
                self.config = replace(config, loader_processes=self.given.loader_processes)
            else:
                yield self._no_model("importing", self.building)
                self.has_model = False

    def _no_model(self, doing: str, failure: str) -> Finding:
        return problem(
            "model",
            f"{self.config.modelfile}.{self.config.modelclass}: {doing} it {failure}",
            "tmlauncher --plan with the same flags shows where",
        )

    def _run(self) -> Iterator[Finding]:
        try:
            check_init(self.config)
        except ConfigError as error:
            yield problem("weights", str(error), "another --init, or none")
        _, loaders = findings.shares(cores(), self.ranks, self.config.loader_processes)
        config = replace(self.config, loader_processes=loaders)
        parameters, failure = None, ""
        if config.data is None:
            yield ok("data", f"{config.modelclass} reads its own")
        elif {"h5py", "numpy", "PIL", "simplejpeg"}.isdisjoint(self._broken()):
            facts, failure = self._ask("data", config.to_dict())
            yield from findings.dataset(facts, config)
            if failure:
                yield self._no_data(facts, failure)
        if self.has_model and not failure:
            parameters = self.facts["model"].get("parameters")
            if self.building:
                yield self._no_model("building", self.building)
        # Weights and velocity, which each rank has of its own under avg, and an average; the old file goes when the new
        # one is whole, and the best one is kept.
        copies = (2 if config.sync_type == "cdd" else 1 + len(config.devices)) + bool(config.ema)
        needed = (config.keep + 2) * 4 * copies * (parameters or 0)
        question = {"out": config.out, "bytes": needed, "files": RUN_FILES}
        facts, failure = self._ask("folder", question)
        if failure:
            yield problem(
                "run folder", f"{config.out}: trying to write there {failure}", "--out on another file system"
            )
        else:
            yield from findings.run_folder(facts, config, parameters, needed)

    def _no_data(self, facts: dict[str, Any], failure: str) -> Finding:
        name = str(self.config.data)
        if "n_train" in facts:
            remedy = (
                f"tmpack verify {name}" if "data file" in failure else "the setting that the message names"
            )
            return problem("reading", f"{name}: reading batches {failure}", remedy)
        if self.local is None and "No such file" in failure:
            return warning(
                "data",
                f"{name} is not on this machine, and was not opened",
                f"tmlauncher doctor on {self.machines[0].name}",
            )
        return problem(
            "data",
            f"{name}: opening it {failure}",
            f"--data (DATA in a cfg file) with {' or '.join(PACKAGED)}, or the path of a file that tmpack made, and "
            "finished",
        )
