"""``tmpack``: makes a data set of images that lie in folders, archives or arrays.

The images go, block by block, to worker processes, which read and check them, and come back in their order to
be written. An interrupted run leaves its work files; the same command goes on from there.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from theanompi import cgroup
from theanompi.config import ConfigError, OneLineParser, escaped, got, listed, one_line
from theanompi.data.augment import POLICIES
from theanompi.data.decode import BadImage, as_jpeg, decode, resize_shorter
from theanompi.data.glyphs import TRAIN_GLYPHS, VAL_GLYPHS, Glyphs
from theanompi.data.schema import SPLITS, STORES, Split, Store, open_dataset
from theanompi.data.sources import (
    Arrays,
    Cifar10,
    Cifar100,
    Files,
    Folder,
    Ilsvrc,
    Items,
    KaggleIlsvrc,
    Mnist,
    Npz,
    Source,
    Synthetic,
    printable,
)
from theanompi.data.writer import Block, ChannelSums, Image, Writer, channel_sums, merge
from theanompi.files import reason
from theanompi.output import print_anything

# Of how images become blocks; a change makes unfinished work of before unusable.
LAYOUT = 1
RAW_SIZE = 256
# For each worker process: one in its hands, one waiting for it.
BLOCKS_IN_FLIGHT = 2
# Where no terminal shows the bar, a line at most this often says that the work goes on.
SECONDS_BETWEEN_LINES = 30.0

DESCRIPTION = "Make a data set of images in folders, archives or arrays; look at one; check one."
EPILOG = "An interrupted command continues where it was when it is given again."


class WorkerDied(RuntimeError):
    """A worker process was killed from outside, or by the system when memory ran out.

    Examples
    --------
    >>> str(WorkerDied("killed"))
    'killed'
    """


class Progress:
    """How far the work is: a bar where there is a terminal, else a line now and then, on stderr.

    Parameters
    ----------
    total, done : int
        Images; those done before are not counted in the rate.

    Examples
    --------
    >>> with Progress(10) as progress:
    ...     progress.add(10)
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self._total, self._before, self._done = total, done, done
        self._start = self._last = monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                initial=done,
                file=sys.stderr,
                ncols=(os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1,
                # Else tqdm asks the terminal, and shows no bar on one that does not know its size.
                nrows=20,
                leave=False,
                smoothing=0.05,
                unit=" images",
                bar_format="{bar}| {n_fmt}/{total_fmt} images, {rate_noinv_fmt}, {remaining} left",
            )

    def add(self, n: int) -> None:
        """Count `n` more images.

        Examples
        --------
        >>> with Progress(10) as progress:
        ...     progress.add(5)
        """
        self._done += n
        if self._bar is not None:
            self._bar.update(n)
        elif monotonic() - self._last > SECONDS_BETWEEN_LINES:
            self._last = monotonic()
            rate = (self._done - self._before) / (self._last - self._start)
            left = tqdm.format_interval((self._total - self._done) / rate)
            say(f"{self._done:,} of {self._total:,} images, {rate:,.0f} images/s, {left} left")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def say(line: str) -> None:
    """Tell the user, on stderr, what is being done.

    Examples
    --------
    >>> say("reading")
    """
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

    Examples
    --------
    >>> items = Synthetic(classes=2, train=5, val=2, size=4).items("train", 0, 3)
    >>> block = pack_block("train", items, "raw", None)
    >>> [(image.name, image.label, len(image.data)) for image in block.images]
    [('0', 0, 48), ('1', 1, 48), ('2', 0, 48)]
    """
    if isinstance(items, Arrays):
        return _pixel_block(items)
    assert isinstance(items, Files)
    images, left_out, sums = [], [], ChannelSums(0, (), ())
    for name, label, content in zip(
        map(printable, items.names), items.labels.tolist(), items.contents(), strict=True
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
            left_out.append(f"{split}/{name}: {error}")
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


def _end_with_parent() -> None:
    """End this worker when its parent does, even if that was killed: nobody else would tell it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _Interrupts:
    """Keeps Ctrl-C until it is asked for, while there are workers.

    Raised wherever Python happens to be, within the pool as well, `KeyboardInterrupt` could leave one of its locks
    held, or a worker that nobody knows: then the pool would wait for ever. Workers are started with the signal blocked
    and never see it; that alone does not keep it from this process, whose other threads may take it.
    """

    def __init__(self) -> None:
        self._came = False
        self._before: Any = None

    def _keep(self, *_: object) -> None:
        self._came = True

    def __enter__(self) -> Self:
        # In another thread than the main one no signal is heard; and who ignores it goes on ignoring it.
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        ):
            self._before = signal.signal(signal.SIGINT, self._keep)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if Ctrl-C came."""
        if self._came:
            raise KeyboardInterrupt

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Have processes started within never see Ctrl-C; they end when their parent says so."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _tasks(source: Source, writer: Writer) -> Iterator[tuple[Split, int, int]]:
    step = source.block_images
    for split in SPLITS:
        n = len(source.labels[split])
        for start in range(writer.blocks[split] * step, n, step):
            yield split, start, min(start + step, n)


def _pack_blocks(
    source: Source, writer: Writer, store: Store, size: int | None, processes: int, progress: Progress
) -> None:
    """Send what is not written yet through the workers, and write it in its order."""
    pending: deque[tuple[Split, int, Future[Block]]] = deque()
    most = 0  # workers at once

    def write_first(interrupts: _Interrupts) -> None:
        nonlocal most
        split, n, future = pending.popleft()
        while not wait([future], timeout=1).done:
            interrupts.check()
            # A worker killed while it sends leaves half a message, behind which the pool would wait for ever.
            alive = multiprocessing.active_children()
            most = max(most, len(alive))
            if len(alive) < most:
                for worker in alive:
                    worker.kill()
                pool._result_queue._writer.close()  # type: ignore[attr-defined]  # the last: reading ends there
        writer.append(split, future.result())
        progress.add(n)

    with _Interrupts() as interrupts:
        pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _end_with_parent)
        try:
            for split, start, stop in _tasks(source, writer):
                if len(pending) == BLOCKS_IN_FLIGHT * processes:
                    write_first(interrupts)
                interrupts.check()
                items = source.items(split, start, stop)
                with interrupts.blocked():
                    future = pool.submit(pack_block, split, items, store, size)
                pending.append((split, stop - start, future))
                most = max(most, len(multiprocessing.active_children()))
            while pending:
                write_first(interrupts)
                interrupts.check()
        except BrokenProcessPool:
            raise WorkerDied(
                f"{writer.path}: a worker process was killed, perhaps for want of memory; what is packed is kept: "
                "run the same command again"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


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
        Worker processes; by default one for each core that this process may use (`theanompi.cgroup.cores`).

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
        If a worker process was killed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source = Synthetic(classes=2, train=6, val=2, size=4)
    ...     pack(source, f"{folder}/small.h5", processes=1)  # doctest: +ELLIPSIS
    /.../small.h5: 6 training and 2 validation images in 2 classes, ... kB
    mean ..., std ...
    packed 8 images in ... s: ... images/s, ... ms per image and core
    True
    """
    start = monotonic()
    cores = processes or cgroup.cores()
    augmentation = augmentation or source.augmentation
    name = name or source.name
    for note in source.notes:
        say(note)
    empty = {split: _empty_classes(source.labels[split], source.class_names) for split in SPLITS}
    for split, names in empty.items():
        if names:
            say(
                f"{split} has no images of {len(names)} of {len(source.class_names)} classes: {listed(names)}"
            )
    # Whether bad files are left out is not part of it: with --skip-bad, a run that found some is complete.
    identity = {
        "layout": LAYOUT,
        "source": type(source).__name__,
        "images": source.fingerprint,
        "store": store,
        "size": size,
        "name": name,
        "augmentation": augmentation,
        "block": source.block_images,
    }
    counts = {split: len(source.labels[split]) for split in SPLITS}
    with Writer(output, identity, overwrite) as writer:
        before = sum(min(writer.blocks[split] * source.block_images, counts[split]) for split in SPLITS)
        total = sum(counts.values())
        if before:
            say(f"{output}: continuing after {before:,} of {total:,} images")
        blocks = sum(-(-n // source.block_images) for n in counts.values())
        with Progress(total, before) as progress:
            _pack_blocks(source, writer, store, size, min(cores, blocks), progress)
        if writer.left_out and not skip_bad:
            for line in writer.left_out:
                print(escaped(line), file=sys.stderr)
            say(
                f"{output}: expected only images, got {len(writer.left_out)} files of {total:,} that show none "
                "(above); mend them, or leave them out: the same command with --skip-bad"
            )
            return False
        left_out = list(writer.left_out)
        writer.finish(
            name=name,
            description=source.description,
            source=source.source,
            licence=source.licence,
            class_names=source.class_names,
            store=store,
            channels=source.channels,
            augmentation=augmentation,
        )
    _print_written(output, left_out, empty)
    seconds, packed = monotonic() - start, total - before
    if packed:
        print(
            f"packed {packed:,} images in {seconds:,.1f} s: {packed / seconds:,.0f} images/s, "
            f"{1000 * seconds * min(cores, blocks) / packed:.3g} ms per image and core"
        )
    return True


def _empty_classes(labels: NDArray[np.int64], class_names: Sequence[str]) -> list[str]:
    counts = np.bincount(labels, minlength=len(class_names))
    return [class_names[label] for label in np.flatnonzero(counts == 0).tolist()]


def _bytes(n: float) -> str:
    unit = 0
    while n >= 999.5 and unit < 4:
        n, unit = n / 1000, unit + 1
    return f"{n:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[unit]}"


def _numbers(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _print_written(
    path: str | os.PathLike[str], left_out: list[str], empty: Mapping[Split, list[str]]
) -> None:
    """Print what is in a file; of the classes that are empty in it, those that were not so before."""
    with open_dataset(path, check_images=False) as dataset:
        for split in SPLITS:
            names = _empty_classes(dataset.labels(split), dataset.class_names)
            names = sorted(set(names) - set(empty[split]))
            if names:
                say(f"--skip-bad left no image in {split} of {len(names)} classes: {listed(names)}")
        print(
            f"{path}: {dataset.n_train:,} training and {dataset.n_val:,} validation images in "
            f"{dataset.n_classes:,} classes, {_bytes(Path(path).stat().st_size)}"
        )
        print(f"mean {_numbers(dataset.mean)}, std {_numbers(dataset.std)}")
    if left_out:
        print(f"left out {len(left_out):,} files that show no picture:")
        for line in left_out:
            print(f"  {escaped(line)}")


def _shortened(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def info(path: str | os.PathLike[str]) -> None:
    """Print what a data set says of itself.

    Parameters
    ----------
    path : path
        Or the name of a packaged one.

    Raises
    ------
    ConfigError, ValueError
        If it cannot be opened, or is not a data set.

    Examples
    --------
    >>> info("digits")  # doctest: +ELLIPSIS
    file          ...digits.h5, ...
    name          digits
    ...
    """
    with open_dataset(path, check_images=False) as dataset:
        with h5py.File(dataset.path) as file:
            sha256, version = file.attrs["sha256"], file.attrs["version"]
        rows = [
            ("file", f"{dataset.path}, {_bytes(dataset.path.stat().st_size)}, format version {version}"),
            ("name", dataset.name),
            ("description", dataset.description),
            ("source", dataset.source),
            ("licence", dataset.licence),
            ("store", dataset.store),
            ("channels", str(dataset.channels)),
            ("augmentation", dataset.augmentation),
            ("classes", f"{dataset.n_classes:,}: {_shortened(dataset.class_names)}"),
            ("mean", _numbers(dataset.mean)),
            ("std", _numbers(dataset.std)),
        ]
        for split, title in zip(SPLITS, ("training", "validation"), strict=True):
            lengths = dataset.locate(split, np.arange(dataset.count(split)))[1]
            rows.append((title, f"{dataset.count(split):,} images, {_bytes(int(lengths.sum()))}"))
            heights, widths = dataset.sizes(split).T
            for what, values, unit in (("height", heights, " pixels"), ("width", widths, " pixels")):
                low, middle, high = np.min(values), np.median(values), np.max(values)
                rows.append((f"  {what}", f"{low} – {middle:.0f} – {high}{unit} (least, median, most)"))
            low, middle, high = (float(f(lengths)) for f in (np.min, np.median, np.max))
            rows.append(("  size", f"{_bytes(low)} – {_bytes(middle)} – {_bytes(high)}"))
        rows.append(("left out", f"{len(dataset.left_out):,} files"))
        rows += [("", line) for line in dataset.left_out]
        rows.append(("index SHA-256", sha256))
    for title, text in rows:
        print(f"{title:<13} {escaped(text)}")


def verify(path: str | os.PathLike[str]) -> bool:
    """Read every image of a data set, compare it with its checksum, and print the names of the bad ones.

    Parameters
    ----------
    path : path

    Returns
    -------
    bool
        Whether all are good.

    Raises
    ------
    ConfigError, ValueError
        If it cannot be opened, or is not a data set.

    Examples
    --------
    >>> import tempfile, contextlib, io
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/small.h5"
    ...     with contextlib.redirect_stdout(io.StringIO()):
    ...         done = pack(Synthetic(classes=2, train=6, val=2, size=4), path, processes=1)
    ...     verify(path)  # doctest: +ELLIPSIS
    /.../small.h5: all 8 images are as they were packed
    True
    """
    bad = []
    with open_dataset(path, check_images=False) as dataset:
        total = dataset.n_train + dataset.n_val
        with Progress(total) as progress:
            for split, i, wrong in dataset.verify():
                if wrong:
                    bad.append(f"{split}/{dataset.image_name(split, i)}: image {i} of {split}: {wrong}")
                progress.add(1)
    if not bad:
        print(f"{path}: all {total:,} images are as they were packed")
        return True
    for line in bad:
        print(escaped(line), file=sys.stderr)
    say(f"{path}: expected {total:,} images as they were packed, got {len(bad):,} damaged ones (above)")
    return False


def _number(least: int) -> Callable[[str], int]:
    """Read a number for `argparse`, which makes the message of the exception its own."""

    def read(text: str) -> int:
        try:
            if least <= int(text) < 2**63:
                return int(text)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {got(text)}")

    return read


_positive = _number(1)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="tmpack", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *paths: tuple[str, str]) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
        )
        for path, meaning in paths:
            sub.add_argument(path, metavar=path.upper(), help=meaning)
        return sub

    packing = [
        command(
            "folder",
            "pack class folders",
            ("train_dir", "a folder of class folders"),
            ("val_dir", "another, of the same classes"),
        ),
        command(
            "ilsvrc",
            "pack ImageNet: its archives, without unpacking them on the disk, or Kaggle's folder",
            ("train_tar", "ILSVRC2012_img_train.tar; or the folder that holds Kaggle's ILSVRC and LOC_*.*"),
        ),
        command(
            "cifar10", "pack CIFAR-10", ("path", "its archive, python or binary version, or the folder in it")
        ),
        command(
            "cifar100",
            "pack CIFAR-100",
            ("path", "its archive, python or binary version, or the folder in it"),
        ),
        command("mnist", "pack MNIST or EMNIST", ("path", "the folder with its four files")),
        command(
            "arrays",
            "pack arrays",
            ("path", "an .npz file: train_images, train_labels, val_images, val_labels"),
        ),
        command("glyphs", "draw letters and digits, the task of the small experiments"),
        command("synthetic", "generate images that can be learnt"),
    ]
    for option, number, meaning in (
        ("train", TRAIN_GLYPHS, "training images"),
        ("val", VAL_GLYPHS, "validation images"),
    ):
        packing[-2].add_argument(
            f"--{option}",
            type=_positive,
            default=number,
            metavar="N",
            help=f"number of {meaning} (default: {number})",
        )
    packing[-2].add_argument(
        "--seed", type=_number(0), default=0, metavar="N", help="of all that is random (default: 0)"
    )
    for path, meaning in (
        ("val_tar", "ILSVRC2012_img_val.tar"),
        ("devkit_tar", "ILSVRC2012_devkit_t12.tar.gz"),
    ):
        packing[1].add_argument(path, metavar=path.upper(), nargs="?", help=meaning)
    packing[4].add_argument(
        "--set", metavar="NAME", help="which of several sets in the folder, such as emnist-letters"
    )
    for sub in packing[4:6]:
        sub.add_argument(
            "--renumber",
            action="store_true",
            help="labels that do not count from 0: number them in their order",
        )
    for sub in packing[:2]:
        sub.add_argument(
            "--store", choices=STORES, default="jpeg", help="the files' own bytes, or pixels (default: jpeg)"
        )
        sub.add_argument(
            "--size", type=_positive, help=f"for raw: pixels of the shorter side (default: {RAW_SIZE})"
        )
        sub.add_argument("--skip-bad", action="store_true", help="leave out, and list, what shows no picture")
    for option, meaning in (
        ("classes", "classes"),
        ("train", "training images"),
        ("val", "validation images"),
    ):
        packing[-1].add_argument(
            f"--{option}", type=_positive, required=True, metavar="N", help=f"number of {meaning}"
        )
    packing[-1].add_argument(
        "--size", type=_positive, required=True, metavar="S", help="height and width in pixels"
    )
    packing[-1].add_argument("--channels", type=_positive, default=3, metavar="N", help="(default: 3)")
    packing[-1].add_argument(
        "--seed", type=_number(0), default=0, metavar="N", help="of all that is random (default: 0)"
    )
    for sub in packing:
        sub.add_argument("-o", "--output", required=True, metavar="OUT.h5", help="the file to write")
        sub.add_argument("--overwrite", action="store_true", help="replace a file of that name")
        sub.add_argument(
            "--augmentation", choices=POLICIES, help="in training (default: what suits the source)"
        )
        sub.add_argument("--name", help="of the data set (default: the source's)")
        sub.add_argument(
            "--processes", type=_positive, metavar="N", help="worker processes (default: one for each core)"
        )
    command("info", "print what a data set says of itself", ("file", "a data set"))
    command("verify", "compare every image of a data set with its checksum", ("file", "a data set"))
    return parser


def _source(args: argparse.Namespace) -> Source:
    if args.command == "glyphs":
        return Glyphs(args.train, args.val, args.seed)
    if args.command == "synthetic":
        return Synthetic(args.classes, args.train, args.val, args.size, args.channels, args.seed)
    if args.command == "folder":
        say(f"listing the images in {args.train_dir} and {args.val_dir}")
        return Folder(args.train_dir, args.val_dir)
    if args.command == "ilsvrc":
        if args.val_tar is None:
            if os.path.isfile(args.train_tar):
                raise ConfigError(
                    f"{args.train_tar}: expected Kaggle's folder, or VAL_TAR and DEVKIT_TAR after it, got one file"
                )
            say(f"listing the images in {args.train_tar}")
            return KaggleIlsvrc(args.train_tar)
        if args.devkit_tar is None:
            raise ConfigError("ilsvrc: expected TRAIN_TAR, VAL_TAR and DEVKIT_TAR, got no third path")
        say(f"listing the images in {args.train_tar} and {args.val_tar}")
        return Ilsvrc(args.train_tar, args.val_tar, args.devkit_tar)
    if args.command == "mnist":
        return Mnist(args.path, args.set, args.renumber)
    if args.command == "arrays":
        return Npz(args.path, args.renumber)
    return Cifar10(args.path) if args.command == "cifar10" else Cifar100(args.path)


def _run(args: argparse.Namespace) -> bool:
    if args.command == "info":
        info(args.file)
        return True
    if args.command == "verify":
        return verify(args.file)
    options = {key: getattr(args, key) for key in ("overwrite", "augmentation", "name", "processes")}
    if args.command in ("folder", "ilsvrc"):
        if args.store == "jpeg" and args.size is not None:
            raise ConfigError(f"--size: expected it only with --store raw, got {args.size} with --store jpeg")
        size = (args.size or RAW_SIZE) if args.store == "raw" else None
        options |= {"store": args.store, "size": size, "skip_bad": args.skip_bad}
    return pack(_source(args), args.output, **options)


def main(arguments: list[str] | None = None) -> int:
    """Run ``tmpack``.

    Parameters
    ----------
    arguments : list of str, optional
        By default those of this process.

    Returns
    -------
    int
        0 when all went well, 1 when not, 130 after Ctrl-C; 2 (by `SystemExit`) for wrong options.

    Examples
    --------
    >>> main(["info", "digits"])  # doctest: +ELLIPSIS
    file          ...digits.h5, ...
    ...
    0
    """
    print_anything()
    args = _parser().parse_args(arguments)
    try:
        return 0 if _run(args) else 1
    except KeyboardInterrupt:
        packs = args.command not in ("info", "verify")
        say("interrupted" + ("; what is packed is kept: the same command continues" if packs else ""))
        return 130
    except (ValueError, WorkerDied) as error:
        say(str(error))
    except MemoryError:
        say(
            f"{args.command}: expected more memory, got none; what is packed is kept: fewer --processes take less"
        )
    except OSError as error:
        # A disk that is full has no name.
        where = error.filename or getattr(args, "output", args.command)
        say(f"{where}: {reason(error)}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
