"""A run's state, from the ranks into one checkpoint and back."""

from pathlib import Path
from typing import Any

from mpi4py import MPI

from theanompi import checkpoint
from theanompi.config import ConfigError, RunConfig, got
from theanompi.model import Model
from theanompi.recorder import CHECKPOINT_FILE


def _identity(model: Any, config: RunConfig) -> dict[str, Any]:
    """What must not change between a checkpoint and its resumption: the minibatches, and what is done with them."""
    assert config.batch_size
    return {
        "model": f"{config.modelfile}.{config.modelclass}",
        "data": Path(config.data).name,
        "sync_type": config.sync_type,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "minibatch": model.schedule.minibatch if isinstance(model, Model) else 0,
        "epochs": model.n_epochs,
        "shuffle": config.shuffle,
        "momentum_form": config.momentum_form,
        "scaled": config.scaled,
        "normalization": config.normalization,
        "zero_gamma": config.zero_gamma,
        # Under avg every rank has one, whatever the minibatch.
        "velocities": model.size if config.sync_type == "avg" else 1,
        "color_jitter": config.color_jitter,
        "lighting": config.lighting,
    }


def save_checkpoint(model: Any, out: Path, comm: MPI.Comm, config: RunConfig, iteration: int) -> None:
    """Write the state after `iteration` updates; a collective call, as each rank has a velocity under ``avg``."""
    arrays = dict(model.state_arrays())
    if config.sync_type == "avg":
        own = {k: v for k, v in arrays.items() if k.startswith("velocity/")}
        everyone = comm.gather(own, root=0) or []
        arrays = {k: v for k, v in arrays.items() if k not in own}
        for rank, velocities in enumerate(everyone):
            arrays |= {f"velocity/{rank}/{k.removeprefix('velocity/')}": v for k, v in velocities.items()}
    if comm.Get_rank() == 0:
        epoch, position = divmod(iteration, model.data.n_batch_train)
        attributes = {
            "iteration": iteration,
            "epoch": epoch,
            "position": position,
            **_identity(model, config),
        }
        checkpoint.save(out / CHECKPOINT_FILE, arrays, attributes)
    comm.Barrier()


def load_checkpoint(model: Any, out: Path, comm: MPI.Comm, config: RunConfig) -> int:
    """Take over the state of the folder's checkpoint; gives the number of updates it has had.

    Every rank reads the file.

    Raises
    ------
    ConfigError
        If the checkpoint belongs to another run: other minibatches, another network or another recipe.
    """
    path = out / CHECKPOINT_FILE
    arrays, attributes = checkpoint.load(path)
    for key, value in _identity(model, config).items():
        if attributes.get(key) != value:
            raise ConfigError(
                f"{path}: {key}: expected {value!r} as this run has, got {got(attributes.get(key))}"
            )
    expected = dict(model.state_arrays())
    if config.sync_type == "avg":
        prefix = f"velocity/{comm.Get_rank()}/"
        arrays = {
            f"velocity/{k.removeprefix(prefix)}" if k.startswith(prefix) else k: v
            for k, v in arrays.items()
            if k.startswith((prefix, "weights/"))
        }
    checkpoint.check(arrays, expected, path)
    per_epoch = model.data.n_batch_train
    iteration = checkpoint.progress(attributes, path, per_epoch, model.n_epochs * per_epoch)
    model.load_state_arrays(arrays, iteration)
    return iteration
