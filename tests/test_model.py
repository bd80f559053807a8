"""What a model class may have, and what would look as if it counted and is refused."""

from typing import Any

import pytest
import small_models
from mpi4py import MPI
from small_models import Plain

from theanompi.config import ConfigError, RunConfig, resolve
from theanompi.training.model import refuse_unheeded
from theanompi.training.rank import make_model


def made(namespace: dict[str, Any]) -> Any:
    model = type("Net", (Plain,), namespace)({"verbose": False})
    model.cleanup()
    return model


def constructor(name: str, value: Any) -> Any:
    def init(self: Any, config: Any) -> None:
        Plain.__init__(self, config)
        setattr(self, name, value)

    return init


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("base_lr", "base_lr"),
        ("n_epochs", "epochs"),
        ("batch_size", "batch_size"),
        ("learning_rate", "base_lr"),
    ],
)
def test_settings_on_a_model_class_are_refused_by_name(name: str, setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_unheeded(made({name: 0.3}))
    assert str(caught.value) == (
        f"Net.{name}: expected no such attribute, as a model does not decide this, got one; "
        f"remedy: the setting {setting}"
    )
    with pytest.raises(
        ConfigError, match=f"^Net: expected its constructor to leave {name} alone.* {setting}$"
    ):
        refuse_unheeded(made({"__init__": constructor(name, 3)}))


@pytest.mark.parametrize("name", ["loss", "optimizer"])
def test_methods_that_nothing_calls_are_refused_by_name(name: str) -> None:
    inherited = type("Base", (Plain,), {name: lambda self: None})
    model = type("Net", (inherited,), {})({"verbose": False})
    model.cleanup()
    with pytest.raises(
        ConfigError, match=f"^Base.{name}: expected no such attribute, as nothing here uses it"
    ):
        refuse_unheeded(model)


def test_a_rank_refuses_them_when_it_makes_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_models, "Net", type("Net", (Plain,), {"base_lr": 0.3}), raising=False)
    config = resolve(RunConfig(modelfile="small_models", modelclass="Net", verbose=False))
    with pytest.raises(ConfigError, match=r"^Net\.base_lr: expected no such attribute"):
        make_model(config, MPI.COMM_SELF)


def test_images_that_do_not_fill_a_minibatch_are_the_users_mistake_in_a_constructor_of_the_users_own_too() -> (
    None
):
    own = type("Net", (Plain,), {"__init__": constructor("depth", 3)})
    with pytest.raises(ConfigError, match="^accumulation: expected at most 89 on 1 rank, as the 1437"):
        own({"accumulation": 100, "verbose": False})


def test_everything_else_is_the_users_own() -> None:
    refuse_unheeded(made({"width": 8, "forward": lambda self: None, "__init__": constructor("depth", 3)}))
