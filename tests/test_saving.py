"""Resuming: what may be another than before, what follows from it exactly, and what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from small_models import Fixed, Plain, Rivals

from theanompi.config import FIELDS, ROLES, ConfigError, fields_of
from theanompi.data import open_dataset
from theanompi.record import checkpoint
from theanompi.rules import BSP
from theanompi.training.evaluation import trained
from theanompi.training.recipe_change import settings_of
from theanompi.training.saving import Resumed, _identity, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("forks")

SETTINGS: dict[str, Any] = {
    "modelfile": "small_models",
    "modelclass": "Plain",
    "batch_size": 8,
    "base_batch": 4,
    "base_lr": 0.01,
    "warmup_epochs": 0.02,
    "decay_epochs": [0.06],
    "seed": 3,
}
Arrays = dict[str, np.ndarray]


class Sums(BSP):
    """A rule that sums gradients, of which a checkpoint wants to know no more."""

    sums_gradients = True


class AtOwnPace(Sums):
    """Of whose workers each has a number of iterations of its own."""

    own_state = True

    def state_arrays(self) -> dict[str, Any]:
        return {}


RULE = Sums()


class Silent:
    """A recorder that keeps nothing."""

    def start(self, *_: object) -> None:
        pass

    end = start


class Biased(Plain):
    """Whose biases have a rate of their own."""

    bias_rate = 2.0


def make(model: Any = Plain, **settings: Any) -> Any:
    return model({**SETTINGS, **settings, "verbose": False})


def train(model: Plain, start: int, stop: int) -> Arrays:
    model.compile_iter_fns()
    for count in range(start, stop):
        model.train_iter(count, Silent())
        model.update()
    model.cleanup()
    return dict(model.state_arrays())


def save(model: Plain, folder: Path, iteration: int) -> Path:
    folder.mkdir(exist_ok=True)
    save_checkpoint(model, RULE, folder, MPI.COMM_SELF, model.config, iteration)
    return folder


def load(model: Plain, folder: Path) -> Resumed:
    try:
        resumed, _ = load_checkpoint(model, RULE, folder, MPI.COMM_SELF, model.config)
        return resumed
    finally:
        model.cleanup()


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    arrays, attributes = checkpoint.load(folder / "checkpoint.h5")
    change(attributes)
    checkpoint.save(folder / "checkpoint.h5", arrays, attributes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints after 5 updates, by the form of the momentum."""
    folder = tmp_path_factory.mktemp("saved")
    found = {}
    for form in ("v", "u"):
        model = make(momentum_form=form)
        train(model, 0, 5)
        found[form] = save(model, folder / form, 5)
    return found


@pytest.mark.parametrize(("before", "after"), [("v", "v"), ("u", "u"), ("v", "u"), ("u", "v")])
def test_a_lower_rate_counts_from_the_first_update_on(
    before: str, after: str, saved: dict[str, Path]
) -> None:
    model = make(momentum_form=after, base_lr=0.0001)
    changes = load(model, saved[before]).changes
    form = "" if before == after else f"; momentum_form {before} -> {after}"
    assert changes == f"base_lr 0.01 -> 0.0001{form}"
    start = dict(model.state_arrays())
    got = train(model, 5, 6)

    # By hand, in the u-form, whose velocity does not know of rates.
    m, eta, old = 0.9, 0.0001 * 8 / 4, 0.01 * 8 / 4
    velocities, _ = checkpoint.load(saved["u"] / "checkpoint.h5")
    for name in ("conv.W", "conv.b", "dense.W", "dense.b"):
        w, u = start[f"weights/{name}"], velocities[f"velocity/{name}"].astype(float)
        gradient = model.state.gradients.views[name].numpy() + (1e-4 * w if name.endswith("W") else 0)
        new = m * u + gradient
        np.testing.assert_allclose(
            got[f"weights/{name}"] - w, -eta * (gradient + m * new), rtol=2e-3, atol=1e-8
        )
        held = eta if after == "v" else 1.0
        np.testing.assert_allclose(got[f"velocity/{name}"], held * new, rtol=1e-4, atol=1e-7)
        wrong = -(m * (m * old * u + eta * gradient) + eta * gradient)
        assert np.abs(wrong).max() > 10 * np.abs(got[f"weights/{name}"] - w).max()


@pytest.mark.parametrize(("before", "after"), [("v", "u"), ("u", "v")])
def test_a_velocity_of_biases_comes_with_their_own_rate(before: str, after: str, tmp_path: Path) -> None:
    model = make(Biased, momentum_form=before)
    train(model, 0, 5)
    folder = save(model, tmp_path / "run", 5)
    straight = train(make(Biased, momentum_form=after), 0, 8)
    model = make(Biased, momentum_form=after)
    load(model, folder)
    resumed = train(model, 5, 8)
    for name, expected in straight.items():
        np.testing.assert_allclose(resumed[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


class Seldom(Rivals):
    """Whose second objective is updated in every second iteration."""

    def objectives(self, batch: Any, training: bool) -> list[Any]:
        first, second = super().objectives(batch, training)
        return [first, second._replace(every=2)]


def test_a_worker_that_is_behind_the_others_may_not_have_come_to_an_objective_yet(tmp_path: Path) -> None:
    model, rule = make(Seldom), AtOwnPace()
    model.compile_iter_fns()
    model.train_iter(0, Silent())
    model.update()
    save_checkpoint(model, rule, tmp_path, MPI.COMM_SELF, model.config, iteration=2, own_iteration=1)
    resumed, _ = load_checkpoint(model, rule, tmp_path, MPI.COMM_SELF, model.config)
    model.cleanup()
    assert (resumed.iteration, resumed.own, model.last_etas()) == (2, 1, [0.01, 0])


def test_another_number_of_objectives_is_said(tmp_path: Path) -> None:
    model, rule = make(), AtOwnPace()
    train(model, 0, 1)
    save_checkpoint(model, rule, tmp_path, MPI.COMM_SELF, model.config, iteration=1)
    arrays, attributes = checkpoint.load(tmp_path / "checkpoint.h5")
    arrays["rule/0/last_eta"] = np.array([0.01, 0.02])
    checkpoint.save(tmp_path / "checkpoint.h5", arrays, attributes)
    with pytest.raises(ConfigError, match="last_eta: expected that of 1 objective, got 2$"):
        load_checkpoint(model, rule, tmp_path, MPI.COMM_SELF, model.config)


def test_parameters_that_no_update_changes_are_saved_too(tmp_path: Path) -> None:
    """They need not be what the seed makes of them: a run may have begun with weights of a file."""
    fixed = {"weights/conv.W", "weights/conv.b"}
    begun, other = (make(Fixed, modelclass="Fixed") for _ in range(2))
    for p in (*begun.fixed, *other.fixed):
        p.set_value(p.get_value() + 0.5)
    train(begun, 0, 3)
    folder, straight = save(begun, tmp_path / "run", 3), train(other, 0, 5)
    resumed = make(Fixed, modelclass="Fixed")
    initial = resumed.state_arrays()
    load(resumed, folder)
    used, _ = trained(folder / "checkpoint.h5", begun.config, MPI.COMM_SELF)
    used.cleanup()
    assert all(np.array_equal(used.state_arrays()[name], initial[name] + np.float32(0.5)) for name in fixed)
    after = train(resumed, 3, 5)
    assert straight.keys() == after.keys()
    assert all(np.array_equal(straight[name], after[name]) for name in straight)

    arrays, attributes = checkpoint.load(folder / "checkpoint.h5")
    rest = {name: array for name, array in arrays.items() if name not in fixed}
    checkpoint.save(folder / "checkpoint.h5", rest, attributes)
    earlier = make(Fixed, modelclass="Fixed")
    load(earlier, folder)
    assert all(np.array_equal(earlier.state_arrays()[name], initial[name]) for name in fixed)
    checkpoint.save(
        folder / "checkpoint.h5", {**arrays, "weights/conv.b": np.zeros(3, "float32")}, attributes
    )
    with pytest.raises(
        ConfigError,
        match=r"array 'weights/conv.b': expected float32 of shape \(8,\), got float32 of shape \(3,\)$",
    ):
        load(make(Fixed, modelclass="Fixed"), folder)


@pytest.mark.parametrize("form", ["v", "u"])
@pytest.mark.parametrize("old", [False, True], ids=["", "of an earlier version"])
def test_the_same_recipe_goes_on_bit_for_bit(
    form: str, old: bool, saved: dict[str, Path], tmp_path: Path
) -> None:
    """Across the end of the warmup and a decay."""
    folder = shutil.copytree(saved[form], tmp_path / "run")
    if old:
        rewrite(folder, as_before)
    straight = train(make(momentum_form=form), 0, 13)
    model = make(momentum_form=form)
    assert load(model, folder) == (5, "", 5, "")
    resumed = train(model, 5, 13)
    assert straight.keys() == resumed.keys()
    assert all(np.array_equal(straight[name], resumed[name]) for name in straight)


def test_a_longer_run_is_that_from_the_start_bit_for_bit_where_its_past_is_the_same(
    saved: dict[str, Path],
) -> None:
    """Warmup and decay are given in epochs, and so lie where they lay."""
    straight = train(make(epochs=24), 0, 13)
    model = make(epochs=24)
    assert load(model, saved["v"]) == (
        5,
        "epochs 12 -> 24",
        5,
        "as in a run of 24 epochs from the start: η was 0.02, and is 0.02 from iteration 6 on",
    )
    resumed = train(model, 5, 13)
    assert all(np.array_equal(straight[name], resumed[name]) for name in straight)


@pytest.mark.parametrize(
    ("before", "epochs", "changes", "rate"),
    [
        # By default the rate decays after a third of the run: twice 12 epochs of 179 updates have not come to that.
        (
            {"decay_epochs": None, "warmup": "none"},
            24,
            "epochs 12 -> 24; warmup_epochs 0.6666666666666666 -> 1.3333333333333333; "
            "decay_epochs 4.0,8.0,10.666666666666666 -> 8.0,16.0,21.333333333333332",
            "not as in a run of 24 epochs from the start, whose η differs from iteration 717 on: "
            "η was 0.002, there 0.02, and is 0.02 from iteration 896 on",
        ),
        # After 895 of 2148 and of 4296 updates, the first of which have η̂.
        (
            {"schedule": "cosine", "warmup": "none", "warmup_epochs": 0},
            24,
            "epochs 12 -> 24",
            "not as in a run of 24 epochs from the start, whose η differs from iteration 2 on: "
            f"η was {0.02 * np.cos(np.pi / 2 * 894 / 2148) ** 2:g}, "
            f"there {0.02 * np.cos(np.pi / 2 * 894 / 4296) ** 2:g}, "
            f"and is {0.02 * np.cos(np.pi / 2 * 895 / 4296) ** 2:g} from iteration 896 on",
        ),
        # Another setting of the schedule's own; the checkpoint is at the shorter run's end.
        (
            {"schedule": "poly", "warmup": "none", "warmup_epochs": 0, "settings": {"schedule.power": 1}},
            5,
            "epochs 12 -> 5",
            "",
        ),
    ],
    ids=["steps that scale", "cosine", "at the end"],
)
def test_what_another_length_means_for_the_rate_is_said(
    before: dict[str, Any], epochs: int, changes: str, rate: str, saved: dict[str, Path], tmp_path: Path
) -> None:
    settings = {"warmup_epochs": None, **before}
    folder = shutil.copytree(saved["v"], tmp_path / "run")
    model = make(**settings)
    model.cleanup()
    recipe = settings_of(model.config, "recipe")
    rewrite(folder, lambda attributes: attributes.update(recipe, iteration=895, epoch=5, position=0))
    found = load(make(**settings, epochs=epochs), folder)
    assert (found.changes, found.rate) == (changes, rate)


def as_before(attributes: dict[str, Any]) -> None:
    """The attributes of a checkpoint as versions wrote it that did not save rate, recipe and digest."""
    attributes["model"] = f"{attributes['modelfile']}.{attributes['modelclass']}"
    kept = {"iteration", "epoch", "position", "model", "data", "sync_type", "seed", "batch_size", "minibatch"}
    kept |= {"epochs", "shuffle", "momentum_form", "scaled", "normalization", "velocities"}
    kept |= {"color_jitter", "lighting"}
    for name in set(attributes) - kept:
        del attributes[name]
    attributes["zero_gamma"] = True


def test_a_recipe_may_change_and_the_line_names_all_of_it(saved: dict[str, Path]) -> None:
    settings: dict[str, Any] = {
        "base_lr": 0.02, "base_batch": 16, "scaling": "none", "warmup": "none", "warmup_epochs": 0,
        "decay_epochs": [1, 2], "decay_factor": 0.5, "momentum": 0.8, "momentum_form": "u", "nesterov": False,
        "weight_decay": 0,
    }  # fmt: skip
    assert load(make(**settings, zero_gamma=False), saved["v"])[:2] == (
        5,
        "base_lr 0.01 -> 0.02; base_batch 4 -> 16; scaling linear -> none; warmup gradual -> none; "
        "warmup_epochs 0.02 -> 0.0; decay_epochs 0.06 -> 1.0,2.0; decay_factor 0.1 -> 0.5; momentum 0.9 -> 0.8; "
        "momentum_form v -> u; nesterov True -> False; weight_decay 0.0001 -> 0.0",
    )


def test_each_setting_of_a_plug_in_that_changes_has_an_entry(tmp_path: Path) -> None:
    kinds = {"optimizer": "adam", "schedule": "poly"}
    model = make(settings={"optimizer.beta2": 0.9, "schedule.power": 2, "optimizer.beta1": 0.8}, **kinds)
    train(model, 0, 1)
    folder = save(model, tmp_path / "run", 1)
    same = make(settings={"optimizer.beta1": 0.8, "optimizer.beta2": 0.9, "schedule.power": 2}, **kinds)
    assert load(same, folder).changes == ""
    other = make(
        settings={"optimizer.beta2": 0.98, "schedule.power": 2, "optimizer.epsilon": 1e-6},
        clip_norm=1,
        **kinds,
    )
    assert load(other, folder).changes == (
        "clip_norm none -> 1.0; optimizer.beta2 0.9 -> 0.98; optimizer.epsilon by default -> 1e-06; "
        "optimizer.beta1 0.8 -> by default"
    )


@pytest.mark.parametrize("settings", [{}, {"schedule": "cosine"}], ids=["the same", "another schedule"])
def test_a_checkpoint_from_before_there_was_a_choice_had_the_default(
    settings: dict[str, Any], saved: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(saved["v"], tmp_path / "run")
    added = [
        name for name in fields_of("run", "recipe") if FIELDS[name].metadata["later"] and name != "settings"
    ]
    rewrite(folder, lambda attributes: [attributes.pop(name) for name in added])
    changes = "schedule steps -> cosine" if settings else ""
    assert load(make(**settings), folder).changes == changes
    with pytest.raises(ValueError, match="optimizer: expected 'adam' as this run has, got 'momentum'"):
        load(make(optimizer="adam"), folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam"}, "optimizer: expected 'adam' as this run has, got 'momentum'"),
        ({"image_size": 24}, "image_size: expected 24 as this run has, got 32"),
        ({"precision": "tf32"}, "precision: expected 'tf32' as this run has, got 'float32'"),
        ({"seed": 4}, "seed: expected 4 as this run has, got 3"),
        ({"scaled": "loss"}, "scaled: expected 'loss' as this run has, got 'rate'"),
        ({"batch_size": 16}, "batch_size: expected 16 as this run has, got 8"),
        ({"accumulation": 2}, "minibatch: expected 16 as this run has, got 8"),
        ({"max_iterations": 4}, "max_iterations: expected at least 5, as iteration 5 is done, got 4"),
    ],
)
def test_another_run_is_refused_by_name(
    settings: dict[str, Any], message: str, saved: dict[str, Path]
) -> None:
    with pytest.raises(ValueError) as caught:
        load(make(**settings), saved["v"])
    assert str(caught.value).endswith(f"checkpoint.h5: {message}")


def test_fewer_epochs_than_are_done_are_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["v"], tmp_path / "run")
    rewrite(folder, lambda attributes: attributes.update(iteration=180))
    with pytest.raises(ValueError, match="epochs: expected at least 2, as iteration 180 is done, got 1$"):
        load(make(epochs=1), folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"iteration": 10_000_000},
            r"iteration: expected a whole number from 0 to 2148, got 10000000",
        ),
        (
            {"position": 4},
            "position: expected 5 after 5 updates, 179 of an epoch, got 4",
        ),
        ({"last_eta": float("nan")}, "last_eta: expected a rate above 0, got nan"),
        ({"last_eta": 0.0}, r"last_eta: expected a rate above 0, got 0\.0"),
        ({"momentum_form": "w"}, "momentum_form: expected 'v' as this run has, got 'w'"),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_refused(
    change: dict[str, Any], message: str, saved: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(saved["v"], tmp_path / "run")
    rewrite(folder, lambda attributes: attributes.update(change))
    with pytest.raises(ValueError, match=f"checkpoint.h5: {message}"):
        load(make(), folder)


def test_other_images_of_the_same_name_are_refused_and_the_same_elsewhere_taken(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copyfile(open_dataset("digits").path, tmp_path / "elsewhere.h5")
    same = make(data=str(copy), image_size=32, epochs=12)
    assert load(same, saved["v"]) == (5, "", 5, "")
    other = make()
    own, other.data.dataset.sha256 = other.data.dataset.sha256, "f" * 64
    with pytest.raises(ValueError) as caught:
        load(other, saved["v"])
    assert str(caught.value).endswith(
        f"checkpoint.h5: data: expected the images of {other.data.dataset.path} (SHA-256 {12 * 'f'}), "
        f"got a run on those of digits (SHA-256 {own[:12]})"
    )


def test_of_an_earlier_version_what_it_has_is_compared(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["v"], tmp_path / "run")
    rewrite(folder, as_before)
    copy = shutil.copyfile(open_dataset("digits").path, tmp_path / "elsewhere.h5")
    for settings, message in (
        (
            {"data": str(copy), "image_size": 32, "epochs": 12},
            "data: expected 'elsewhere.h5' .* got 'digits'",
        ),
        ({"momentum_form": "u"}, "momentum_form: expected 'u' as this run has, got 'v'"),
        ({"epochs": 13}, "epochs: expected 13 as this run has, got 12"),
        ({"modelclass": "Plane"}, "modelclass: expected 'Plane' as this run has, got 'Plain'"),
    ):
        with pytest.raises(ValueError, match=message):
            load(make(**settings), folder)
    rewrite(folder, lambda attributes: attributes.update(iteration=184, epoch=2))
    with pytest.raises(ValueError, match="epoch: expected 1 after 184 updates, 179 of an epoch, got 2"):
        load(make(), folder)


def test_the_role_decides_what_a_resume_refuses_and_what_it_says() -> None:
    model = make(optimizer="adam", settings={"optimizer.beta2": 0.98})
    model.cleanup()
    derived = {"data_sha256", "minibatch", "velocities"}
    assert _identity(model, RULE).keys() - derived == set(fields_of("run"))
    recipe = settings_of(model.config, "recipe")
    assert recipe.keys() - {"optimizer.beta2"} == set(fields_of("recipe")) - {"settings"}
    assert recipe["optimizer.beta2"] == 0.98 and recipe["clip_norm"] == "none"


def test_every_field_has_a_role() -> None:
    assert {item.metadata["role"] for item in FIELDS.values()} == set(ROLES)
    assert sorted(fields_of(*ROLES)) == sorted(FIELDS)
