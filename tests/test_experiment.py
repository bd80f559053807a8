"""The file of an experiment: what it becomes, and each mistake by its line."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from tests.mpi import ROOT
from theanompi.config import ConfigError, RunConfig, listed, resolve
from theanompi.experiments.file import read_experiment
from theanompi.experiments.presets import PRESETS, SCALES
from theanompi.experiments.storage import alone

EXAMPLES = sorted((ROOT / "examples" / "experiments").glob("*.toml"))
GOOD = """
name = "warm"
question = "Which?"
scale = "small"
seeds = 2
workers = { imagenet = [256], small = [64, 16] }
claims = ["gradual@64~baseline@8", " none@16  >  gradual@64 "]
[settings]
epochs = { imagenet = 90, small = 6 }
momentum = 0.8
[arms.baseline]
preset = "their_way"
workers = [8]
[arms.gradual]
preset = "their_way"
[arms.none]
preset = "their_way"
warmup = "none"
momentum = 0.7
"""


@pytest.fixture
def read(tmp_path):
    def read(text: str, **options):
        path = tmp_path / "test.toml"
        path.write_text(text)
        return read_experiment(path, **options)

    return read


def test_each_setting_from_the_nearest_place(read):
    experiment = read(GOOD)
    assert (experiment.name, experiment.question, experiment.scale) == ("warm", "Which?", "small")
    assert experiment.seeds == (0, 1)
    assert {name: arm.workers for name, arm in experiment.arms.items()} == {
        "baseline": (8,),
        "gradual": (16, 64),
        "none": (16, 64),
    }
    assert experiment.claims == ("gradual@64 ~ baseline@8", "none@16 > gradual@64")
    none = experiment.arms["none"].settings
    assert none == SCALES["small"].settings | PRESETS["their_way"] | {
        "warmup": "none",
        "momentum": 0.7,
        "epochs": 6,
    }
    assert experiment.arms["gradual"].settings["momentum"] == 0.8
    # A preset overrides what is for all arms.
    for_all = read(GOOD.replace("momentum = 0.8", 'sync_type = "avg"'))
    assert for_all.arms["gradual"].settings["sync_type"] == "cdd"
    assert read(GOOD.replace('name = "warm"', "")).name == "test"
    assert read(GOOD.replace("seeds = 2", "seeds = [3, 1]")).seeds == (3, 1)
    assert read(GOOD.replace("seeds = 2", "")).seeds == (0, 1, 2, 3, 4)


def test_flags_instead_of_the_file(read):
    imagenet = GOOD.replace("@64", "@256").replace("@16", "@256")
    experiment = read(imagenet, scale="imagenet", seeds=1, device="cuda")
    assert (experiment.scale, experiment.seeds, experiment.simulate) == ("imagenet", (0,), None)
    assert experiment.arms["none"].settings["epochs"] == 90
    assert experiment.trials(Path("x"))[0].config.devices == ("cuda",) * 8
    # A claim is left out when what it is about is.
    few = read(GOOD, workers=[64, 8])
    assert [arm.workers for arm in few.arms.values()] == [(8, 64)] * 3
    assert few.claims == ("gradual@64 ~ baseline@8",)


def test_trials_seed_by_seed_with_ranks_that_simulate_the_workers(read):
    trials = read(GOOD).trials(Path("out"))
    assert [(t.seed, t.arm, t.workers) for t in trials[:5]] == [
        *((0, "baseline", 8), (0, "gradual", 16), (0, "gradual", 64), (0, "none", 16), (0, "none", 64))
    ]
    assert len(trials) == 10 and trials[5].seed == 1
    assert str(trials[9]) == "none, 64 workers, seed 1"
    assert trials[9].folder == Path("out/none/64-workers/seed-1")
    config = trials[9].config
    assert (config.devices, config.accumulation, config.seed, config.out) == (
        ("cpu",), 64, 1, "out/none/64-workers/seed-1",
    )  # fmt: skip
    assert (config.verbose, config.resume, config.checkpoint_interval) == (False, False, None)
    for ranks, expected in ((2, (2, 32)), (0, (64, 1))):
        config = read(GOOD, simulate=ranks).trials(Path("out"))[9].config
        assert (len(config.devices), config.accumulation) == expected


def test_the_file_of_results_holds_what_runs_need(read):
    about = read(GOOD).to_dict()
    assert {key: about[key] for key in ("name", "question", "scale", "seeds", "simulate")} == {
        "name": "warm", "question": "Which?", "scale": "small", "seeds": [0, 1], "simulate": 1,
    }  # fmt: skip
    assert about["arms"]["gradual"]["workers"] == [16, 64]
    assert about["claims"] == ["gradual@64 ~ baseline@8", "none@16 > gradual@64"]
    assert RunConfig.from_dict(about["arms"]["none"]["settings"]).warmup == "none"
    # What says nothing of it writes what former versions wrote.
    assert "margin" not in about
    assert read("margin = { imagenet = 0.12, small = 1 }\n" + GOOD).to_dict()["margin"] == 1


def test_presets_differ_as_their_names_say():
    """Each takes one thing out of their way, and none does nothing."""
    theirs = resolve(RunConfig.from_dict(PRESETS["their_way"])).to_dict()
    assert theirs == resolve(RunConfig()).to_dict()

    def difference(name: str) -> dict:
        settings = resolve(RunConfig.from_dict(PRESETS[name])).to_dict()
        return {key: value for key, value in settings.items() if value != theirs[key]}

    mine = {"sync_type": "avg", "scaling": "none", "warmup": "none", "zero_gamma": False}
    assert difference("my_way") == mine
    assert difference("my_way_scaled") == {key: value for key, value in mine.items() if key != "scaling"}
    without = [difference(name) for name in PRESETS if name.startswith("their_way_without_")]
    assert [len(one) for one in without] == [1] * 8
    assert len({tuple(one) for one in without}) == 8


@pytest.mark.parametrize(
    "path", [p for p in EXAMPLES if not p.stem.endswith("_rates")], ids=lambda path: path.stem
)
@pytest.mark.parametrize("scale", ["imagenet", "small"])
def test_the_papers_experiments(path, scale):
    experiment = read_experiment(path, scale=scale)
    assert experiment.name == path.stem
    assert experiment.seeds == (0, 1, 2, 3, 4)
    assert experiment.claims and experiment.question
    assert experiment.trials(Path("out"))
    # Every reader sees first what the original found.
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("name", ["sync_async", "lars_limit"])
def test_rates_are_chosen_on_other_seeds_than_those_that_are_compared(name):
    chosen, compared = (
        read_experiment(ROOT / "examples" / "experiments" / f"{one}.toml") for one in (f"{name}_rates", name)
    )
    assert not set(chosen.seeds) & set(compared.seeds)
    rules = {name for name in compared.arms if not name.endswith(("_straggler", "_half", "_double"))}
    assert {name.rpartition("_")[0] for name in chosen.arms} == rules


def test_an_experiment_needs_no_locks_of_the_file_system(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with alone(tmp_path) as lock:
        assert os.pread(lock, 20, 0) == b"%d" % os.getpid()


def test_a_name_alone_is_one_that_comes_with_the_package(tmp_path, monkeypatch):
    assert read_experiment("warmup", seeds=1) == read_experiment(EXAMPLES[-1], seeds=1)
    with pytest.raises(
        ConfigError, match=r"^experiment: expected a TOML file or .*; did you mean 'warmup'\?$"
    ):
        read_experiment("warmpu")
    # What is a file of the user's says so.
    monkeypatch.chdir(tmp_path)
    Path("warmup").write_text("seed = 0")
    with pytest.raises(ConfigError, match="unknown key .seed."):
        read_experiment("./warmup")


def test_which_there_are():
    assert [p.stem for p in EXAMPLES] == [
        *(
            "gamma",
            "lars_limit",
            "lars_limit_rates",
            "minibatch",
            "optimizers",
            "pitfalls",
            "scaling_rules",
            "slides",
            "slides_resnet50",
            "sync_async",
            "sync_async_rates",
            "warmup",
        ),
    ]


WORKERS = "workers: expected a list of different whole numbers of at least 1, such as [4, 8], "
WORKERS += "here or at the top of the file, got"
NAME = "expected a name of at most 100 letters, digits, '_', '-' and '.', which makes a folder, got"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = 2", "seed = 2", "unknown key 'seed'; did you mean 'seeds'?"),
        ('"Which?"', "3", "question: expected a text, got 3"),
        ('"warm"', '"a/b"', f"name: {NAME} 'a/b'"),
        ('"small"', '"smal"', "scale: expected one of imagenet, small, own, got 'smal'; did you mean 'small'?"),
        ('scale = "small"', "", "scale: expected one of imagenet, small, own, got none"),
        ("seeds = 2", "seeds = 0",
         "seeds: expected how many (1 to 10000), or a list of different whole numbers, got 0"),
        ("seeds = 2", "seeds = [1, 1]",
         "seeds: expected how many (1 to 10000), or a list of different whole numbers, got [1, 1]"),
        ("seeds = 2", "seeds = true",
         "seeds: expected how many (1 to 10000), or a list of different whole numbers, got True"),
        ('preset = "their_way"', 'preset = "ther_way"',
         f"arms.baseline: preset: expected one of {listed(PRESETS)}, got 'ther_way'; did you mean 'their_way'?"),
        ("[arms.none]", "[arms.'no ne']", f"arms: {NAME} 'no ne'"),
        ('warmup = "none"', 'warmpu = "none"', "arms.none: unknown setting 'warmpu'; did you mean 'warmup'?"),
        ('warmup = "none"', 'warmup = "non"',
         "arms.none: warmup: expected one of gradual, constant, none, got 'non'; did you mean 'none'?"),
        ('warmup = "none"', "accumulation = 4",
         "arms.none: accumulation: expected none here, as workers and --simulate decides it, got 4"),
        ("momentum = 0.8", "momentum = 1.0",
         "settings: momentum: expected a number of at least 0 and below 1, got 1.0"),
        ("momentum = 0.8", 'seed = 3', "settings: seed: expected none here, as seeds decides it, got 3"),
        ("small = 6", "smal = 6",
         "settings: epochs: expected a scale (imagenet, small, own), got 'smal'; did you mean 'small'?"),
        ("imagenet = 90, small = 6", "imagenet = 90",
         "settings: epochs: expected a value for the scale 'small', got one for imagenet"),
        ("workers = { imagenet = [256], small = [64, 16] }", "", f"arms.gradual: {WORKERS} none"),
        ("workers = [8]", "workers = [8, 8]", f"arms.baseline: {WORKERS} [8, 8]"),
        ("workers = [8]", "workers = 8", f"arms.baseline: {WORKERS} 8"),
        ("workers = [8]", "workers = [0]", f"arms.baseline: {WORKERS} [0]"),
        ("gradual@64~", "gradul@64~",
         "claims: 'gradul@64~baseline@8': expected one of baseline, gradual, none, got 'gradul'; "
         "did you mean 'gradual'?"),
        ("gradual@64~", "gradual@8~",
         "claims: 'gradual@8~baseline@8': expected a number of workers that gradual has (16, 64), got 8"),
        ("gradual@64~", "gradual@64=",
         "claims: expected such as 'none@64 > gradual@64' (or ~, <), got 'gradual@64=baseline@8'"),
        ("claims = [", "claims = 3 # [", "claims: expected a list of texts, got 3"),
        ("seeds = 2", "margin = 0", "margin: expected a number above 0, in points of error, got 0"),
        ("[settings]\n", "[settings", "expected TOML, got: "),
        ("[settings]", "[[settings]]", "settings: expected a table, got [{"),
        ("[settings]\n", "[settings]\nepochs = " + "9" * 5000 + "\n", "expected TOML, got: "),
        ("[settings]\n", "[settings]\nepochs = " + "[" * 100_000 + "\n", "expected TOML, got: "),
        ("[arms.none]", "[arms.'report.md']",
         "arms: expected a name that does not end in .md, .json, .png, got 'report.md'"),
        ("[arms.none]", "[arms." + "a" * 101 + "]",
         "arms: expected a name of at most 100 letters, digits, '_', '-' and '.', which makes a folder, "
         f"got '{'a' * 37} … {'a' * 37}'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(read, tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        read(GOOD.replace(old, new, 1))
    text = str(caught.value)
    path, _, rest = text.partition(": ")
    assert path == str(tmp_path / "test.toml") and "\n" not in text
    assert rest.startswith(message) if message[-2:] in (": ", "[{") else rest == message


def test_settings_that_go_together_only_as_a_whole(read):
    """Under avg nothing is scaled by default, and there is nothing for "loss" to scale."""
    arm = '[arms.mine]\nsync_type = "avg"\nscaled = "loss"\n'
    head = 'scale = "small"\nworkers = [4]\n'
    mine = read(f'{head}[settings]\nscaling = "linear"\n{arm}').arms["mine"].settings
    assert (mine["sync_type"], mine["scaled"], mine["scaling"]) == ("avg", "loss", "linear")
    with pytest.raises(ConfigError, match=r"arms\.mine: scaled: expected rate, as with scaling none"):
        read(head + arm)


def test_mistakes_of_flags(read):
    for options, message in [
        (
            {"simulate": 3},
            "arms.baseline: workers: expected multiples of 3, the ranks that simulate them, got 8",
        ),
        ({"simulate": -1}, "simulate: expected a whole number of at least 0, got -1"),
        ({"workers": [0]}, "--workers: expected different whole numbers of at least 1, got 0"),
        ({"workers": [4, 4]}, "--workers: expected different whole numbers of at least 1, got 4, 4"),
        (
            {"seeds": 200_000_000},
            "seeds: expected how many (1 to 10000), or a list of different whole numbers, got 200000000",
        ),
        ({"seeds": 0}, "seeds: expected how many (1 to 10000), or a list of different whole numbers, got 0"),
        (
            {"device": "gpu"},
            "devices: expected device names such as cpu, cpu0, cuda0, cuda:0, auto or host:cuda0, "
            "got 'gpu'; did you mean 'cuda'?",
        ),
        ({"device": "cpu,cpu"}, "devices: expected one for all ranks, got 'cpu,cpu'"),
        (
            {"seeds": 2001},
            "workers, seeds: expected at most 10,000 runs of 1,000,000 ranks in all, got 10,005 of 10,005",
        ),
        (
            {"seeds": 334, "workers": [1000], "simulate": 0},
            "workers, seeds: expected at most 10,000 runs of 1,000,000 ranks in all, got 1,002 of 1,002,000",
        ),
    ]:
        with pytest.raises(ConfigError) as caught:
            read(GOOD, **options)
        assert str(caught.value).partition(": ")[2] == message
    assert len(read(GOOD, seeds=2000).seeds) == 2000
    for path in ("no.toml", "no/warmup"):
        with pytest.raises(
            ConfigError, match=rf"^experiment: expected a readable TOML file, got '{path}' \(No such file"
        ):
            read_experiment(path)


def test_no_arms_and_no_text(read, tmp_path):
    with pytest.raises(
        ConfigError, match=r"arms: expected at least one, such as \[arms.their_way\], got none$"
    ):
        read('scale = "small"')
    (tmp_path / "test.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"\(not UTF-8 text\)$"):
        read_experiment(tmp_path / "test.toml")


def test_with_a_clock_the_workers_of_each_run_are_in_one_process(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    text = 'scale = "small"\nseeds = 1\nworkers = [4, 32]\nclock = true\n'
    text += '[arms.slow]\nrule = "EASGD"\nclock.straggler = 4'
    path.write_text(text)
    trials = read_experiment(path).trials(tmp_path)
    assert [(len(t.config.devices), t.config.workers_simulated, t.config.accumulation) for t in trials] == [
        (1, 4, 1),
        (1, 32, 1),
    ]
    assert trials[0].config.settings["clock.straggler"] == 4
    with pytest.raises(
        ConfigError, match="simulate: expected none, as the key clock has all workers in one process"
    ):
        read_experiment(path, simulate=1)
    path.write_text(text.replace("clock = true", "clock = 3"))
    with pytest.raises(ConfigError, match="clock: expected true or false, got 3"):
        read_experiment(path)
