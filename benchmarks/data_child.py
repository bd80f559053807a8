"""What `loader_throughput.py` measures in a process of its own: opening a set, reading it for epochs, packing."""

import argparse
import ctypes
import gc
import resource
import time
from itertools import chain

import common
from processes import resident_mib


def open_set(path: str) -> None:
    """Say how long opening takes, in seconds, and by how much it enlarges the process."""
    from theanompi.data import open_pictures

    before = resident_mib()[0]
    start = time.perf_counter()
    dataset = open_pictures(path)
    seconds = time.perf_counter() - start
    after = resident_mib()[0]
    images = dataset.n_train + dataset.n_val
    common.say(seconds=seconds, images=images, resident_mib=after, growth_mib=after - before)


def read_epochs(path: str, epochs: int, batch_size: int, image_size: int, trim: bool) -> None:
    """Copy every batch of some epochs to the device, as a rank does; say its memory after each, and its loader's.

    With `trim`, the allocator first gives back what is free: memory that a run of a program frees and takes
    again may stay with it or not.
    """
    from theanompi import device
    from theanompi.config import RunConfig, resolve
    from theanompi.data import Loader, Pictures, Sampler, open_pictures
    from theanompi.training.inputs import Feed, Inputs

    device.use("cpu")
    dataset = open_pictures(path)
    sampler = Sampler(dataset.n_train, batch_size, size=1, rank=0, accumulation=1, seed=0)
    pictures, after_each = Pictures(dataset, resolve(RunConfig(image_size=image_size))), []
    with Loader(pictures, batch_size) as loader:
        inputs = Inputs(pictures, batch_size)
        for epoch in range(epochs):
            batches = sum(sampler.own_units(i) for i in range(sampler.iterations_per_epoch))
            feed = Feed(inputs, chain.from_iterable(loader.train(sampler, epoch)))
            for _ in range(batches):
                feed.load()
            if trim:
                gc.collect()
                ctypes.CDLL(None).malloc_trim(0)
            rank, *processes = resident_mib()
            images = batches * batch_size
            after_each.append({"images": images, "rank_mib": rank, "loader_mib": sum(processes)})
    common.say(epochs=after_each)


def pack(words: list[str]) -> None:
    """Run tmpack; say its seconds, and the CPU seconds of this process and of those that it started."""
    from theanompi.data.pack.command import main as tmpack

    start = time.perf_counter()
    code = tmpack(words)
    if code:
        raise SystemExit(code)
    seconds = time.perf_counter() - start
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    common.say(
        seconds=seconds,
        parent_cpu_s=own.ru_utime + own.ru_stime,
        worker_cpu_s=children.ru_utime + children.ru_stime,
    )


def main() -> None:
    """Do one of them; started by `loader_throughput.py`."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("open").add_argument("data")
    epochs = commands.add_parser("epochs")
    epochs.add_argument("data")
    for name in ("--epochs", "--batch-size", "--image-size"):
        epochs.add_argument(name, type=int, required=True)
    epochs.add_argument("--trim", action="store_true")
    commands.add_parser("pack").add_argument("words", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if args.command == "open":
        open_set(args.data)
    elif args.command == "epochs":
        read_epochs(args.data, args.epochs, args.batch_size, args.image_size, args.trim)
    else:
        pack(args.words)


# Packing starts processes by spawn, which import this file again.
if __name__ == "__main__":
    main()
