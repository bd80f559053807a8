"""The settings: limits, defaults, flags, and one clear line for each thing that can be wrong."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys

import pytest

from theanompi.config import (
    EXCHANGES,
    FIELDS,
    ConfigError,
    RunConfig,
    add_arguments,
    from_args,
    from_environment,
    hosts,
    local_device,
    one_line,
    parse_devices,
    read_field,
    resolve,
    to_environment,
    without_effect,
)
from theanompi.config.files import check_new, write_whole

FLAGS = """
--data --image-size --batch-size --accumulation --epochs --max-iterations --seed --device --precision
--sync-type --exchange --allreduce-algorithm --plan --base-lr --base-batch --scaling --warmup --warmup-epochs
--decay-epochs --decay-factor --momentum --momentum-form --nesterov --no-nesterov --weight-decay
--scaled --normalization --shuffle --zero-gamma --no-zero-gamma
--optimizer --schedule --clip-norm --set --length --label-smoothing --ema
--mixup --cutmix --random-erasing --recipe
--out --resume --overwrite --log-interval --checkpoint-interval --keep --timeline
""".split()


def flags(*argv: str) -> RunConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_args(parser.parse_args(argv))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "rule",
            "BPS",
            "rule: expected one of BSP, EASGD, ASGD, GOSGD, or a class of your own such as my_rules.Halves, got 'BPS'; "
            "did you mean 'BSP'",
        ),
        ("modelfile", "/tmp/my model.py", "modelfile: expected a module such as models.resnet50"),
        ("modelfile", "__main__", "modelfile: expected a module such as models.resnet50"),
        ("modelclass", "", "modelclass: expected a text that is not empty, got ''"),
        ("devices", "gpu0", "devices: expected device names such as cpu, cpu0, cuda0, .* got 'gpu0'"),
        ("devices", (), "devices: expected at least one device, got none"),
        ("devices", ("node0:cuda0", "cuda1"), "devices: expected a host for every device or for none"),
        ("devices", "auto0", "devices: .* got 'auto0'"),
        ("sync_type", "sum", "sync_type: expected one of cdd, avg, swap, got 'sum'"),
        (
            "exchange",
            "nccl64",
            f"exchange: expected one of {', '.join(EXCHANGES)}, got 'nccl64'",
        ),
        ("cuda_graph", "perhaps", "cuda_graph: expected true or false, got 'perhaps'"),
        ("deterministic", "perhaps", "deterministic: expected true or false, got 'perhaps'"),
        ("require_cuda_aware", "perhaps", "require_cuda_aware: expected true or false, got 'perhaps'"),
        ("data", " ", "data: expected a text"),
        ("image_size", 0, "image_size: expected a whole number of at least 1, got 0"),
        ("batch_size", 1.5, "batch_size: expected a whole number of at least 1, got 1.5"),
        ("length", 0, "length: expected a whole number of at least 1, got 0"),
        (
            "optimizer",
            "adma",
            "optimizer: expected one of momentum, .*, or a class of your own .* got 'adma'; did you mean 'adam'",
        ),
        ("optimizer", "my steps.Lion", "optimizer: expected one of momentum, .* got 'my steps.Lion'$"),
        (
            "schedule",
            "cosin",
            "schedule: expected one of steps, .* got 'cosin'; did you mean 'cosine'",
        ),
        ("clip_norm", -1, "clip_norm: expected a number of at least 0, got -1"),
        (
            "settings",
            "optimizer.beta2=0.9",
            "settings: expected settings of plug-ins by name, such as optimizer.beta2=0.98, got 'optimizer.beta2=0.9'$",
        ),
        ("accumulation", None, "accumulation: expected a whole number of at least 1, got None"),
        ("color_jitter", 1.5, "color_jitter: expected a number from 0 to 1, got 1.5"),
        ("lighting", -0.1, "lighting: expected a number of at least 0, got -0.1"),
        ("loader_processes", 0, "loader_processes: expected a whole number of at least 1, got 0"),
        ("epochs", True, "epochs: expected a whole number of at least 1, got True"),
        ("max_iterations", -3, "max_iterations: expected a whole number of at least 1, got -3"),
        ("workers_simulated", 0, "workers_simulated: expected a whole number of at least 1, got 0"),
        ("seed", -1, "seed: expected a whole number of at least 0, got -1"),
        ("precision", "fp16", "precision: expected one of float32, tf32, bf16, got 'fp16'"),
        ("allreduce_algorithm", "rings", "allreduce_algorithm: expected one of .*; did you mean 'ring'"),
        ("base_lr", 0, "base_lr: expected a number above 0, got 0"),
        ("base_lr", float("nan"), "base_lr: expected a number above 0, got nan"),
        ("base_batch", "many", "base_batch: expected a whole number of at least 1, got 'many'"),
        ("scaling", "quadratic", "scaling: expected one of linear, sqrt, none"),
        ("scaled", "lost", "scaled: expected one of rate, loss, got 'lost'; did you mean 'loss'?"),
        ("normalization", "rank", "normalization: expected one of minibatch, worker, got 'rank'"),
        ("shuffle", "locale", "shuffle: expected one of global, worker, got 'locale'"),
        ("label_smoothing", 1, "label_smoothing: expected a number of at least 0 and below 1, got 1"),
        (
            "recipe",
            "lars32k",
            "recipe: expected one of goyal, bag-of-tricks, lars-32k, got 'lars32k'; did you mean",
        ),
        ("mixup", -1, "mixup: expected a number of at least 0, got -1"),
        ("cutmix", -1, "cutmix: expected a number of at least 0, got -1"),
        ("random_erasing", 2, "random_erasing: expected a number from 0 to 1, got 2"),
        ("ema", 1, "ema: expected a number of at least 0 and below 1, got 1"),
        ("zero_gamma", "perhaps", "zero_gamma: expected true or false, got 'perhaps'"),
        ("warmup", "slow", "warmup: expected one of gradual, constant, none"),
        ("warmup_epochs", -1, "warmup_epochs: expected a number of at least 0, got -1"),
        ("decay_epochs", (60, 30), r"decay_epochs: expected increasing epochs above 0, .* got \(60, 30\)"),
        ("decay_epochs", 30, "decay_epochs: expected increasing epochs above 0, .* got 30"),
        ("decay_epochs", (30, 30), r"decay_epochs: expected increasing epochs above 0, .* got \(30, 30\)"),
        ("base_lr", True, "base_lr: expected a number above 0, got True"),
        ("settings", {"optimizer.a": 2**63}, "optimizer.a: expected .* a number, .* got 9223372036854775808"),
        ("decay_factor", 1.5, "decay_factor: expected a number above 0 and at most 1, got 1.5"),
        ("momentum", 1, "momentum: expected a number of at least 0 and below 1, got 1"),
        ("momentum_form", "w", "momentum_form: expected one of v, u, uncorrected, got 'w'"),
        ("nesterov", "perhaps", "nesterov: expected true or false, got 'perhaps'"),
        ("weight_decay", -1e-4, "weight_decay: expected a number of at least 0, got -0.0001"),
        ("out", "", "out: expected a text"),
        ("init", " ", "init: expected a text"),
        ("resume", 2, "resume: expected true, false or auto, got 2"),
        ("overwrite", None, "overwrite: expected true or false, got None"),
        ("log_interval", 0, "log_interval: expected a whole number of at least 1, got 0"),
        ("keep", 0, "keep: expected a whole number of at least 1, got 0"),
        ("save_on_signal", None, "save_on_signal: expected true or false, got None"),
        ("stall_seconds", 0, "stall_seconds: expected a number above 0, got 0"),
        ("stall_abort", "often", "stall_abort: expected true or false, got 'often'"),
        ("curves", "none", "curves: expected true or false, got 'none'"),
        ("timeline", 0, "timeline: expected a whole number of at least 1, got 0"),
        (
            "logger",
            "csv,tensorbord",
            "logger: expected one of csv, tensorboard, wandb, mlflow, or a class of your own such as my_loggers.Mine, "
            "or several with commas between, got 'csv,tensorbord'; did you mean 'tensorboard'?",
        ),
        ("checkpoint_interval", 0, "checkpoint_interval: expected a whole number of at least 1, got 0"),
        ("verbose", "", "verbose: expected true or false, got ''"),
    ],
)
def test_every_field_is_checked_and_the_line_names_it(field, value, message):
    with pytest.raises(ConfigError, match="^" + message) as caught:
        RunConfig(**{field: value})
    assert "\n" not in str(caught.value)


def test_no_field_goes_without_a_check():
    tested = {case[0] for case in test_every_field_is_checked_and_the_line_names_it.pytestmark[0].args[1]}
    assert tested == set(FIELDS)


def test_resume_and_overwrite_exclude_each_other():
    with pytest.raises(ConfigError, match="resume, overwrite: expected at most one of them, got both"):
        RunConfig(resume=True, overwrite=True)


def test_combinations_that_mean_nothing_are_refused():
    with pytest.raises(
        ConfigError,
        match="^normalization: expected minibatch, as with sync_type avg no gradients are summed, got worker$",
    ):
        RunConfig(normalization="worker", sync_type="avg")
    for how, settings in [("rule ASGD", {"rule": "ASGD"}), ("sync_type swap", {"sync_type": "swap"})]:
        with pytest.raises(
            ConfigError,
            match=f"^ema: expected 0, as with {how} each worker has weights of its own, got 0.99$",
        ):
            RunConfig(ema=0.99, **settings)
    rounds = "^exchange: expected one that does not round, as with {} weights are averaged, got 'bf16'$"
    for how, settings in [("rule GOSGD", {"rule": "GOSGD"}), ("sync_type avg", {"sync_type": "avg"})]:
        with pytest.raises(ConfigError, match=rounds.format(how)):
            RunConfig(exchange="bf16", **settings)
    nothing = "^scaled: expected rate, as with scaling none there is nothing to scale, got loss$"
    for settings in ({"scaling": "none"}, {"sync_type": "avg"}):
        with pytest.raises(ConfigError, match=nothing):
            RunConfig(scaled="loss", **settings)
    assert resolve(RunConfig(scaled="loss", sync_type="avg", scaling="linear")).scaled == "loss"
    assert resolve(RunConfig(scaled="loss", normalization="worker")).normalization == "worker"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"momentum": 0.8, "nesterov": False, "warmup_epochs": 2, "decay_factor": 0.5}, []),
        ({"momentum": 0.8, "optimizer": "lars", "momentum_form": "u"}, []),
        (
            {"momentum": 0.8, "optimizer": "my_steps.Lion", "schedule": "my_rates.Cyclic", "decay_factor": 1},
            [],
        ),
        ({"momentum": 0.8, "optimizer": "lasagne.momentum"}, []),
        ({"optimizer": "adam", "schedule": "cosine", "warmup": "none", "recipe": "bag-of-tricks"}, []),
        ({"momentum": 0.8, "optimizer": "lamb"}, ["momentum, as the optimizer is lamb"]),
        (
            {"momentum": 0.8, "nesterov": True, "optimizer": "lasagne.sgd"},
            ["momentum, nesterov, as the optimizer is lasagne.sgd"],
        ),
        (
            {"decay_epochs": [3], "schedule": "poly", "warmup": "none", "warmup_epochs": 0},
            ["decay_epochs, as the schedule is poly", "warmup_epochs, as the warmup is none"],
        ),
        ({"momentum": 0, "nesterov": True}, ["nesterov, as the momentum is 0"]),
        (
            {"warmup": "none", "warmup_epochs": 2, "base_batch": 64, "scaling": "none"},
            ["warmup_epochs, as the warmup is none", "base_batch, as the scaling is none"],
        ),
    ],
)
def test_what_a_run_gives_without_effect_is_named(settings, said):
    given = RunConfig(**settings)
    assert without_effect(given, resolve(given)) == said


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ("arrays", ["image_size, length, as the data are arrays"]),
        ("tokens", ["image_size, as the data are tokens"]),
        ("pictures", ["length, as the data are pictures"]),
        (None, []),
    ],
)
def test_what_the_items_do_not_have_is_without_effect(items, said):
    given = RunConfig(image_size=8, length=16)
    assert without_effect(given, resolve(given), items=items) == said
    assert without_effect(RunConfig(), resolve(RunConfig()), items=items) == []


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().epochs = 3  # type: ignore[misc]


def test_dict_survives_json_with_every_field_changed():
    config = RunConfig(
        modelfile="mine.py", modelclass="Net", devices="node0:cuda0,cuda1,node1:cuda0", data="a.h5",
        sync_type="avg", exchange="naive", image_size=8, batch_size=2, accumulation=3, epochs=4,
        max_iterations=5, seed=6, precision="bf16", base_lr=0.2, base_batch=64, scaling="sqrt",
        warmup="constant", warmup_epochs=1, decay_epochs="2,3.5", decay_factor=0.5, momentum=0,
        momentum_form="u", nesterov=False, weight_decay=0, out="o", resume=True, log_interval=1,
        checkpoint_interval=7, keep=3, verbose=False, color_jitter=0.4, lighting=0.1, loader_processes=2,
        require_cuda_aware=True, cuda_graph=False, deterministic=True, timeline=3, allreduce_algorithm="ring",
        optimizer="my/steps.py:Lion", schedule="cosine", clip_norm=1, length=64, settings={"optimizer.beta2": "0.98"},
        scaled="loss", shuffle="worker", zero_gamma=False, save_on_signal=False, stall_seconds=5, stall_abort=True,
        mixup=0.2, cutmix=1, random_erasing=0.25, recipe="goyal",
        curves=False, init="a.npz", workers_simulated=4, label_smoothing=0.1, ema=0, logger="csv, mine.Own",
    )  # fmt: skip
    unchanged = {name for name in FIELDS if getattr(config, name) == FIELDS[name].default}
    assert unchanged == {"rule", "overwrite", "normalization"}
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert (config.modelfile, config.optimizer) == ("mine", "my.steps.Lion")
    assert config.decay_epochs == (2.0, 3.5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "epochs",
            2**63,
            "epochs: expected a whole number of at least 1, got 9223372036854775808; the largest is 92",
        ),
        (
            "seed",
            16**4000,
            "seed: expected a whole number of at least 0, got a very large int; the largest is 92",
        ),
        ("base_lr", 10**400, "base_lr: expected a number above 0, got 1000000000"),
        (
            "warmup_epochs",
            -(16**4000),
            "warmup_epochs: expected a number of at least 0, got a very large int",
        ),
        (
            "data",
            "a\0b",
            r"data: expected a text that is not empty, got 'a\x00b'; '\x00' in it is no character",
        ),
        (
            "out",
            "a\udcffb",
            r"out: expected a text that is not empty, got 'a\udcffb'; '\udcff' in it is no character",
        ),
        ("devices", "cuda:" + "9" * 5000, "devices: expected device names"),
        ("devices", ["cpu"] * 10_001, "devices: expected at most 10000 devices, got more"),
        ("x" * 5000, 1, "unknown setting 'xxx"),
    ],
    ids=range(9),  # pytest would write out the numbers
)
def test_what_is_beyond_all_limits_is_one_short_line(name, value, message):
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict({name: value})
    text = str(caught.value)
    assert text.startswith(message) and len(text) <= 300 and text.isprintable()


def test_a_message_is_one_line_of_at_most_300_characters():
    text = one_line("out: expected\none" + "x" * 5000 + ", got 'y\udcff'")
    assert len(text) <= 300 and text.isprintable()
    assert text.startswith("out: expected\\none") and text.endswith(", got 'y\\udcff'")


def test_unknown_setting_names_the_closest():
    with pytest.raises(ConfigError, match="^unknown setting 'batchsize'; did you mean 'batch_size'\\?$"):
        RunConfig.from_dict({"batchsize": 3})


def test_a_recipe_is_defaults_between_those_of_the_run_and_the_class():
    imagenet = RunConfig(data="imagenet.h5")
    goyal = resolve(dataclasses.replace(imagenet, recipe="goyal"))
    assert dataclasses.replace(goyal, recipe=None) == resolve(imagenet)
    of_class = {
        "label_smoothing": 0.2,
        "decay_epochs": [1],
        "optimizer": "adam",
        "settings": {"optimizer.beta2": 0.9},
    }
    goyal = resolve(RunConfig(recipe="goyal", epochs=9), {**of_class, "batch_size": 3})
    assert (goyal.label_smoothing, goyal.optimizer, goyal.settings, goyal.batch_size) == (
        0,
        "momentum",
        {},
        3,
    )
    assert (goyal.epochs, goyal.warmup_epochs, goyal.decay_epochs) == (9, 0.5, (3, 6, 8))
    tricks = resolve(RunConfig(recipe="bag-of-tricks", mixup=0, epochs=40))
    assert (tricks.recipe, tricks.schedule, tricks.label_smoothing, tricks.mixup) == (
        "bag-of-tricks",
        "cosine",
        0.1,
        0,
    )
    assert tricks.warmup_epochs == 1
    lars = resolve(RunConfig(recipe="lars-32k", settings={"schedule.power": 1}))
    # Exactly: the minibatches are powers of 2.
    assert lars.base_lr * 32_768 / lars.base_batch == 31.2
    assert (lars.settings["schedule.power"], lars.settings["optimizer.trust"]) == (1, 0.001)
    assert "optimizer.trust" not in resolve(RunConfig(recipe="lars-32k", optimizer="momentum")).settings


def test_resolve_fills_what_is_missing_and_nothing_else():
    digits, paper = resolve(RunConfig()), resolve(RunConfig(data="sets/imagenet.h5"))
    assert (digits.batch_size, digits.epochs, digits.image_size) == (16, 12, 32)
    assert (paper.batch_size, paper.epochs, paper.image_size) == (32, 90, 224)
    assert (paper.warmup_epochs, paper.decay_epochs) == (5.0, (30.0, 60.0, 80.0))
    assert digits.decay_epochs == pytest.approx((4, 8, 32 / 3))
    assert (digits.out, paper.out) == ("runs/resnet50-digits", "runs/resnet50-imagenet")
    assert (digits.scaling, resolve(RunConfig(sync_type="avg")).scaling) == ("linear", "none")
    assert resolve(RunConfig(epochs=9)).warmup_epochs == 0.5
    given = {"batch_size": 2, "epochs": 3, "image_size": 8, "scaling": "sqrt", "warmup_epochs": 0.0}
    given |= {"decay_epochs": [1.0], "out": "o"}
    assert given.items() <= resolve(RunConfig(**given)).to_dict().items()
    assert resolve(digits) == digits
    assert {name for name, value in digits.to_dict().items() if value is None} == {
        "allreduce_algorithm",
        "clip_norm",
        "init",
        "max_iterations",
        "checkpoint_interval",
        "loader_processes",
        "timeline",
        "logger",
        "recipe",
        "workers_simulated",
    }


def test_every_flag_of_the_interface_is_there():
    parser = argparse.ArgumentParser(prog="x")
    add_arguments(parser)
    assert set(FLAGS) <= set(parser._option_string_actions)
    assert "%" not in parser.format_help().replace("%(prog)", "")


def test_flags_set_their_fields_and_leave_the_others():
    given = "--epochs 2 --device cuda:1 --decay-epochs 1,1.5 --no-nesterov --resume --base-lr 1e-2"
    config = flags(*given.split(), "--sync-type", "avg")
    changed = {"epochs": 2, "devices": ["cuda:1"], "decay_epochs": [1.0, 1.5], "nesterov": False}
    changed |= {"resume": True, "base_lr": 0.01, "sync_type": "avg"}
    assert config.to_dict() == RunConfig().to_dict() | changed
    assert flags() == RunConfig()


def test_a_bad_flag_says_what_the_field_expects():
    with pytest.raises(ConfigError, match="^epochs: expected a whole number of at least 1, got '2.5'$"):
        flags("--epochs", "2.5")


def test_device_spellings():
    assert parse_devices("cpu0, cpu1,cpu") == ("cpu", "cpu", "cpu")
    assert parse_devices(["cuda0", "cuda:1", "cuda", "auto"]) == ("cuda:0", "cuda:1", "cuda", "auto")
    several = parse_devices(["node0:cuda:0", "10.0.0.2:cuda0,cuda3", "node0:cpu"])
    assert several == ("node0:cuda:0", "10.0.0.2:cuda:0", "10.0.0.2:cuda:3", "node0:cpu")
    assert parse_devices(several) == several
    assert [tuple(host) for host in hosts(several)] == [
        ("node0", ("cuda:0", "cpu")),
        ("10.0.0.2", ("cuda:0", "cuda:3")),
    ]


def test_local_device():
    assert [local_device(("auto",), rank, 2) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert local_device(("auto",), 5, 0) == "cpu"
    assert [local_device(("cpu", "cuda:1"), rank, 2) for rank in range(2)] == ["cpu", "cuda:1"]
    assert [local_device(("cpu",), rank, 2) for rank in range(2)] == ["cpu", "cpu"]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (("cuda",), "devices: expected one of the 0 GPUs that torch sees here, got 'cuda'"),
        (("cuda:0",), "devices: expected one of the 0 GPUs that torch sees here, got 'cuda:0'"),
        (("cpu", "cpu"), "devices: expected one for each rank of this machine, got 2 for rank 2"),
        (("node0:cpu",), "devices: expected names without a host, because your own mpirun chooses the hosts"),
    ],
)
def test_local_device_that_is_not_there(devices, message):
    with pytest.raises(ConfigError, match=message):
        local_device(devices, 2, 0)


def test_environment_round_trip():
    config = RunConfig(epochs=3, devices="node0:cpu,node1:cuda0")
    assert from_environment(to_environment(config, ("cuda:0",), True)) == (config, ("cuda:0",), True)


def test_read_field_takes_words_for_switches():
    assert [read_field("nesterov", word) for word in ("true", "No", "1", "0")] == [True, False, True, False]


@pytest.mark.parametrize("module", ["config", "launch.job", "rules", "config.cfgfile", "cli"])
def test_the_launching_side_imports_neither_torch_nor_mpi(module):
    heavy = {"torch", "mpi4py", "pytensor", "numpy"}
    program = f"import sys, theanompi.{module}; print({heavy} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


def test_package_offers_its_names_lazily():
    program = (
        "import sys, theanompi as t; assert 'theanompi.rules' not in sys.modules; print(t.BSP, t.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "<class 'theanompi.rules.bsp.BSP'> 0.1.0\n"
    import theanompi

    with pytest.raises(AttributeError, match="module 'theanompi' has no attribute 'BPS'"):
        _ = theanompi.BPS


def test_a_folder_in_which_nothing_may_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # which root may everywhere
    with pytest.raises(
        ConfigError, match=r"out a: expected a folder to write in, got '.*' \(Permission denied\)"
    ):
        check_new(tmp_path / "a", "out a", overwrite=False)


def test_what_is_written_under_a_links_name_lies_where_it_leads_and_the_link_stays(tmp_path):
    """The link was replaced by a file; one to nothing without --overwrite, too."""
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "a", tmp_path / "there" / "b"
    link.symlink_to("there/b")
    check_new(link, "out a", overwrite=False)
    write_whole(link, b"new")
    assert os.readlink(link) == "there/b" and target.read_bytes() == b"new"
    with pytest.raises(
        ConfigError, match="out a: expected no file of this name, got one; --overwrite replaces"
    ):
        check_new(link, "out a", overwrite=False)
    check_new(link, "out a", overwrite=True)
    write_whole(link, b"newer")
    assert os.readlink(link) == "there/b" and target.read_bytes() == b"newer"
    for odd, expected in (("self", "one;"), ("there", "a folder"), ("/dev/null", "a device")):
        (tmp_path / "self").unlink(missing_ok=True)
        (tmp_path / "self").symlink_to(odd)
        with pytest.raises(ConfigError, match=f"out self: expected no file of this name, got {expected}"):
            check_new(tmp_path / "self", "out self", overwrite=odd != "self")
