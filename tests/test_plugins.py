"""Plug-ins: how they are found, how their settings are given, and what a model's class has defaults for."""

import argparse
import contextlib
import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from made_up import Trial, write_experiment

from tests.mpi import ROOT
from theanompi import cli
from theanompi.config import (
    FIELDS,
    OF_MODELS,
    OPTIMIZERS,
    SCHEDULES,
    ConfigError,
    NoSettings,
    RunConfig,
    add_arguments,
    fields_of,
    find_class,
    from_args,
    from_environment,
    read_settings,
    resolve,
    setting,
    to_environment,
)
from theanompi.config.cfgfile import read_cfg
from theanompi.config.kinds import EPOCHS, POSITIVE, SWITCH, TEXT, choice, number, whole
from theanompi.experiments import storage
from theanompi.experiments.file import Trial as FileTrial
from theanompi.experiments.file import read_experiment
from theanompi.experiments.report import report
from theanompi.experiments.results import read_results
from theanompi.launch.check import check
from theanompi.rules import BSP, get_rule


@dataclass(frozen=True)
class Settings:
    """Of an imagined optimizer: one of each kind."""

    beta2: float = setting(0.999, number("a number of at least 0 and below 1", lambda x: 0 <= x < 1), "of v")
    steps: int = setting(1, whole(1), "between two updates")
    amsgrad: bool = setting(False, SWITCH, "the largest v so far")
    form: str = setting("a", choice(("a", "b")), "one of two")
    label: str | None = setting(None, TEXT, "a name")
    at: tuple[float, ...] = setting((1.0,), EPOCHS, "epochs")


def flags(*argv: str, **base: Any) -> RunConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_args(parser.parse_args(argv), **base)


def cfg(folder: Path, text: str) -> RunConfig:
    path = folder / "x.cfg"
    path.write_text(text)
    return RunConfig(**read_cfg(path))


def arms(folder: Path, text: str) -> dict[str, dict[str, Any]]:
    path = folder / "x.toml"
    path.write_text('scale = "small"\nworkers = [4]\n' + text)
    return {name: arm.settings for name, arm in read_experiment(path).arms.items()}


# The ways of giving settings.

GIVEN = {"optimizer": "my_steps.Lion", "schedule": "cosine", "clip_norm": 0.5, "length": 64}
SET = {"model.depth": 18, "optimizer.beta2": 0.98, "rule.period": 4, "schedule.name": "b c"}


def test_flags_cfg_python_and_toml_say_the_same(tmp_path: Path) -> None:
    expected = RunConfig.from_dict(GIVEN | {"settings": SET})
    by_flags = "--optimizer my_steps.py:Lion --schedule cosine --clip-norm 0.5 --length 64".split()
    for name, value in SET.items():
        by_flags += ["--set", f"{name}={value}"]
    assert flags(*by_flags) == expected
    text = "OPTIMIZER=my_steps.Lion\nSCHEDULE=cosine\nCLIP_NORM=0.5\nLENGTH=64\n"
    text += "OPTIMIZER_BETA2=0.98\nMODEL_DEPTH=18\nRULE_PERIOD=4\nSCHEDULE_NAME='b c'\n"
    assert cfg(tmp_path, text) == expected
    toml = "[arms.x]\nclip_norm = 0.5\nlength = 64\n[arms.x.optimizer]\nname = 'my_steps.py:Lion'\nbeta2 = 0.98\n"
    toml += "[arms.x.model]\ndepth = 18\n[arms.x.rule]\nperiod = 4\n[arms.x.schedule]\nname = 'cosine'\n"
    arm = arms(tmp_path, toml)["x"]
    assert GIVEN.items() <= arm.items()
    assert arm["settings"] == {name: SET[name] for name in SET if name != "schedule.name"}


def test_settings_are_sorted_plain_and_the_same_after_every_way_they_take() -> None:
    config = RunConfig(settings={"rule.b": True, "optimizer.beta2": 0.98, "optimizer.a": "x"})
    assert list(config.settings) == ["optimizer.a", "optimizer.beta2", "rule.b"]
    assert json.loads(json.dumps(config.to_dict()))["settings"] == dict(config.settings)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    text = RunConfig(settings={"rule.a": "18"})  # no number, as it is none in Python and TOML
    assert RunConfig.from_dict(text.to_dict()) == text != RunConfig(settings={"rule.a": 18})
    assert from_environment(to_environment(config, ["cpu"]))[0] == config
    assert pickle.loads(pickle.dumps(config)) == config
    other = RunConfig(settings={"optimizer.a": "x", "rule.b": True, "optimizer.beta2": 0.98})
    assert (other, hash(other)) == (config, hash(config))
    assert RunConfig(settings={"rule.b": False}) != RunConfig(settings={"rule.b": True})
    with pytest.raises(TypeError):
        config.settings["rule.b"] = False  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18), ("-1", -1), ("0.980", 0.98), (".5", 0.5), ("1e-3", 0.001), ("true", True), ("False", False),
        ("yes", "yes"), ("a=b", "a=b"), ('"18"', "18"), ("1.2.3", "1.2.3"), ("nan", "nan"), ("30,60", "30,60"),
    ],
)  # fmt: skip
def test_a_text_is_the_value_that_toml_would_have(text: str, value: Any) -> None:
    found = flags("--set", f"model.x={text}").settings["model.x"]
    assert (found, type(found)) == (value, type(value))


def test_flags_override_a_cfg_file_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    path.write_text("OPTIMIZER=adam\nOPTIMIZER_BETA1=0.8\nOPTIMIZER_BETA2=0.9\nSCHEDULE_POWER=2\n")
    both = flags("--set", "optimizer.beta2=0.98", **read_cfg(path))
    assert both.settings == {"optimizer.beta1": 0.8, "optimizer.beta2": 0.98, "schedule.power": 2}
    assert flags("--optimizer", "adam", **read_cfg(path)).settings["optimizer.beta1"] == 0.8
    other = flags("--optimizer", "lars", "--set", "optimizer.eps=1", **read_cfg(path))
    assert other.settings == {"optimizer.eps": 1, "schedule.power": 2}


def test_a_rule_takes_them_as_keywords_and_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[RunConfig] = []
    monkeypatch.setattr("theanompi.launch.session.Job", lambda config, **_: started.append(config))
    rule = BSP()
    rule.settings = {"optimizer.beta2": 0.9}  # type: ignore[attr-defined]
    model = (["cpu"], "models.resnet50", "ResNet50")
    rule.init(*model, optimizer="adam", settings={"schedule.power": 2})
    assert started[0].settings == {"optimizer.beta2": 0.9, "schedule.power": 2}
    for settings, message in [
        (
            {"optimizer.beta2": 0.98},
            "BSP.settings: expected {'optimizer.beta2': 0.98}, as settings was given, got",
        ),
        ({"beta2": 0.98}, "settings: expected names such as"),
        (
            "beta2",
            "settings: expected settings of plug-ins by name, such as optimizer.beta2=0.98, got 'beta2'",
        ),
    ]:
        with pytest.raises(ConfigError, match=f"^{message}"):
            rule.init(*model, settings=settings)


def test_an_arm_overrides_the_common_settings_key_by_key_unless_its_optimizer_is_another(
    tmp_path: Path,
) -> None:
    common = "[settings.optimizer]\nname = 'adam'\nbeta1 = 0.8\nbeta2 = 0.9\n[settings.model]\ndepth = 18\n"
    text = common + "[arms.same]\n[arms.own.optimizer]\nbeta2 = 0.98\n[arms.named.optimizer]\nname = 'adam'\n"
    text += "[arms.other]\noptimizer = 'lars'\n[arms.wide.optimizer]\nname = 'lamb'\nbeta2 = 0.7\n"
    text += "[arms.net]\nmodelclass = 'Other'\n"
    found = arms(tmp_path, text)
    model, adam = {"model.depth": 18}, {"optimizer.beta1": 0.8, "optimizer.beta2": 0.9}
    assert {name: (arm["optimizer"], arm["settings"]) for name, arm in found.items()} == {
        "same": ("adam", adam | model),
        "own": ("adam", adam | model | {"optimizer.beta2": 0.98}),
        "named": ("adam", adam | model),
        "other": ("lars", model),
        "wide": ("lamb", model | {"optimizer.beta2": 0.7}),
        "net": ("adam", adam),
    }


def test_tables_by_scale_and_by_plug_in_are_told_apart(tmp_path: Path) -> None:
    text = "[arms.a]\noptimizer = { small = 'adam', imagenet = 'lars' }\n"
    text += "[arms.b.optimizer]\nname = { small = 'adam', imagenet = 'lars' }\neps = { small = 1, imagenet = 2 }\n"
    text += "[arms.c]\noptimizer = { small = { name = 'adam', eps = 1 }, imagenet = 'lars' }\n"
    found = arms(tmp_path, text)
    assert [found[name]["optimizer"] for name in "abc"] == ["adam"] * 3
    assert "settings" not in found["a"]
    assert found["b"]["settings"] == found["c"]["settings"] == {"optimizer.eps": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[arms.x.optimiser]\nbeta2 = 0.9", "arms.x: optimiser: expected a scale (imagenet, small, own), got 'beta2'"),
        ("[arms.x.optimizer]\nname = 'adma'",
         "arms.x: optimizer: expected one of momentum, adam, adamw, rmsprop, adadelta, lars, lamb, or a class of your "
         "own such as my_steps.Lion, or lasagne.adam, got 'adma'; did you mean 'adam'?"),
        ("[arms.x.optimizer]\nbeta2 = [1]",
         "arms.x: optimizer.beta2: expected a text that is not empty, a number, true or false, got [1]"),
        ("[arms.x]\nsettings = { 'optimizer.beta2' = 1 }",
         "arms.x: settings: expected none here, as a table of the plug-in, such as [arms.x.optimizer], decides it, got "
         "{'optimizer.beta2': 1}"),
        ("[arms.x]\nmodel = 'x'", "arms.x: unknown setting 'model'"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_an_experiment_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        arms(tmp_path, text)
    assert str(caught.value).partition(": ")[2].startswith(message)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["optimizer.beta2"],
         "settings: expected a name and a value such as optimizer.beta2=0.98, got 'optimizer.beta2'"),
        (["optimiser.beta2=1"],
         "settings: expected names such as optimizer.beta2, which begin with one of optimizer, schedule, rule, "
         "model, clock, "
         "got 'optimiser.beta2'; did you mean 'optimizer.beta2'?"),
        (["beta2=1"],
         "settings: expected names such as optimizer.beta2, which begin with one of optimizer, schedule, rule, "
         "model, clock, "
         "got 'beta2'"),
        (["optimizer.a.b=1"],
         "settings: expected names such as optimizer.beta2, which begin with one of optimizer, schedule, rule, "
         "model, clock, "
         "got 'optimizer.a.b'"),
        (["rule.a=1", "rule.a=2"], "settings: expected 'rule.a' once, got it with 2 too"),
        (["rule.a="], "rule.a: expected a text that is not empty, a number, true or false, got ''"),
        (["rule.a=1e999"], "rule.a: expected a text that is not empty, a number, true or false, got inf"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_flag_is_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        flags(*(word for text in argv for word in ("--set", text)))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nOPTIMISER_BETA2=1", "line 2: unknown key 'OPTIMISER_BETA2'; did you mean 'OPTIMIZER_BETA2'?"),
        ("OPTIMIZER_=1", "line 1: unknown key 'OPTIMIZER_'; did you mean 'OPTIMIZER'?"),
        ("optimizer_beta2=1", "line 1: unknown key 'optimizer_beta2'; did you mean 'OPTIMIZER_BETA2'?"),
        ("SETTINGS=rule.a=1", "line 1: unknown key 'SETTINGS'"),
        ("RULE_A=1\nRULE_A=2", "line 2: expected RULE_A once, got it in line 1 too"),
        ("RULE_A=(1 2)", "line 1: RULE_A: expected one value, got an array of 2"),
        ("RULE_A=", "line 1: rule.a: expected a text that is not empty, a number, true or false, got ''"),
    ],
)
def test_what_is_wrong_in_a_cfg_file_has_its_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        cfg(tmp_path, text)
    assert str(caught.value).removeprefix(f"{tmp_path / 'x.cfg'}, ") == message


def page(part: str) -> str:
    """The block of the page on settings that has this in it."""
    text = (ROOT / "docs/settings.md").read_text("utf-8")
    (found,) = [block for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) if part in block]
    return str(found)


def test_the_page_on_settings_gives_the_same_in_all_ways(tmp_path: Path) -> None:
    expected = RunConfig(optimizer="adam", settings={"optimizer.beta2": 0.98, "model.width": 6})
    assert flags(*page("tmlauncher").split()[3:]) == expected
    assert cfg(tmp_path, page("OPTIMIZER=")) == expected
    variables: dict[str, Any] = {}
    exec(page("settings ="), variables)
    assert RunConfig(**variables["settings"]) == expected
    arm = arms(tmp_path, page("[arms.adam"))["adam"]
    assert (arm["optimizer"], arm["settings"]) == ("adam", dict(expected.settings))


# What a plug-in makes of them.


def test_settings_are_read_by_their_kinds_from_texts_and_values() -> None:
    texts = {"beta2": "0.98", "steps": "3", "amsgrad": "yes", "form": "b", "label": "x", "at": "1,2.5"}
    values = {"beta2": 0.98, "steps": 3, "amsgrad": True, "form": "b", "label": "x", "at": "1 2.5"}
    for given in (texts, values):
        settings = {f"optimizer.{name}": value for name, value in given.items()} | {"rule.beta2": 7}
        assert read_settings(Settings, settings, "optimizer") == Settings(0.98, 3, True, "b", "x", (1.0, 2.5))
    assert read_settings(Settings, {}, "optimizer") == Settings()
    assert read_settings(NoSettings, {"rule.a": 1}, "optimizer") == NoSettings()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("beta2", 2, "optimizer.beta2: expected a number of at least 0 and below 1, got 2"),
        ("steps", 1.5, "optimizer.steps: expected a whole number of at least 1, got 1.5"),
        ("amsgrad", "perhaps", "optimizer.amsgrad: expected true or false, got 'perhaps'"),
        ("form", "c", "optimizer.form: expected one of a, b, got 'c'"),
        ("label", 3, "optimizer.label: expected a text that is not empty, got 3"),
        ("beta3", 1, "optimizer: unknown setting 'beta3'; did you mean 'beta2'?"),
        ("zzz", 1, "optimizer: unknown setting 'zzz'; known are beta2, steps, amsgrad, form, label, at"),
    ],
)
def test_what_a_setting_may_not_be_is_one_line(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(Settings, {f"optimizer.{name}": value}, "optimizer")
    assert str(caught.value) == message


def test_a_plain_field_of_settings_is_the_authors_mistake() -> None:
    @dataclass(frozen=True)
    class Own:
        beta: float = 0.5

    with pytest.raises(
        ConfigError, match=r"^rule\.beta: expected a field of .*Own that theanompi\.config\.setting"
    ):
        read_settings(Own, {"rule.beta": 1}, "rule")


class Base:
    """What a found class has to be."""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with modules of a user's own, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "my_plugins.py").write_text(
        "from tests.test_plugins import Base\nfrom theanompi.rules import BSP\n"
        "class Halves(Base): pass\nclass Other: pass\nclass Mine(BSP):\n    name = 'mine'\n"
        "def helper(): pass\n"
        "from dataclasses import dataclass\nfrom theanompi.config import setting\n"
        "from theanompi.config.kinds import POSITIVE\n"
        "@dataclass(frozen=True)\nclass Settings: period: float = setting(4.0, POSITIVE, 'of updates')\n"
        "class Period(BSP):\n    name = 'BSP'\n    Settings = Settings\n"
    )
    (tmp_path / "broken_plugins.py").write_text("import no_such_package\nclass Halves: pass\n")
    yield tmp_path
    for name in ("my_plugins", "broken_plugins"):
        sys.modules.pop(name, None)


def test_a_users_class_is_found_from_the_current_folder_however_it_is_spelt(mine: Path) -> None:
    names = [
        RunConfig(rule=name).rule
        for name in ("my_plugins.py:Halves", "my_plugins:Halves", "my_plugins.Halves")
    ]
    assert names == ["my_plugins.Halves"] * 3
    assert RunConfig(optimizer="./a/b.py:C").optimizer == RunConfig(optimizer="a.b.C").optimizer == "a.b.C"
    assert RunConfig(optimizer="lasagne.adam").optimizer == "lasagne.adam"
    assert find_class("rule", names[0], {}).__name__ == "Halves"
    assert find_class("rule", "BSP", {"BSP": "theanompi.rules.bsp:BSP"}) is BSP


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adma", "optimizer: expected adam, lars, or a class of your own such as module.Class, got 'adma'; "
         "did you mean 'adam'?"),
        ("my_plugin.Halves", "optimizer: expected a module on sys.path, got 'my_plugin'; did you mean 'my_plugins'?"),
        ("my_plugins.Halve", "optimizer: expected a class of {}/my_plugins.py, got 'Halve'; did you mean 'Halves'?"),
        ("my_plugins.Other", "optimizer: expected a subclass of {}, got 'my_plugins.Other', another class"),
        ("my_plugins.helper", "optimizer: expected a subclass of {}, got 'my_plugins.helper', of type function"),
    ],
)  # fmt: skip
def test_what_is_no_such_class_is_one_line(name: str, message: str, mine: Path) -> None:
    known = {"adam": "a:Adam", "lars": "b:Lars"}
    with pytest.raises(ConfigError) as caught:
        find_class("optimizer", name, known, base=find_class("optimizer", "tests.test_plugins.Base", {}))
    place = "tests.test_plugins.Base" if "subclass" in message else mine
    assert str(caught.value) == message.format(place)


def test_an_error_in_the_users_own_module_is_raised_as_it_is(mine: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package") as caught:
        find_class("optimizer", "broken_plugins.Halves", {})
    assert any(str(entry.path).endswith("broken_plugins.py") for entry in caught.traceback)


def test_a_rule_of_the_users_own_is_made(mine: Path) -> None:
    assert get_rule("my_plugins.py:Mine").name == "mine"
    rule = get_rule("my_plugins.Period")
    for settings, message in [
        ({"rule.perod": 3}, "rule: unknown setting 'perod'; did you mean 'period'\\?"),
        ({"rule.period": 0}, "rule.period: expected a number above 0, got 0"),
        ({"rule.period": 8}, "modelfile: expected a module on sys.path, got 'qqqqqq'"),
    ]:
        with pytest.raises(ConfigError, match=f"^{message}$"):
            rule.init(["cpu"], "qqqqqq", "Net", settings=settings)
    with pytest.raises(ConfigError, match="^rule: unknown setting 'width'; known are period, local_from$"):
        BSP().init(["cpu"], "qqqqqq", "Net", settings={"rule.width": 3})
    with pytest.raises(
        ConfigError, match=r"^rule: expected a subclass of theanompi\..*Rule, got 'my_plugins\.Other'"
    ):
        get_rule("my_plugins.Other")


def test_the_launcher_checks_them_without_importing(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(RunConfig(optimizer="broken_plugins.Halves", schedule="my_plugins.Other"))
    for settings, message in [
        ({"schedule": "my_plugin.Other"}, "schedule: expected a module on sys.path, got 'my_plugin'"),
        (
            {"optimizer": "my_plugins.Othr"},
            "optimizer: expected a class of .* got 'Othr'; did you mean 'Other'",
        ),
    ]:
        with pytest.raises(ConfigError, match=f"^{message}"):
            check(RunConfig(**settings))
    with pytest.raises(SystemExit):
        cli.main(["--optimizer", "my_plugins.Othr"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tmlauncher: error: optimizer: expected a class of ")


# What a role decides.


def another(name: str) -> Any:
    """A value that a field has by default in no run."""
    item = FIELDS[name]
    words = item.metadata["kind"].expected.removeprefix("one of ").split(", ")
    usual = getattr(resolve(RunConfig()), name)
    for value in ({"model.x": 1}, not usual, 0.25, 3, *words, "cpu,cpu", "a.b", [1]):
        with contextlib.suppress(ConfigError):
            if getattr(RunConfig(**{name: value}), name) != usual:
                return value
    raise AssertionError(name)


# A recipe is other fields' defaults, which decide.
@pytest.mark.parametrize("name", sorted(set(FIELDS) - {"resume", "overwrite", "recipe"}))
def test_the_role_decides_whether_a_comparison_takes_a_run_for_another(name: str) -> None:
    plain, changed = RunConfig(), RunConfig(**{name: another(name)})
    same = storage._settings(plain, {}) == storage._settings(changed, {})
    assert same == (name in fields_of("aside")), (name, another(name))


def test_the_role_decides_what_a_report_shows(tmp_path: Path) -> None:
    # Summed gradients alone have these; an average that no arm has is left out, as it came later.
    summed = {"normalization", "ema"}
    own = {name: another(name) for name in FIELDS if name not in {"resume", "overwrite", *summed}}
    write_experiment(tmp_path, {("a", 4): [Trial([0.1])], ("b", 4): [Trial([0.1])]}, settings={"b": own})
    report(tmp_path)
    (_, arm) = json.loads((tmp_path / "report.json").read_text("utf-8"))["arms"]
    assert set(arm["settings"]) == set(FIELDS) - set(fields_of("aside")) - {"settings", "ema"} | {"model.x"}
    head = next(line for line in (tmp_path / "report.md").read_text("utf-8").splitlines() if "| rule" in line)
    columns = set(head.strip("| ").split(" | "))
    hidden = {*fields_of("aside"), "seed", "accumulation", "devices", "settings", *summed}
    assert columns == set(FIELDS) - hidden | {"model.x"}


def test_a_report_shows_the_settings_in_which_arms_differ(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "adam": {"optimizer": "adam", "settings": {"optimizer.beta2": 0.98, "schedule.power": 2}},
        "lars": {"optimizer": "lars", "settings": {"optimizer.trust": 0.001, "schedule.power": 2}},
    }
    write_experiment(tmp_path, {("adam", 4): [Trial([0.1])], ("lars", 4): [Trial([0.2])]}, settings=settings)
    report(tmp_path)
    assert (
        "|  | optimizer | optimizer.beta2 | optimizer.trust |\n|---|---|---|---|\n"
        "| adam | adam | 0.98 | – |\n| lars | lars | – | 0.001 |\n"
    ) in (tmp_path / "report.md").read_text("utf-8")


def test_what_a_class_defaults_is_known_from_its_runs(tmp_path: Path) -> None:
    """To a comparison, which does not import it, and to a report."""
    write_experiment(tmp_path, {("a", 4): [Trial([0.1] * 8)]})
    folder = tmp_path / "a/4-workers/seed-0"
    config = RunConfig(data="runs/glyphs.h5", batch_size=8, base_batch=64, epochs=8, image_size=32)
    defaults = {"base_lr": 0.4, "optimizer": "adam", "settings": {"optimizer.beta2": 0.98}}
    written = resolve(config, defaults).to_dict() | {"defaults": defaults, "size": 4, "versions": {}}
    (folder / "config.json").write_text(json.dumps(written))
    assert read_results(tmp_path).arms["a"]["base_lr"] == 0.4
    trial = FileTrial("a", 4, 0, folder, config)
    assert storage._difference(trial) is None
    assert storage.runs_elsewhere([trial], tmp_path / "other", []) == {}
    assert storage.runs_elsewhere([trial], tmp_path / "other", [tmp_path]) == {trial: folder}
    for changes, difference in [
        ({"base_lr": 0.1}, "base_lr: expected 0.1 as the experiment has it, got 0.4"),
        ({"optimizer": "lars"}, "optimizer: expected 'lars' as the experiment has it, got 'adam' (and 1 more)"),
        ({"settings": {"optimizer.eps": 1}},
         "optimizer.eps: expected 1 as the experiment has it, got its default"),
        ({"settings": {"optimizer.beta2": 0.9}},
         "optimizer.beta2: expected 0.9 as the experiment has it, got 0.98"),
    ]:  # fmt: skip
        other = trial._replace(config=replace(config, **changes))
        assert storage._difference(other) == difference
        assert storage.runs_elsewhere([other], tmp_path / "other", [tmp_path]) == {}


# The defaults of a model's class.


def test_a_flag_goes_before_the_class_which_goes_before_the_data_set_which_goes_before_all() -> None:
    defaults = {"epochs": 45, "base_lr": 0.4, "optimizer": "adam", "batch_size": 64}
    config = resolve(flags("--base-lr", "0.2", "--batch-size", "8"), defaults)
    assert (config.base_lr, config.batch_size) == (0.2, 8)  # the flags
    assert (config.epochs, config.optimizer) == (45, "adam")  # the class
    assert config.image_size == 32  # the digits
    assert (config.momentum, config.weight_decay, config.schedule) == (0.9, 1e-4, "steps")  # for all
    assert config.decay_epochs == (15.0, 30.0, 40.0) and config.warmup_epochs == 2.5
    assert resolve(config, defaults) == config


def test_settings_of_the_class_count_for_its_own_optimizer_only() -> None:
    defaults = {"optimizer": "adam", "settings": {"optimizer.beta1": 0.8, "optimizer.beta2": 0.9}}
    assert resolve(RunConfig(), defaults).settings == defaults["settings"]
    own = resolve(RunConfig(settings={"optimizer.beta2": 0.98}), defaults)
    assert own.settings == {"optimizer.beta1": 0.8, "optimizer.beta2": 0.98}
    assert resolve(RunConfig(optimizer="lars"), defaults).settings == {}
    for config in (own, resolve(RunConfig(optimizer="lars"), defaults)):
        assert resolve(config, defaults) == config


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"epoch": 3}, "Net.defaults: unknown setting 'epoch'; did you mean 'epochs'?"),
        ({3: 3}, "Net.defaults: unknown setting 3"),
        ({"epochs": 0}, "Net.defaults: epochs: expected a whole number of at least 1, got 0"),
        ({"seed": 1}, "Net.defaults: expected settings of the recipe or the data, got 'seed', which a model does not "
         "decide"),
        ({"settings": {"rule.a": 1}}, "Net.defaults: expected settings of an optimizer or a schedule, got 'rule.a'"),
        ({"settings": {"optimiser.a": 1}}, "Net.defaults: settings: expected names such as optimizer.beta2, which "
         "begin with one of optimizer, schedule, rule, model, clock, got 'optimiser.a'; did you mean 'optimizer.a'?"),
        ("epochs", "Net.defaults: expected settings by name such as {'epochs': 30}, got 'epochs'"),
    ],
)  # fmt: skip
def test_what_a_class_may_not_default_is_one_line(defaults: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(RunConfig(), defaults, model="Net")
    assert str(caught.value) == message


def test_a_class_decides_neither_machine_nor_folder() -> None:
    assert not set(OF_MODELS) & {*fields_of("machine", "aside", "ends"), "rule", "seed", "sync_type"}
    assert set(fields_of("recipe")) <= set(OF_MODELS)
    assert {name: value for name, value in RunConfig().to_dict().items() if name in OF_MODELS and value} == {}


def test_help_shows_the_defaults_that_are_filled_in_later(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([])
    text = " ".join(capsys.readouterr().out.split())
    for part in [
        "base-batch images (default: 0.1)",
        "--nesterov, --no-nesterov Nesterov's momentum, or plain (default: yes)",
        "(default: momentum)",
        "are tokens (default: 128)",
        "--set NAME.KEY=VALUE",
        *(f" {name}, " for name in (*OPTIMIZERS, *SCHEDULES)),
    ]:
        assert part in text, part


def test_what_came_later_had_only_its_default_before() -> None:
    """Nothing that 0.1.0 has written may become another run."""
    later = {name for name, item in FIELDS.items() if item.metadata["later"]}
    written = json.loads(
        (Path(__file__).parent / "data/written_by_0.1.0/run_cdd/config.json").read_text("utf-8")
    )
    assert set(FIELDS) - set(written) == later
    config = RunConfig.from_dict({name: value for name, value in written.items() if name in FIELDS})
    assert POSITIVE.read(config.base_lr) and resolve(config).to_dict().items() >= {
        "optimizer": "momentum", "schedule": "steps", "clip_norm": None, "settings": {}, "length": 128,
    }.items()  # fmt: skip


def test_a_run_is_made_with_the_defaults_of_the_class_and_says_so(mine: Path) -> None:
    """As a user does it: a file of one's own, and going on with another recipe."""
    (mine / "my_net.py").write_text(page("class Net(Model)"))
    command = [sys.executable, "-c", "import sys; from theanompi.cli import main; sys.exit(main())"]
    command += (
        "-file my_net.py -class Net --out run --no-curves --set model.width=6 --weight-decay 0.25".split()
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for more, part in [
        (["--max-iterations", "1"], "iteration 1 of "),
        (["--max-iterations", "2", "--resume", "--base-lr", "0.02", "--clip-norm", "0"],
         "resumed with another recipe: base_lr 0.01 -> 0.02; clip_norm none -> 0.0"),
    ]:  # fmt: skip
        done = subprocess.run([*command, *more], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert part in done.stdout
    config = json.loads((mine / "run/config.json").read_text())
    assert config["defaults"] == {"epochs": 7, "base_lr": 0.01, "batch_size": 4, "weight_decay": 0.5}
    expected = {
        "epochs": 7,
        "base_lr": 0.02,
        "batch_size": 4,
        "weight_decay": 0.25,
        "image_size": 32,
        "momentum": 0.9,
    }
    assert expected.items() <= config.items() and config["settings"] == {"model.width": 6}
