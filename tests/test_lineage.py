"""Theano-MPI's cfg files, scripts, flags and loops, as they are written there, on a model of a few lines."""

import pickle
import re
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_models import Plain

from tests.mpi import ROOT
from tests.test_exercises import do
from theanompi import BSP, cli
from theanompi.config import (
    FIELDS,
    OF_MODELS,
    ConfigError,
    OneLineParser,
    RunConfig,
    add_arguments,
    parse_devices,
    read_defaults,
    read_settings,
)
from theanompi.config.cfgfile import read_cfg
from theanompi.config.lineage import _CALLED, _OURS, DATA
from theanompi.launch import session
from theanompi.launch.ends import Account
from theanompi.lib.helper_funcs import save_model
from theanompi.lib.recorder import Recorder
from theanompi.record.recorder import Recorder as Times
from theanompi.training.model_class import find_model_class, resolve_by_class
from theanompi.training.optimizers.adam import Adam


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the model is; a script has no flags."""
    (tmp_path / "alexnet.py").write_text("class AlexNet:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["script.py"])
    return tmp_path


@pytest.fixture
def started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """What was to be started, in the place of processes."""
    runs: list[RunConfig] = []

    class Job:
        def __init__(self, config: RunConfig, **_: Any) -> None:
            runs.append(config)
            self.account, self.ended_by = Account(print), None
            self.account.well = True

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(session, "Job", Job)
    return runs


ONE_MACHINE = "RULE=BSP\nMODELFILE=alexnet\nMODELCLASS=AlexNet\n"
SEVERAL = 'DEVICES=("node0:cuda0"\n\t\t "node1:cuda0,cuda1,cuda2")'


@pytest.mark.parametrize(
    ("lines", "flags", "devices"),
    [
        ("SIZE=2\nDEVICES=cuda0,cuda1", "", "cuda0,cuda1"),
        ("BSP_EXCH_STRATEGY='ar'\n" + SEVERAL, "", ("node0:cuda0", "node1:cuda0,cuda1,cuda2")),
        ("SIZE=2\nDEVICES=cuda0,cuda1", "--device cpu", "cpu,cpu"),
        ("DEVICES=cuda0,cuda1,cuda2", "--device cpu", "cpu,cpu,cpu"),
        (SEVERAL, "--device cpu", "cpu,cpu,cpu,cpu"),
        (SEVERAL, "--device cpu -s=2", "cpu,cpu"),
        ("DEVICES=cuda0,cuda1", "--device cuda1", "cuda1"),
        ("SIZE=3", "", "cpu,cpu,cpu"),
        ("SIZE=3", "--size=2", "cpu,cpu"),
    ],
)
def test_a_cfg_file_starts_as_many_workers_as_it_says(
    folder: Path, started: list[RunConfig], lines: str, flags: str, devices: Any
) -> None:
    (folder / "session.cfg").write_text(ONE_MACHINE + lines)
    assert cli.main(["-cfg=session.cfg", *flags.split()]) == 0
    assert (started[0].devices, started[0].modelclass) == (parse_devices(devices), "AlexNet")


@pytest.mark.parametrize(
    ("module", "name", "more", "data"),
    [
        ("alex_net", "AlexNet", "", ("digits", "ImageNet (tmpack ilsvrc packs it)")),
        ("lstm_theanompi", "LSTM", "BSP_SYNC_TYPE=avg\n", ("reviews", "IMDB (tmpack imdb packs it)")),
        (
            *("lasagne_model_zoo.lsgan_cifar10", "LSGAN", "BSP_EXCH_STRATEGY='ar'\n"),
            ("digits", "MNIST (tmpack mnist packs it)"),
        ),
    ],
)
def test_a_cfg_file_of_the_lineage_finds_its_network_and_data_in_the_place_of_its_own(
    folder: Path, started: list[RunConfig], module: str, name: str, more: str, data: tuple[str, str]
) -> None:
    (folder / "session.cfg").write_text(
        f"# a comment\nRULE=BSP\n{more}MODELFILE=theanompi.models.{module}\nMODELCLASS={name}\nDEVICES=cuda0,cuda1"
    )
    assert cli.main("-cfg session.cfg --device cpu,cpu --max-iterations 3".split()) == 0
    assert (started[0].devices, started[0].modelclass) == (("cpu", "cpu"), name)
    run, found = resolve_by_class(started[0]), find_model_class(started[0])
    assert (run.data, DATA[found.__module__]) == data


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("theanompi.models", "AlexNet"),
        ("theanompi.models.cifar10", "Cifar10_model"),
        ("theanompi.models.lasagne_model_zoo.resnet50", "ResNet50"),
        ("theanompi.models.keras_model_zoo.wresnet", "Wide_ResNet"),
    ],
)
def test_a_script_of_the_lineage_finds_its_network(
    folder: Path, started: list[RunConfig], monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", "--device", "cpu"])
    rule = BSP()
    rule.init(devices=["cuda0", "cuda1", "cuda2"], modelfile=module, modelclass=name)
    rule.wait()
    assert (started[0].devices, started[0].modelclass) == (("cpu",) * 3, name)


def test_flags_count_before_the_file_is_judged(folder: Path, started: list[RunConfig]) -> None:
    (folder / "session.cfg").write_text(
        "RULE=EASDG\nBSP_SYNC_TYPE=swop\nMODELFILE=1\nMODELCLASS=\nSIZE=x\nDEVICES=tpu0\nHOSTFILE=\n"
    )
    (folder / "hosts").write_text("localhost slots=2")
    flags = "-cfg=session.cfg -r=BSP -bsp_sync_type=avg --modelfile=alexnet --modelclass=AlexNet"
    assert cli.main([*flags.split(), "--size=2", "--device=cpu", "-hostfile=hosts"]) == 0
    assert (started[0].rule, started[0].sync_type, started[0].modelfile) == ("BSP", "avg", "alexnet")
    # What no flag decides is judged as before.
    with pytest.raises(ConfigError, match=r"session.cfg, line 1: rule: .* got 'EASDG'"):
        read_cfg(folder / "session.cfg")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("RULE=EASDG", "line 1: rule: expected one of BSP, .* got 'EASDG'; did you mean 'EASGD'"),
        (
            "BSP_SYNC_TYPE=swop",
            "line 1: sync_type: expected one of cdd, avg, swap, got 'swop'; did you mean 'swap'",
        ),
        ("BSP_EXCH_STRATEGY=copper", "line 1: exchange: expected .* got 'copper'; shm adds up"),
        ("SIZE=3\nDEVICES=cuda0,cuda1", "size: expected 2, the number of devices given, got 3"),
        ("DEVICES=gpu0,gpu1", "line 1: devices: expected device .* got 'gpu0'; did you mean 'cuda0'"),
        ("SIZE=two", "line 1: size: expected a whole number of at least 1, got 'two'"),
        ("MODELFILE=alexnets", "modelfile: expected a module .* got 'alexnets'; did you mean 'alexnet'"),
        ("MODELCLASS=AlexNet_sc", "modelclass: .* got 'AlexNet_sc'; did you mean 'AlexNet'"),
        ("MODELFIL=alexnet", "line 1: unknown key 'MODELFIL'; did you mean 'MODELFILE'"),
    ],
)
def test_what_is_missing_says_what_stands_in_its_place(
    folder: Path, capsys: pytest.CaptureFixture[str], lines: str, message: str
) -> None:
    key = lines.partition("=")[0]
    rest = "".join(f"{line}\n" for line in ONE_MACHINE.splitlines() if not line.startswith(f"{key}="))
    (folder / "session.cfg").write_text(f"{lines}\n{rest}")
    with pytest.raises(SystemExit) as caught:
        cli.main(["-cfg=session.cfg"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 302
    assert re.search(message, said), said


def test_a_script_sets_attributes_and_its_flag_the_devices(
    folder: Path, started: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "from theanompi import BSP\n"
        "BSP.sync_type='avg'\n"
        "rule=BSP()\n"
        "rule.exch_strategy = 'ar'\n"
        "rule.init(devices=['cuda0', 'cuda1'] ,\n"
        "          modelfile = 'alexnet',\n"
        "          modelclass = 'AlexNet')\n"
        "rule.wait()\n"
    )
    monkeypatch.setattr(BSP, "sync_type", "cdd", raising=False)  # put back at the end
    for flags, devices in (
        ([], "cuda0,cuda1"),
        (["--device", "cpu"], "cpu,cpu"),
        (["--devices=cpu", "--other"], "cpu,cpu"),
        (["--device=cuda2,cuda3"], "cuda2,cuda3"),
    ):
        monkeypatch.setattr(sys, "argv", ["script.py", *flags])
        exec(script, {})
        run = started.pop()
        assert run.devices == parse_devices(devices)
        assert (run.sync_type, run.exchange, run.modelclass) == ("avg", "ar", "AlexNet")


def test_a_package_may_look_for_its_models_when_asked(folder: Path, started: list[RunConfig]) -> None:
    (folder / "models_of_all").mkdir()
    (folder / "models_of_all" / "__init__.py").write_text("def __getattr__(name):\n    return object\n")
    BSP().init(devices=["cuda1", "cuda2"], modelfile="models_of_all", modelclass="AlexNet")
    assert started[0].modelfile == "models_of_all"


@pytest.mark.parametrize("rule", ["EASGD", "ASGD", "GOSGD"])
def test_the_asynchronous_rules_start_as_they_did(folder: Path, started: list[RunConfig], rule: str) -> None:
    script = (
        f"from theanompi import {rule}\n"
        f"rule={rule}()\n"
        "rule.init(devices=['cuda0', 'cuda1'], modelfile='alexnet', modelclass='AlexNet')\n"
        "rule.wait()\n"
    )
    exec(script, {})
    (folder / "session.cfg").write_text(
        ONE_MACHINE.replace("RULE=BSP", f"RULE={rule}") + "DEVICES=cuda0,cuda1"
    )
    cli.main(["-cfg=session.cfg"])
    (folder / "session.cfg").write_text(ONE_MACHINE + "BSP_SYNC_TYPE=avg\nDEVICES=cuda0,cuda1")
    cli.main(["-cfg=session.cfg", f"-r={rule}"])
    assert [run.sync_type for run in started] == ["cdd"] * 3, "what is BSP's means nothing to another rule"
    assert [run.rule for run in started] == [rule] * 3
    assert len(started[0].devices) == 2, "all of them are workers"


def loop(model: Any, recorder: Any, iterations: int) -> None:
    """An epoch as models/test_model.py trains it: the same count for all of a validation."""
    recorder.start_epoch()
    for count in range(iterations):
        for _ in range(model.n_subb):
            out = model.train_iter(count, recorder)
        assert out is None
        recorder.print_train_info(count + 1)
    model.reset_iter("train")
    for _ in range(model.data.n_batch_val):
        model.val_iter(iterations, recorder)
    model.reset_iter("val")
    recorder.gather_val_info()
    recorder.print_val_info(iterations)
    model.adjust_hyperp(epoch=model.epoch)
    recorder.end_epoch(iterations, model.epoch)


def test_a_loop_without_a_rule_trains_as_one_rank_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"verbose": True, "rank": 0, "size": 1, "mname": "Plain", "batch_size": 100, "epochs": 2}
    model = Plain(settings)
    recorder = Recorder(comm=None, printFreq=200 / model.file_batch_size, modelname="Plain", verbose=True)
    model.compile_iter_fns()
    for model.epoch in range(2):
        loop(model, recorder, 4)
    model.cleanup()
    assert [row[0] for row in recorder.info_dict["train_info"]] == [2, 4, 2, 4]
    costs = [row[1] for row in recorder.info_dict["train_info"]]
    assert costs[-1] < costs[0]
    printed = capsys.readouterr().out
    assert printed.count("time per 2 batches: ") == 4 and printed.count("validation cost: ") == 2

    # The same by a rule's calls, one after another.
    other = Plain(settings)
    other.compile_iter_fns()
    times = Times(None, 0, 1, 8, 10, False, None)
    for other.epoch in range(2):
        for count in range(4):
            other.train_iter(count, times, 0)
            other.update()
    for count in range(other.data.n_batch_val):
        other.val_iter(count, times)
    items, loss, _, error, _, top5, _ = other.validation_sums().sum(0)
    other.cleanup()
    for name, weights in other.state_arrays().items():
        np.testing.assert_array_equal(model.state_arrays()[name], weights, err_msg=name)
    # Theano-MPI's recorder has the mean over batches, of which the last is smaller.
    latest = recorder.get_latest_val_info()
    np.testing.assert_allclose(latest, [4, loss / items, error / items, top5 / items], rtol=0.1, atol=0.01)

    recorder.save(8, model.shared_lr.get_value(), f"{tmp_path}/inforec/")
    saved = pickle.loads((tmp_path / "inforec" / "inforec.pkl").read_bytes())
    assert saved["lr"] == [[8, other.state.last_eta.get_value()]] and saved["val_info"][-1] == latest
    save_model(model, f"{tmp_path}/snapshots/", verbose=False)
    with np.load(tmp_path / "snapshots" / "Plain_1.npz") as weights:
        np.testing.assert_array_equal(weights["dense.W"], model.state_arrays()["weights/dense.W"])


def test_weights_of_any_class_are_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Net:
        epoch = 3
        params = (SimpleNamespace(get_value=lambda: np.arange(3)),)

    save_model(Net(), str(tmp_path / "a"), verbose=True)
    assert "weights of epoch 3 saved" in capsys.readouterr().out
    with np.load(tmp_path / "a" / "Net_3.npz") as weights:
        np.testing.assert_array_equal(weights["arr_0"], [0, 1, 2])
    Net.save = lambda self, path: (Path(path) / "own").touch()  # type: ignore[attr-defined]
    save_model(Net(), str(tmp_path / "b"), verbose=False)
    assert [file.name for file in (tmp_path / "b").iterdir()] == ["own"]


def test_the_recorder_draws_and_tells_of_nothing_that_was_not_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder(comm=None, printFreq=0.5, modelname="net", verbose=True)
    recorder.print_train_info(1)
    recorder.print_val_info(1, "a comment")
    assert recorder.get_latest_val_info() is None and capsys.readouterr().out == ""
    recorder.folder = str(tmp_path)
    recorder.plot("sample", image=np.zeros((2, 2)), cmap="gray")
    recorder.plot("scores", lines=[[1, 2], [2, 1]], lw=2, save=False)
    assert {file.name for file in tmp_path.iterdir()} == {"sample.png", "scores.png"}


def test_the_page_about_porting_runs_as_it_stands_there(tmp_path: Path) -> None:
    printed = do(ROOT / "docs" / "port.md", tmp_path, "--no-curves")
    session, cfg, alone, elastic, _, quadrants, parallel = printed
    first, *_, last, accuracy = map(float, quadrants.split())
    assert last < first / 2 and accuracy > 0.9
    assert "Quadrants on digits: 2 x cpu" in parallel and "ended well" in parallel
    assert "Spirals on its own data: 2 x cpu" in session and "ended well" in session
    assert "Digits on digits: 2 x cpu" in cfg and "ended well" in cfg
    assert "exchange: EASGD: 2 workers" in elastic and "ended well" in elastic
    costs = [float(line.split()[1]) for line in alone.splitlines() if re.fullmatch(r"\d+ \S+ \S+", line)]
    assert costs[-1] < costs[0]
    assert "weights of epoch 1 saved in ./snapshots/" in alone


THEIRS = {
    **{"learning_rate": "base_lr", "lr": "base_lr", "num_epochs": "epochs", "bs": "batch_size"},
    **{"l2": "weight_decay", "amp": "precision", "floatX": "precision", "eps": "optimizer.epsilon"},
    **{
        "gpus": "devices",
        "random_seed": "seed",
        "step_size": "decay_epochs",
        "num_workers": "loader_processes",
    },
}


@pytest.mark.parametrize("name", THEIRS)
def test_what_others_call_a_setting_is_answered_with_its_name_here(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a class's defaults, in Python, in a cfg file and as a flag; what is only spelt like it is not meant."""
    own = THEIRS[name]
    key, flag = own.upper().replace(".", "_"), "--" + own.replace("_", "-")
    flag = {"--optimizer.epsilon": "--set optimizer.epsilon", "--devices": "--device"}.get(flag, flag)
    quoted = f"did you mean '{own}'{' in settings' * ('.' in own)}?"
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict({name: 1})
    assert str(caught.value) == f"unknown setting '{name}'; {quoted}"
    with pytest.raises(ConfigError) as caught:
        read_defaults({name: 1}, "Net")
    decides = own in OF_MODELS or "." in own
    assert str(caught.value).endswith(quoted if decides else f"got '{name}', which a model does not decide")
    (tmp_path / "run.cfg").write_text(f"{name.upper()}=1\n")
    with pytest.raises(ConfigError, match=rf"line 1: unknown key '{name.upper()}'; did you mean '{key}'\?$"):
        read_cfg(tmp_path / "run.cfg")
    parser = OneLineParser(prog="train")
    add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--{name.replace('_', '-')}", "1"])
    assert capsys.readouterr().err.endswith(f"unknown; did you mean '{flag}'?\n")


def test_all_that_others_call_something_is_something_here_and_nothing_else() -> None:
    adam = {f"optimizer.{field.name}" for field in fields(Adam.Settings)}
    assert set(_OURS.values()) <= {*FIELDS, *adam}
    assert not set(_OURS) & set(FIELDS)
    assert len(_OURS) == sum(len(names.split()) for names in _CALLED.values())


def test_a_setting_of_the_run_is_named_where_it_is_given_to_an_optimizer() -> None:
    for name, own in (("lr", "base_lr"), ("weight_decay", "weight_decay")):
        with pytest.raises(
            ConfigError, match=f"^optimizer: unknown setting '{name}'; did you mean the run's own '{own}'\\?$"
        ):
            read_settings(Adam.Settings, {f"optimizer.{name}": 0.1}, "optimizer")
