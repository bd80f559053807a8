"""A folder with one folder of pictures for each class."""

import os
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from theanompi.config import ConfigError
from theanompi.data.pictures.decode import BadImage
from theanompi.data.sources.base import (
    AGAIN,
    HIDDEN_FILES,
    IMAGE_ENDINGS,
    LOOSE,
    OF_ONE_FILE,
    Files,
    Ignored,
    Items,
    Labels,
    Source,
    cause,
    fingerprint,
    is_hidden,
    printable,
    read_regular,
)
from theanompi.data.store.schema import Split

Item = TypeVar("Item")


def _contents(folder: Path, names: list[str]) -> Iterator[bytes | BadImage]:
    for name in names:
        try:
            yield read_regular(os.path.join(folder, name))
        except BadImage as error:
            yield error


class FolderSource(Source):
    """Images that are files in folders, one folder for each split."""

    augmentation = "imagenet"
    _roots: dict[Split, Path]
    _names: dict[Split, list[str]]

    def items(self, split: Split, start: int, stop: int) -> Items:
        names = self._names[split][start:stop]
        return Files(names, self.labels[split][start:stop], partial(_contents, self._roots[split], names))

    def _identify(self) -> None:
        """Say what tells the classes, and each image, from others."""
        self.fingerprint = fingerprint((name,) for name in self.class_names)
        self.stamps = {
            split: [
                int(fingerprint([(name, label, *_size_and_time(root / name))])[:15], 16)
                for name, label in zip(self._names[split], self.labels[split].tolist(), strict=True)
            ]
            for split, root in self._roots.items()
        }


class Folder(FolderSource):
    """Class folders, one for training and one for validation: the layout that every ImageNet user has.

    The sorted names of the class folders in `train` are the classes; how the system spells accents (NFC or NFD) does
    not matter. Folders within them are searched too, links to folders included, but each folder once: it belongs to
    the class in which it lies, and a link to one above it or to another class has nothing new. Files that do not end
    like an image, hidden files and folders, and what systems keep for themselves are not looked at; `notes` counts
    them. `val` may lack images of some classes.

    Raises
    ------
    ConfigError
        If a folder is missing, has no class folders, one of them in `train` has no images or is a link to another
        one, two have the same name but for its spelling, or `val` has a class that `train` lacks, or no images.
    """

    description = "Images from class folders."

    def __init__(self, train: str | os.PathLike[str], val: str | os.PathLike[str]) -> None:
        self._roots = {"train": Path(train), "val": Path(val)}
        self._names, self.labels = {}, {}
        # Not by `Path.resolve`, which older Pythons end at a link to itself.
        self.name = Path(os.path.realpath(train)).parent.name or "folder"
        self.source = f"the folders {printable(Path(train).name)} and {printable(Path(val).name)}"
        ignored = Ignored()
        folders = {split: class_folders(root, ignored) for split, root in self._roots.items()}
        classes = list(folders["train"])
        check_known(folders["val"], folders["train"], val, train)
        self.class_names = [printable(name) for name in classes]
        starts = starting_folders(
            self._roots, {split: list(found.values()) for split, found in folders.items()}
        )
        for split, root in self._roots.items():
            files = class_files(root, list(folders[split].values()), starts, ignored)
            of_class = [files.get(folders[split].get(name, ""), []) for name in classes]
            if split == "train":
                check_not_empty(root, files)
            elif not any(of_class):
                raise ConfigError(f"{root}: expected images in its class folders, got none")
            self._names[split], self.labels[split] = flattened(of_class)
        self._identify()
        self.notes = ignored.notes()


def flattened(of_class: Sequence[Sequence[Item]]) -> tuple[list[Item], Labels]:
    """What each class has, one after another, and the labels."""
    labels = np.repeat(np.arange(len(of_class)), [len(found) for found in of_class])
    return [item for found in of_class for item in found], labels


def check_known(
    val: Iterable[str], train: Iterable[str], where: str | os.PathLike[str], of: str | os.PathLike[str]
) -> None:
    """Refuse classes of val that train lacks."""
    known = set(train)
    unknown = [name for name in val if name not in known]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ConfigError(f"{where}: expected only classes of {of}, got {printable(unknown[0])!r}{more}")


def check_not_empty(root: Path, files: Mapping[str, list[str]], noun: str = "images") -> None:
    """Refuse a class without images."""
    for name, found in files.items():
        if not found:
            raise ConfigError(f"{root / name}: expected {noun} of its class, got none")


def starting_folders(roots: Mapping[Split, Path], folders: Mapping[Split, list[str]]) -> set[tuple[int, int]]:
    """What no folder within a class may be: a class folder, of whichever split, or a folder around them."""
    starts = {
        _identity(folder) for root in roots.values() for folder in (root.resolve(), *root.resolve().parents)
    }
    for split, root in roots.items():
        owners: dict[tuple[int, int], str] = {}
        for name in folders[split]:
            owner = owners.setdefault(_identity(root / name), name)
            if owner != name:
                raise ConfigError(
                    f"{root / name}: expected a folder of its own, got that of class {printable(owner)!r}"
                )
        starts |= set(owners)
    return starts


def class_files(
    root: Path,
    folders: list[str],
    starts: set[tuple[int, int]],
    ignored: Ignored,
    endings: tuple[str, ...] = IMAGE_ENDINGS,
) -> dict[str, list[str]]:
    """List the images, or what else has these endings, below each class folder, sorted; each folder once."""
    found: dict[str, list[str]] = {name: [] for name in folders}
    seen = set(starts)
    todo = deque((name, name) for name in folders)
    # After all others, so that a folder belongs to the class in which it lies.
    links: deque[tuple[str, str]] = deque()
    while todo or links:
        class_name, folder = (todo or links).popleft()
        if folder != class_name:
            identity = _identity(root / folder)
            if identity in seen:
                ignored.add(AGAIN, os.path.join(root, folder))
                continue
            seen.add(identity)
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}"
                if is_hidden(entry.name):
                    ignored.add(HIDDEN_FILES, os.path.join(root, path))
                elif is_folder(entry):
                    (links if entry.is_symlink() else todo).append((class_name, path))
                elif entry.name.lower().endswith(endings):
                    found[class_name].append(path)
                else:
                    ignored.other(entry.name)
    return {name: sorted(files) for name, files in found.items()}


def images_below(folder: str | os.PathLike[str]) -> list[str]:
    """List the images in a folder and below it, each with its path from where `folder` is, sorted.

    They are what `tmpack` would take for images of a class.

    Raises
    ------
    OSError
        If a folder cannot be read.
    """
    root = Path(folder)
    names = class_files(root, ["."], {_identity(root)}, Ignored())["."]
    return [os.path.join(folder, name.removeprefix("./")) for name in names]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for example: that shows when it is read
        return False


def _identity(folder: Path) -> tuple[int, int]:
    """What a folder is, by whatever name: its device and inode."""
    about = folder.stat()
    return about.st_dev, about.st_ino


def _size_and_time(path: Path) -> tuple[int, int]:
    """Size and time of modification of a file, 0 of what cannot be asked: that shows when it is read."""
    try:
        about = path.stat()
    except OSError as error:
        if error.errno not in OF_ONE_FILE:
            raise
        return 0, 0
    return about.st_size, about.st_mtime_ns


def class_folders(root: Path, ignored: Ignored, endings: tuple[str, ...] = IMAGE_ENDINGS) -> dict[str, str]:
    """List the class folders: their names in normal form (NFC), sorted, and in the system's spelling."""
    found: dict[str, str] = {}
    loose = 0
    try:
        with os.scandir(root) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = os.path.join(root, entry.name)
                if is_hidden(entry.name):
                    ignored.add(HIDDEN_FILES, path)
                elif is_folder(entry):
                    name = unicodedata.normalize("NFC", entry.name)
                    other = found.setdefault(name, entry.name)
                    if other != entry.name:
                        raise ConfigError(
                            f"{root}: expected one folder for each class, got {ascii(other)} and {ascii(entry.name)}, "
                            "which are the same name"
                        )
                elif entry.name.lower().endswith(endings):
                    ignored.add(LOOSE, path)
                    loose += 1
                else:
                    ignored.other(entry.name)
    except OSError as error:
        raise ConfigError(f"{root}: expected a folder of class folders, got: {cause(error)}") from None
    if not found:
        raise ConfigError(
            f"{root}: expected a folder of class folders, got no folder in it"
            + (f" but {loose} {ignored.noun}" if loose else "")
            + (
                "; ImageNet as Kaggle has it: tmpack ilsvrc FOLDER"
                if loose and endings == IMAGE_ENDINGS
                else ""
            )
        )
    return dict(sorted(found.items()))
