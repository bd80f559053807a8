"""Our contender: ResNet-50 as a run trains it, with loading, augmentation, exchange and update."""

import argparse
import gc
from collections.abc import Callable

import common

from theanompi.worker import nothing_is_garbage

with nothing_is_garbage():  # as a run imports
    import torch
    from mpi4py import MPI

    from theanompi import device
    from theanompi.exchange import get_exchanger
    from theanompi.models.resnet50 import ResNet50


class Unrecorded:
    """A recorder that keeps nothing."""

    def start(self, doing: str = "") -> None:
        """Begin a phase."""

    def end(self, phase: str) -> None:
        """End it."""


def build_step(args: argparse.Namespace) -> Callable[[], object]:
    """One training step of the package.

    Parameters
    ----------
    args : argparse.Namespace
        As parsed by `main`.

    Returns
    -------
    callable
        Load, forward, backward, exchange and update; no arguments.
    """
    world = MPI.COMM_WORLD
    gc.freeze()  # as `theanompi.training.rank.train` does
    device.use(args.device)
    model = ResNet50(
        {
            "data": args.data,
            "image_size": args.image_size,
            "batch_size": args.batch_size,
            "precision": args.precision,
            "ema": args.ema,
            "rank": world.rank,
            "size": world.size,
            "verbose": False,
        }
    )
    exchanger = get_exchanger(args.exchange, world, model.state.gradients)
    model.compile_iter_fns("cdd", [exchanger])
    recorder = Unrecorded()
    done = 0

    def step() -> None:
        nonlocal done
        model.epoch, count = divmod(done, model.data.n_batch_train)
        model.train_iter(count, recorder)
        exchanger.sum()
        model.update()
        done += 1

    return step


def main() -> None:
    """Take part in a benchmark; started by its driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="a data set of the package's own format")
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True, help="images per rank")
    parser.add_argument("--exchange", default="overlap")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "tf32", "bf16"], default="float32")
    parser.add_argument("--ema", type=float, default=0.0, help="decay of the moving average of the weights")
    parser.add_argument("--profile", action="store_true", help="also report the time of each kernel of a GPU")
    args = parser.parse_args()

    def synchronise() -> None:
        if args.device.startswith("cuda"):
            torch.cuda.synchronize(args.device)

    def facts() -> dict[str, float]:
        return {"peak_memory_mib": common.peak_memory_mib(args.device)}

    common.serve(build_step(args), synchronise, MPI.COMM_WORLD.Barrier, facts, profile=args.profile)


if __name__ == "__main__":
    main()
