"""``tmpack``: makes a data set of images that lie in folders, archives or arrays, of other arrays, or of texts.

The images go, block by block, to worker processes, which read and check them, and come back in their order to
be written. An interrupted run leaves its work files; the same command goes on from there. Other arrays and texts are
read and written here; an interrupted run begins anew.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theanompi.config import ConfigError, OneLineParser, counted, escaped, got, shortened
from theanompi.config.files import reason
from theanompi.config.flags import commands
from theanompi.data.pack.packing import Progress, WorkerDied, numbers_in_words, pack, say, size_in_words
from theanompi.data.pack.records import pack_arrays, pack_text
from theanompi.data.pictures.augment import POLICIES
from theanompi.data.sources.arrays import Npz
from theanompi.data.sources.base import Source
from theanompi.data.sources.cifar import Cifar10, Cifar100
from theanompi.data.sources.fields import FieldSource, holds_pictures
from theanompi.data.sources.folders import Folder
from theanompi.data.sources.glyphs import TRAIN_GLYPHS, VAL_GLYPHS, Glyphs
from theanompi.data.sources.ilsvrc import Ilsvrc, KaggleIlsvrc
from theanompi.data.sources.imdb import VOCABULARY_SIZE, imdb
from theanompi.data.sources.mnist import Mnist
from theanompi.data.sources.synthetic import Synthetic
from theanompi.data.sources.texts import LabelledTexts, TextFolder, TextStream
from theanompi.data.store import records, schema
from theanompi.data.store.records import STREAM_BLOCK, TOKENS, ArrayDataset, TokenDataset
from theanompi.data.store.schema import SPLITS, STORES, Dataset, Split, open_dataset
from theanompi.system.output import print_anything, unprinted

RAW_SIZE = 256
TITLES: dict[Split, str] = {"train": "training", "val": "validation"}
# What `info` prints of a text fits a line of 80 characters, with the title.
WIDTH = 66
DESCRIPTION = (
    "Make a data set of images in folders, archives or arrays, other arrays or texts; look at one; check one."
)
EPILOG = (
    "An interrupted command continues where it was when it is given again; of texts, and of arrays that are no images, "
    "it begins anew."
)


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
    """
    with open_dataset(path, check_images=False) as dataset:
        version = schema.VERSION if isinstance(dataset, Dataset) else records.VERSION
        rows = [
            (
                "file",
                f"{dataset.path}, {size_in_words(dataset.path.stat().st_size)}, format version {version}",
            ),
            ("name", dataset.name),
            ("description", dataset.description),
            ("source", dataset.source),
            ("licence", dataset.licence),
        ]
        if isinstance(dataset, Dataset):
            rows += _about_pictures(dataset)
        else:
            rows += _about_arrays(dataset) if isinstance(dataset, ArrayDataset) else _about_tokens(dataset)
        rows.append(("left out", counted(len(dataset.left_out), "file")))
        rows += [("", line) for line in dataset.left_out]
        rows.append(("index SHA-256", dataset.sha256))
    for title, text in rows:
        print(f"{title:<13} {escaped(text)}")


def _classes(dataset: Dataset | ArrayDataset | TokenDataset) -> tuple[str, str]:
    return "classes", f"{dataset.n_classes:,}: {_shortened(dataset.class_names)}"


def _spread(values: NDArray[Any]) -> str:
    return f"{np.min(values):,} – {np.median(values):,.0f} – {np.max(values):,}"


def _about_pictures(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Rows of `info` that only pictures have."""
    yield "store", dataset.store
    yield "channels", str(dataset.channels)
    yield "augmentation", dataset.augmentation
    yield _classes(dataset)
    yield "mean", numbers_in_words(dataset.mean)
    yield "std", numbers_in_words(dataset.std)
    for split, title in TITLES.items():
        lengths = dataset.locate(split, np.arange(dataset.count(split)))[1]
        yield title, f"{counted(dataset.count(split), 'image')}, {size_in_words(int(lengths.sum()))}"
        heights, widths = dataset.sizes(split).T
        for what, values, unit in (("height", heights, " pixels"), ("width", widths, " pixels")):
            low, middle, high = np.min(values), np.median(values), np.max(values)
            yield f"  {what}", f"{low} – {middle:.0f} – {high}{unit} (least, median, most)"
        least, median, most = (float(f(lengths)) for f in (np.min, np.median, np.max))
        yield "  size", f"{size_in_words(least)} – {size_in_words(median)} – {size_in_words(most)}"


def _about_arrays(dataset: ArrayDataset) -> Iterator[tuple[str, str]]:
    """Rows of `info` that only arrays have."""
    width = max(len(name) for name in dataset.fields)
    for i, (name, field) in enumerate(dataset.fields.items()):
        yield "" if i else "fields", f"{name:<{width}}  {field.dtype} {field.shape or 'scalar'}"
    if dataset.n_classes:
        yield _classes(dataset)
    for split, title in TITLES.items():
        yield title, f"{counted(dataset.count(split), 'item')}, {size_in_words(dataset.nbytes(split))}"


def _about_tokens(dataset: TokenDataset) -> Iterator[tuple[str, str]]:
    """Rows of `info` that only tokens have."""
    stream = dataset.kind == "stream"
    yield "kind", "one stream" if stream else "texts with labels"
    yield "tokens", f"{dataset.tokens}, {dataset.dtype.name}"
    vocabulary = dataset.vocabulary
    entries = "" if isinstance(vocabulary, str) else ": " + _shortened([repr(text) for text in vocabulary])
    yield "vocabulary", shortened(f"{dataset.n_tokens:,}{entries}", WIDTH)
    if not stream:
        yield _classes(dataset)
    for split, title in TITLES.items():
        number = "" if stream else f"{counted(dataset.count(split), 'text')}, "
        yield (
            title,
            f"{number}{counted(dataset.length(split), 'token')}, {size_in_words(dataset.nbytes(split))}",
        )
        if not stream:
            yield "  length", f"{_spread(np.diff(dataset.offsets(split)))} tokens (least, median, most)"
    first = dataset.ids("train", 0, min(WIDTH, int(dataset.offsets("train")[1])))
    text = "first tokens" if stream else "first text"
    words = repr(dataset.text(first))
    yield text, words if len(words) <= WIDTH else f"{words[: WIDTH - 2]} …"
    ids = " ".join(map(str, first.tolist()))
    yield "  as ids", ids if len(ids) <= WIDTH else f"{ids[: WIDTH - 2].rpartition(' ')[0]} …"


def verify(path: str | os.PathLike[str]) -> bool:
    """Read everything in a data set, compare it with its checksums, and print the names of what is bad.

    Returns
    -------
    bool
        Whether all is good.

    Raises
    ------
    ConfigError, ValueError
        If it cannot be opened, or is not a data set.
    """
    bad = []
    with open_dataset(path, check_images=False) as dataset:
        total = sum(len(dataset.checksums(split)) for split in SPLITS)
        noun = f"blocks of {STREAM_BLOCK:,} tokens" if dataset.noun == "tokens" else dataset.noun
        with Progress(total, noun=noun) as progress:
            for split, i, wrong in dataset.verify():
                if wrong and isinstance(dataset, Dataset):
                    bad.append(f"{split}/{dataset.image_name(split, i)}: image {i} of {split}: {wrong}")
                elif wrong:
                    bad.append(f"{split}: {dataset.item_name(split, i)}: {wrong}")
                progress.add(1)
    if not bad:
        print(f"{path}: all {total:,} {noun} are as they were packed")
        return True
    for line in bad:
        print(escaped(line), file=sys.stderr)
    say(f"{path}: expected {total:,} {noun} as they were packed, got {len(bad):,} damaged ones (above)")
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


def _share(text: str) -> float:
    try:
        if 0 < float(text) < 1:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {got(text)}")


class _Command(OneLineParser):
    """The parser of one command, which alone knows its flags."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.refuse_unknown(args)
        return super().parse_known_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="tmpack", usage="%(prog)s COMMAND ...", epilog=EPILOG)
    subs = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
        prog="tmpack",
        parser_class=_Command,
        help=argparse.SUPPRESS,
    )
    names: dict[str, str] = {}

    def command(
        name: str, text: str, *paths: tuple[str, str], usage: str | None = None
    ) -> argparse.ArgumentParser:
        names[name] = text
        words = [path.upper() for path, _ in paths] + ["-o OUT.h5 [flags]"]
        sub = subs.add_parser(
            name,
            usage=f"%(prog)s {' '.join(words) if usage is None else usage}",
            description=f"{text[0].upper()}{text[1:]}.",
        )
        for path, meaning in paths:
            sub.add_argument(path, metavar=path.upper(), help=meaning)
        return sub

    def number(
        sub: argparse.ArgumentParser,
        flag: str,
        meaning: str,
        default: int | None = None,
        *,
        least: int = 1,
        required: bool = False,
    ) -> None:
        meaning += "" if default is None else f" (default: {default})"
        read = _number(least)
        sub.add_argument(flag, type=read, default=default, required=required, metavar="N", help=meaning)

    def switch(flag: str, meaning: str, *parsers: argparse.ArgumentParser) -> None:
        for sub in parsers:
            sub.add_argument(flag, action="store_true", help=meaning)

    folder = command(
        "folder",
        "pack class folders",
        ("train_dir", "a folder of class folders"),
        ("val_dir", "another, of the same classes"),
    )
    ilsvrc = command(
        "ilsvrc",
        "pack ImageNet: its archives, without unpacking them on the disk, or Kaggle's folder",
        ("train_tar", "ILSVRC2012_img_train.tar; or the folder that holds Kaggle's ILSVRC and LOC_*.*"),
        usage="TRAIN_TAR [VAL_TAR DEVKIT_TAR] -o OUT.h5 [flags]",
    )
    ilsvrc.add_argument("val_tar", metavar="VAL_TAR", nargs="?", help="ILSVRC2012_img_val.tar")
    ilsvrc.add_argument("devkit_tar", metavar="DEVKIT_TAR", nargs="?", help="ILSVRC2012_devkit_t12.tar.gz")
    for sub in (folder, ilsvrc):
        meaning = "the files' own bytes, or pixels (default: jpeg)"
        sub.add_argument("--store", choices=STORES, default="jpeg", help=meaning)
        number(sub, "--size", f"for raw: pixels of the shorter side (default: {RAW_SIZE})")
    switch("--skip-bad", "leave out, and list, what shows no picture", folder, ilsvrc)

    of_cifar = ("path", "its archive, python or binary version, or the folder in it")
    cifar10 = command("cifar10", "pack CIFAR-10", of_cifar)
    cifar100 = command("cifar100", "pack CIFAR-100", of_cifar)
    mnist = command("mnist", "pack MNIST or EMNIST", ("path", "the folder with its four files"))
    mnist.add_argument(
        "--set", metavar="NAME", help="which of several sets in the folder, such as emnist-letters"
    )
    arrays = command(
        "arrays",
        "pack arrays of any kind; those of labelled images as images",
        (
            "path",
            "an .npz file: train_images, train_labels, val_images, val_labels, uint8, for images; or any arrays "
            "train_NAME and val_NAME, which may be an HDF5 file's train/NAME and val/NAME",
        ),
    )
    switch("--renumber", "labels that do not count from 0: number them in their order", mnist, arrays)

    glyphs = command("glyphs", "draw letters and digits, the task of the small experiments")
    number(glyphs, "--train", "number of training images", TRAIN_GLYPHS)
    number(glyphs, "--val", "number of validation images", VAL_GLYPHS)
    synthetic = command(
        "synthetic",
        "generate images that can be learnt",
        usage="--classes N --train N --val N --size N -o OUT.h5 [flags]",
    )
    for flag, meaning in (
        ("--classes", "number of classes"),
        ("--train", "number of training images"),
        ("--val", "number of validation images"),
        ("--size", "height and width in pixels"),
    ):
        number(synthetic, flag, meaning, required=True)
    number(synthetic, "--channels", "number of channels", 3)
    for sub in (glyphs, synthetic):
        number(sub, "--seed", "of all that is random", 0, least=0)

    text = command(
        "text",
        "pack texts in UTF-8 as tokens, for language models or with classes",
        usage="FILE ... -o OUT.h5 [flags]",
    )
    text.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="training text; or one folder with train/CLASS/*.txt and val or test likewise",
    )
    text.add_argument("--val", metavar="FILE", nargs="+", default=[], help="validation text")
    text.add_argument(
        "--tokens",
        choices=TOKENS,
        default="bytes",
        help="what a token is (default: bytes); a word ends at whitespace",
    )
    meaning = (
        "of characters or words: the N most frequent ones in training, <unk> for the others (default: all)"
    )
    number(text, "--vocabulary-size", meaning)
    reviews = command(
        "imdb",
        "pack IMDB's reviews of films as words",
        ("path", "the folder aclImdb, or Keras's imdb.npz, beside which imdb_word_index.json may lie"),
    )
    meaning = "the N most frequent words in training, <unk> for the others"
    number(reviews, "--vocabulary-size", meaning, VOCABULARY_SIZE)
    switch("--skip-bad", "of a folder: leave out, and list, what is no text", text, reviews)

    packing = (folder, ilsvrc, cifar10, cifar100, mnist, arrays, glyphs, synthetic)
    for sub in (arrays, text):
        sub.add_argument(
            "--val-share",
            type=_share,
            metavar="SHARE",
            help="without a part for validation: take this share, the last one, for it, such as 0.1",
        )
    for sub in (*packing, text, reviews):
        sub.add_argument("-o", "--output", required=True, metavar="OUT.h5", help="the file to write")
        sub.add_argument("--overwrite", action="store_true", help="replace a file of that name")
        sub.add_argument("--name", help="of the data set (default: the source's)")
    for sub in packing:
        sub.add_argument(
            "--augmentation", choices=POLICIES, help="in training (default: what suits the source)"
        )
        number(sub, "--processes", "worker processes (default: one for each core)")
    command("info", "print what a data set says of itself", ("file", "a data set"), usage="FILE")
    command(
        "verify", "compare everything in a data set with its checksums", ("file", "a data set"), usage="FILE"
    )
    parser.description = DESCRIPTION + commands(names)
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


def _text(args: argparse.Namespace) -> TextStream | LabelledTexts:
    if args.command == "imdb":
        return imdb(args.path, args.vocabulary_size)
    options = {"tokens": args.tokens, "vocabulary_size": args.vocabulary_size, "val_share": args.val_share}
    first, *others = args.files
    if os.path.isdir(first):
        if others or args.val:
            raise ConfigError(
                f"text: expected one folder, with train and val in it, or files, got {first} and others"
            )
        return TextFolder(first, **options)
    if args.skip_bad:
        raise ConfigError("--skip-bad: expected it only for a folder of texts, got files")
    return TextStream(args.files, args.val, **options)


def _run(args: argparse.Namespace) -> bool:
    if args.command == "info":
        info(args.file)
        return True
    if args.command == "verify":
        return verify(args.file)
    named = {"overwrite": args.overwrite, "name": args.name}
    if args.command in ("text", "imdb"):
        return pack_text(_text(args), args.output, **named, skip_bad=args.skip_bad)
    if args.command == "arrays":
        if not holds_pictures(args.path):
            if args.augmentation is not None:
                raise ConfigError(f"--augmentation: expected it only for images, got {args.augmentation}")
            return pack_arrays(FieldSource(args.path, args.renumber, args.val_share), args.output, **named)
        if args.val_share is not None:
            raise ConfigError(
                f"--val-share: expected it only for arrays that are no images, got {args.val_share}"
            )
    options = {**named, "augmentation": args.augmentation, "processes": args.processes}
    if args.command in ("folder", "ilsvrc"):
        if args.store == "jpeg" and args.size is not None:
            raise ConfigError(f"--size: expected it only with --store raw, got {args.size} with --store jpeg")
        size = (args.size or RAW_SIZE) if args.store == "raw" else None
        options |= {"store": args.store, "size": size, "skip_bad": args.skip_bad}
    return pack(_source(args), args.output, **options)


def _keeps(args: argparse.Namespace) -> bool:
    """Whether an interrupted command continues where it was: it packs images."""
    if args.command == "arrays":
        return holds_pictures(args.path)
    return args.command not in ("info", "verify", "text", "imdb")


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
    """
    print_anything()
    args = _parser().parse_args(arguments)
    try:
        return unprinted() if _run(args) else 1
    except KeyboardInterrupt:
        say("interrupted" + ("; what is packed is kept: the same command continues" if _keeps(args) else ""))
        return 130
    except (ValueError, WorkerDied) as error:
        say(str(error))
    except MemoryError:
        kept = "; what is packed is kept: fewer --processes take less" if _keeps(args) else ""
        say(f"{args.command}: expected more memory, got none{kept}")
    except OSError as error:
        # A disk that is full has no name.
        where = error.filename or getattr(args, "output", args.command)
        say(f"{where}: {reason(error)}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
