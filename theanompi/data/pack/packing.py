"""Packing: images go, block by block, to worker processes, which read and check them, and come back to be written."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from theanompi.config import counted, escaped, listed, one_line
from theanompi.data.pictures.decode import BadImage, as_jpeg, decode, resize_shorter
from theanompi.data.sources.base import Arrays, Items, Source, printable
from theanompi.data.store.schema import SPLITS, Split, Store, open_pictures
from theanompi.data.store.writer import Block, ChannelSums, Image, Writer, channel_sums, merge
from theanompi.record.metrics import as_number
from theanompi.record.terminal import bar
from theanompi.system import cgroup

# Of how images become blocks; a change makes unfinished work of before unusable.
LAYOUT = 2
# For each worker process: one in its hands, one waiting for it.
BLOCKS_IN_FLIGHT = 2
# Where no terminal shows the bar, a line at most this often says that the work goes on.
SECONDS_BETWEEN_LINES = 30.0
# With which a worker ends whose import of the user's script would pack there once more; no other part has it.
PACKS_AGAIN = 86


class WorkerDied(RuntimeError):
    """A worker process has ended: by itself, killed from outside, or by the system when memory ran out."""


class Progress:
    """How far the work is: a bar where there is a terminal, else a line now and then, on stderr.

    Parameters
    ----------
    total, done : int
        Images; those done before are not counted in the rate.
    noun : str
        What is counted instead of images.
    """

    def __init__(self, total: int, done: int = 0, noun: str = "images") -> None:
        self._noun = noun
        self._total, self._before, self._done = total, done, done
        self._start = self._last = monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = bar(
                os.get_terminal_size(sys.stderr.fileno()).columns or 80,
                total=total,
                initial=done,
                smoothing=0.05,
                unit=f" {noun}",
                bar_format=f"{{bar}}| {{n_fmt}}/{{total_fmt}} {noun}, {{rate_noinv_fmt}}, {{remaining}} left",
            )

    def add(self, n: int) -> None:
        """Count `n` more images."""
        self._done += n
        if self._bar is not None:
            self._bar.update(n)
        elif monotonic() - self._last > SECONDS_BETWEEN_LINES:
            self._last = monotonic()
            rate = (self._done - self._before) / (self._last - self._start)
            left = tqdm.format_interval((self._total - self._done) / rate)
            say(f"{self._done:,} of {self._total:,} {self._noun}, {rate:,.0f} {self._noun}/s, {left} left")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def say(line: str) -> None:
    """Tell the user, on stderr, what is being done."""
    print(one_line(f"tmpack: {line}"), file=sys.stderr, flush=True)


def pack_block(split: Split, items: Items, store: Store, size: int | None) -> Block:
    """Turn some images into a block; runs in a worker.

    Parameters
    ----------
    split : "train" or "val"
    items : Items
    store : "jpeg" or "raw"
        Files as they are (or converted, if need be), or decoded pixels.
    size : int or None
        For files that are stored raw: the shorter side in pixels.

    Returns
    -------
    Block
        What cannot be decoded is in its list of left-out files.
    """
    if isinstance(items, Arrays):
        return _pixel_block(items)
    images, left_out, sums = [], [], ChannelSums(0, (), ())
    names = map(printable, items.names)
    for i, (name, label, content) in enumerate(
        zip(names, items.labels.tolist(), items.contents(), strict=True)
    ):
        try:
            if isinstance(content, BadImage):
                raise content
            if store == "jpeg":
                data, pixels = as_jpeg(content)
            else:
                assert size is not None
                pixels = resize_shorter(decode(content), size)
                data = pixels.tobytes()
        except BadImage as error:
            left_out.append((i, f"{split}/{name}: {error}"))
            continue
        images.append(Image(name, label, pixels.shape[0], pixels.shape[1], data))
        sums = merge(sums, channel_sums(pixels))
    return Block(images, left_out, sums)


def _pixel_block(items: Arrays) -> Block:
    pixels = items.pixels()
    _, height, width, _ = pixels.shape
    step, data = pixels[0].size, pixels.tobytes()
    images = [
        Image(name, label, height, width, data[i * step : (i + 1) * step])
        for i, (name, label) in enumerate(zip(items.names, items.labels.tolist(), strict=True))
    ]
    return Block(images, [], channel_sums(pixels))


def _work(connection: Connection, store: Store, size: int | None) -> None:
    """Answer each task with its block, or what was raised, until the other side closes the connection or dies."""
    with suppress(EOFError, ConnectionError):
        while True:
            split, items = connection.recv()
            answer: Block | Exception
            try:
                answer = pack_block(split, items, store, size)
            except Exception as error:
                error.add_note(traceback.format_exc())
                answer = error
            connection.send(answer)


def _ask(worker: SpawnProcess, connection: Connection, tasks: SimpleQueue[Any]) -> None:
    """Give a worker one task after another, and hand on its answers, or its status where it has ended.

    In a thread of its own, so that no worker waits while a block is written.
    """
    with connection:
        for task, answers in iter(tasks.get, None):
            try:
                connection.send(task)
                answers.put(connection.recv())
            except (EOFError, OSError):  # in the middle of a message as well
                worker.join(10)  # its connection closes a little before it has a status
                answers.put(worker.exitcode or 0)
                return


@contextmanager
def _workers(processes: int, store: Store, size: int | None) -> Iterator[SimpleQueue[Any]]:
    """Workers on one queue of tasks. They and their sockets have no names: whoever is killed, nothing is left."""
    context, tasks = multiprocessing.get_context("spawn"), SimpleQueue[Any]()
    workers: list[SpawnProcess] = []
    # Ctrl-C goes to all processes of a terminal, but is for this one to hear; the mask is inherited. The tracker, which
    # the first worker would start, takes it away.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        try:
            for _ in range(processes):
                ours, theirs = context.Pipe()
                worker = context.Process(target=_work, args=(theirs, store, size), daemon=True)
                worker.start()
                workers.append(worker)
                theirs.close()
                threading.Thread(target=_ask, args=(worker, ours, tasks), daemon=True).start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield tasks
    finally:
        for worker in workers:
            tasks.put(None)
            worker.kill()
        for worker in workers:
            worker.join()


def _tasks(source: Source, writer: Writer) -> Iterator[tuple[Split, int, int, bool]]:
    """What is left to do: images from one to another of a split, and whether the writer keeps them as a block."""
    step = source.block_images
    for split in SPLITS:
        at, n = writer.done[split], len(source.labels[split])
        kept = [(block.start, block.stop) for block in writer.kept if block.record["split"] == split]
        for start, stop in (*kept, (n, n)):
            for first in range(at, start, step):
                yield split, first, min(first + step, start), False
            if start < stop:
                yield split, start, stop, True
            at = stop


def _pack_blocks(
    source: Source, writer: Writer, store: Store, size: int | None, processes: int, progress: Progress
) -> None:
    """Send what is not written yet through the workers, and write it in its order."""
    pending: deque[tuple[Split, int, int, SimpleQueue[Block | Exception | int] | None]] = deque()

    def write_first() -> None:
        split, start, stop, answers = pending.popleft()
        if answers is None:
            return writer.keep()
        answer = answers.get()
        if isinstance(answer, int):
            raise WorkerDied(f"{writer.path}: {_why_ended(answer)}")
        if isinstance(answer, Exception):
            raise answer
        writer.append(split, answer, source.stamps.get(split, [])[start:stop])
        return progress.add(stop - start)

    todo = list(_tasks(source, writer))
    with _workers(min(processes, sum(not kept for *_, kept in todo)), store, size) as tasks:
        for split, start, stop, kept in todo:
            if len(pending) == BLOCKS_IN_FLIGHT * processes:
                write_first()
            pending.append((split, start, stop, None if kept else SimpleQueue()))
            if not kept:
                tasks.put(((split, source.items(split, start, stop)), pending[-1][3]))
        while pending:
            write_first()


def _why_ended(status: int) -> str:
    """What to say where a worker has ended."""
    if status == PACKS_AGAIN:
        return (
            "expected a script that packs only where it is run, as each worker process imports it, got one that packs "
            'there too; remedy: its call of pack under if __name__ == "__main__":'
        )
    if status > 0:
        return f"a worker process has ended with status {status}, as what it printed says; what is packed is kept"
    return "a worker process was killed, perhaps for want of memory; what is packed is kept: run the same command again"


def pack(
    source: Source,
    output: str | os.PathLike[str],
    *,
    store: Store = "raw",
    size: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    augmentation: str | None = None,
    name: str | None = None,
    processes: int | None = None,
) -> bool:
    """Pack a source into a file, and print what was written.

    Parameters
    ----------
    source : Source
    output : path
        The file, which appears when it is whole.
    store : "jpeg" or "raw"
        Files as they are, or pixels; the latter for sources that are pixels.
    size : int, optional
        Shorter side in pixels of files that are stored raw.
    skip_bad : bool
        Leave out files that show no picture, and list them in the data set.
    overwrite : bool
        Replace a file of that name.
    augmentation, name : str, optional
        Otherwise the source's.
    processes : int, optional
        Worker processes; by default one for each core that this process may use (`theanompi.system.cgroup.cores`).

    Returns
    -------
    bool
        False, when files show no picture and are not to be left out: they are listed on stderr, there is no
        output, and what was packed is kept.

    Raises
    ------
    ConfigError
        If `output` is there already, cannot be written, or has work files of something else.
    ValueError, OSError
        If a file cannot be read, or the output not written.
    WorkerDied
        If a worker process has ended: it was killed, or could not import the script that packs, which it does as it
        starts. A script therefore has the call under ``if __name__ == "__main__":``.

    Examples
    --------
    >>> from theanompi.data.sources.synthetic import Synthetic
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source = Synthetic(classes=2, train=6, val=2, size=4)
    ...     pack(source, f"{folder}/small.h5", processes=1)  # doctest: +ELLIPSIS
    /.../small.h5: 6 training and 2 validation images in 2 classes, ... kB
    mean ..., std ...
    packed 8 images in ... s: ... images/s, ... ms per image and core
    True
    """
    # In a worker that still imports the script of which it is a worker.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(PACKS_AGAIN)
    start = monotonic()
    cores = processes or cgroup.cores()
    augmentation = augmentation or source.augmentation
    name = name or source.name
    for note in source.notes:
        say(note)
    empty = say_empty_classes(source.labels, source.class_names)
    # Whether bad files are left out is not part of it: with --skip-bad, a run that found some is complete.
    identity = {
        "layout": LAYOUT,
        "source": type(source).__name__,
        "images": source.fingerprint,
        "store": store,
        "size": size,
        "name": name,
        "augmentation": augmentation,
    }
    counts = {split: len(source.labels[split]) for split in SPLITS}
    # Without --skip-bad what showed no picture is tried again: it may have been mended where nothing tells it.
    with Writer(output, identity, overwrite, source.stamps, retry=not skip_bad) as writer:
        before = sum(writer.done.values()) + sum(kept.stop - kept.start for kept in writer.kept)
        total = sum(counts.values())
        if writer.changed:
            say(
                f"{output}: keeping {before:,} of {total:,} images; what is new, or showed no picture, is packed with "
                "what lies around it"
            )
        elif before:
            say(f"{output}: continuing after {before:,} of {total:,} images")
        blocks = sum(-(-n // source.block_images) for n in counts.values())
        with Progress(total, before) as progress:
            _pack_blocks(source, writer, store, size, min(cores, blocks), progress)
        if writer.left_out and not skip_bad:
            verb = "shows" if len(writer.left_out) == 1 else "show"
            say_bad(output, writer.left_out, f"images, got {{}} of {total:,} that {verb}")
            return False
        left_out = list(writer.left_out)
        writer.finish(**about(source, name), store=store, channels=source.channels, augmentation=augmentation)
    _print_written(output, left_out, empty)
    seconds, packed = monotonic() - start, total - before
    if packed:
        print(
            f"packed {counted(packed, 'image')} in {seconds:,.1f} s: {packed / seconds:,.0f} images/s, "
            f"{as_number(1000 * seconds * min(cores, blocks) / packed)} ms per image and core"
        )
    return True


def _empty_classes(labels: NDArray[np.int64], class_names: Sequence[str]) -> list[str]:
    counts = np.bincount(labels, minlength=len(class_names))
    return [class_names[label] for label in np.flatnonzero(counts == 0).tolist()]


def about(source: Any, name: str | None) -> dict[str, Any]:
    """What a data set says of itself, in the order in which a file has it."""
    return {
        "name": name or source.name,
        "description": source.description,
        "source": source.source,
        "licence": source.licence,
        "class_names": source.class_names,
    }


def say_bad(output: str | os.PathLike[str], left_out: Sequence[str], expected: str) -> None:
    """Say which files are in the way of packing, each a line, and what to do."""
    for line in left_out:
        print(escaped(line), file=sys.stderr)
    say(
        f"{output}: expected only {expected.format(counted(len(left_out), 'file'))} none (above); mend them, or leave "
        "them out: the same command with --skip-bad"
    )


def print_left_out(left_out: Sequence[str], one: str, several: str) -> None:
    """Print what is not in a data set that has been packed."""
    if left_out:
        print(f"left out {counted(len(left_out), one, several)}:")
        for line in left_out:
            print(f"  {escaped(line)}")


def say_empty_classes(
    labels: Mapping[Split, NDArray[np.int64]], class_names: Sequence[str], noun: str = "images"
) -> dict[Split, list[str]]:
    """Tell the user which classes have nothing in a split, and return their names."""
    empty = {split: _empty_classes(labels[split], class_names) for split in SPLITS}
    for split, names in empty.items():
        if names:
            say(
                f"{split} has no {noun} of {len(names)} of {counted(len(class_names), 'class', 'classes')}: "
                f"{listed(names)}"
            )
    return empty


def size_in_words(n: float) -> str:
    """Write a number of bytes with three digits and a unit."""
    unit = 0
    while n >= 999.5 and unit < 4:
        n, unit = n / 1000, unit + 1
    return f"{n:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[unit]}"


def numbers_in_words(values: NDArray[np.float64]) -> str:
    """Write numbers with four decimals, one after another."""
    return " ".join(f"{value:.4f}" for value in values)


def _print_written(
    path: str | os.PathLike[str], left_out: list[str], empty: Mapping[Split, list[str]]
) -> None:
    """Print what is in a file; of the classes that are empty in it, those that were not so before."""
    with open_pictures(path, check_images=False) as dataset:
        for split in SPLITS:
            names = _empty_classes(dataset.labels(split), dataset.class_names)
            names = sorted(set(names) - set(empty[split]))
            if names:
                say(
                    f"--skip-bad left no image in {split} of {counted(len(names), 'class', 'classes')}: {listed(names)}"
                )
        print(
            f"{path}: {dataset.n_train:,} training and {counted(dataset.n_val, 'validation image')} in "
            f"{counted(dataset.n_classes, 'class', 'classes')}, {size_in_words(Path(path).stat().st_size)}"
        )
        print(f"mean {numbers_in_words(dataset.mean)}, std {numbers_in_words(dataset.std)}")
    print_left_out(left_out, "file that shows no picture", "files that show no picture")
