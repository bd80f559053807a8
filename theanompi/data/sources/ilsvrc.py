"""ImageNet as it is downloaded: archives of archives, and the development kit."""

import csv
import io
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from theanompi.config import ConfigError, got
from theanompi.data.sources.base import (
    DAMAGE,
    HIDDEN_FILES,
    IMAGE_ENDINGS,
    Files,
    Ignored,
    Items,
    Source,
    cause,
    fingerprint,
    is_hidden,
    is_hidden_member,
    printable,
    stamp_of,
)
from theanompi.data.sources.folders import (
    FolderSource,
    check_not_empty,
    class_files,
    class_folders,
    flattened,
    is_folder,
    starting_folders,
)
from theanompi.data.store.schema import Split


def _contents(path: Path, members: Sequence["_Member"]) -> Iterator[bytes]:
    with open(path, "rb") as file:
        for name, offset, length in members:
            data = os.pread(file.fileno(), length, offset)
            if len(data) != length:
                raise ValueError(f"{path}: {name}: expected {length} bytes at {offset}, got {len(data)}")
            yield data


class _Window(io.RawIOBase):
    """Part of a file as a file of its own: what a tar within a tar is."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        self._descriptor, self._start, self._length, self._position = descriptor, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        )
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(self._length - self._position, 0)
        data = os.pread(self._descriptor, left if size < 0 else min(size, left), self._start + self._position)
        self._position += len(data)
        return data


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


def _members(path: Path, start: int, length: int, ignored: Ignored, name: str = "") -> Iterator[_Member]:
    """List the files in the tar archive at a position of a file; their offsets count from the file's beginning."""
    where = f"{path}: {name}" if name else f"{path}"
    try:
        with (
            open(path, "rb") as file,
            _Window(file.fileno(), start, length) as window,
            tarfile.open(fileobj=window, mode="r:") as archive,
        ):
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else a million would stay in memory
                if member.isfile() and is_hidden_member(member.name):
                    ignored.add(HIDDEN_FILES, f"{where}: {member.name}")
                elif member.isfile():
                    yield _Member(member.name, start + member.offset_data, member.size)
            # Where a header is damaged or cut off, tarfile sees the end.
            window.seek(archive.offset)
            mark = window.read(tarfile.BLOCKSIZE)
    except DAMAGE as error:
        raise ValueError(
            f"{where}: expected a whole tar archive, uncompressed, got: {cause(error)}"
        ) from None
    if mark != bytes(tarfile.BLOCKSIZE):
        raise ValueError(
            f"{where}: expected a whole tar archive, got one without an end mark at byte {archive.offset}"
        )


class _Synset(NamedTuple):
    wnid: str
    words: str
    n_train: int | None


def _devkit(path: Path) -> tuple[dict[int, _Synset], list[int]]:
    """Read the leaf synsets by ILSVRC2012_ID, and the IDs of the validation images in their order."""
    # Here, because every worker process would wait for it.
    import scipy.io

    expected = "ILSVRC2012_devkit_t12.tar.gz"
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(
                    ("/meta.mat", "/ILSVRC2012_validation_ground_truth.txt")
                ):
                    files[member.name.rpartition("/")[2]] = archive.extractfile(member).read()  # type: ignore[union-attr]
    except DAMAGE as error:
        raise ValueError(f"{path}: expected the archive {expected}, got: {cause(error)}") from None
    for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"):
        if name not in files:
            raise ValueError(f"{path}: expected the archive {expected} with data/{name}, got none")
    try:
        table = np.atleast_1d(scipy.io.loadmat(io.BytesIO(files["meta.mat"]), squeeze_me=True)["synsets"])
        has_counts = "num_train_images" in (table.dtype.names or ())
        synsets = {
            int(row["ILSVRC2012_ID"]): _Synset(
                str(row["WNID"]), str(row["words"]), int(row["num_train_images"]) if has_counts else None
            )
            for row in table
            if int(row["num_children"]) == 0
        }
    except Exception as error:  # loadmat lets through whatever the damage makes happen
        raise ValueError(
            f"{path}: meta.mat: expected synsets with ILSVRC2012_ID, WNID, words and num_children, got: "
            f"{type(error).__name__}: {cause(error)}"
        ) from None
    text = files["ILSVRC2012_validation_ground_truth.txt"].decode("ascii", "replace")
    truth = []
    for number, line in enumerate(text.splitlines(), 1):
        # Beyond 4,300 digits Python refuses to make a number of them.
        if not line.strip().isdecimal() or len(line) > 20 or int(line) not in synsets:
            raise ValueError(
                f"{path}: ILSVRC2012_validation_ground_truth.txt, line {number}: expected the ILSVRC2012_ID of one "
                f"of {len(synsets)} classes, got {line[:40]!r}"
            )
        truth.append(int(line))
    return synsets, truth


class _OfIlsvrc:
    """What the two ways to get ImageNet have in common."""

    name = "ILSVRC 2012"
    description = "ImageNet Large Scale Visual Recognition Challenge 2012, classification."
    source = "O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015, https://image-net.org"
    licence = "For non-commercial research and education only: https://image-net.org/download"
    augmentation = "imagenet"


class Ilsvrc(_OfIlsvrc, Source):
    """The archives of the ImageNet Large Scale Visual Recognition Challenge 2012, as they are downloaded.

    Parameters
    ----------
    train : path
        ILSVRC2012_img_train.tar, which holds a tar archive of images for each class.
    val : path
        ILSVRC2012_img_val.tar.
    devkit : path
        ILSVRC2012_devkit_t12.tar.gz, for the names of the classes and the labels of the validation images.

    Raises
    ------
    ConfigError
        If a file is missing.
    ValueError
        If one is damaged, incomplete, or something else.
    """

    def __init__(
        self, train: str | os.PathLike[str], val: str | os.PathLike[str], devkit: str | os.PathLike[str]
    ) -> None:
        self._paths: dict[Split, Path] = {"train": Path(train), "val": Path(val)}
        self._ignored = Ignored()
        stamps = [stamp_of(path) for path in (*self._paths.values(), Path(devkit))]
        synsets, truth = _devkit(Path(devkit))
        wnids = sorted(synset.wnid for synset in synsets.values())
        by_wnid = {synset.wnid: synset for synset in synsets.values()}
        label_of = {wnid: label for label, wnid in enumerate(wnids)}
        self.class_names = [f"{wnid} {by_wnid[wnid].words}" for wnid in wnids]
        files, labels = self._list_train(stamps[0][1], by_wnid, label_of)
        self._members: dict[Split, list[_Member]] = {
            "train": files,
            "val": self._list_val(stamps[1][1], len(truth)),
        }
        self.labels = {
            "train": np.array(labels, np.int64),
            "val": np.array([label_of[synsets[i].wnid] for i in truth], np.int64),
        }
        rows = (
            (name, label, offset, size)
            for split, members in self._members.items()
            for (name, offset, size), label in zip(members, self.labels[split].tolist(), strict=True)
        )
        self.fingerprint = fingerprint(chain(stamps, rows))
        self.notes = [*self.notes, *self._ignored.notes()]

    def _list_train(
        self, size: int, synsets: dict[str, _Synset], label_of: dict[str, int]
    ) -> tuple[list[_Member], list[int]]:
        path = self._paths["train"]
        classes = {}
        for member in _members(path, 0, size, self._ignored):
            wnid, ending = os.path.splitext(os.path.basename(member.name))
            if ending != ".tar" or wnid not in synsets:
                raise ValueError(
                    f"{path}: expected archives of the {len(synsets)} classes, such as {min(synsets)}.tar, "
                    f"got {printable(member.name)}"
                )
            classes[wnid] = member
        missing = sorted(set(synsets) - set(classes))
        if missing:
            raise ValueError(
                f"{path}: expected {len(synsets)} archives of classes, got none for {missing[0]}"
            )
        files: list[_Member] = []
        labels: list[int] = []
        notes = []
        for wnid in sorted(classes):
            _, offset, length = classes[wnid]
            found = sorted(
                file._replace(name=f"{wnid}/{printable(file.name)}")
                for file in _members(path, offset, length, self._ignored, f"{wnid}.tar")
            )
            if not found:
                raise ValueError(f"{path}: {wnid}.tar: expected images, got none")
            expected = synsets[wnid].n_train
            if expected is not None and len(found) != expected:
                # Not an error: a truncated archive is noticed by its missing end mark.
                notes.append(
                    f"{path}: {wnid}.tar has {len(found)} images, {expected} according to the devkit"
                )
            files += found
            labels += [label_of[wnid]] * len(found)
        self.notes = notes
        return files, labels

    def _list_val(self, size: int, n_labels: int) -> list[_Member]:
        path = self._paths["val"]
        files = {}
        for member in _members(path, 0, size, self._ignored):
            name = printable(os.path.basename(member.name))
            match = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", name)
            if not match:
                raise ValueError(f"{path}: expected images such as ILSVRC2012_val_00000001.JPEG, got {name}")
            files[int(match[1])] = member._replace(name=name)
        if sorted(files) != list(range(1, n_labels + 1)):
            numbers = f"{len(files)}" + (f", numbered {min(files)} to {max(files)}" if files else "")
            raise ValueError(
                f"{path}: expected images 1 to {n_labels}, as the devkit's ground truth has lines, got {numbers}"
            )
        return [files[number] for number in sorted(files)]

    def items(self, split: Split, start: int, stop: int) -> Items:
        members = self._members[split][start:stop]
        names = [member.name for member in members]
        return Files(names, self.labels[split][start:stop], partial(_contents, self._paths[split], members))


class KaggleIlsvrc(_OfIlsvrc, FolderSource):
    """The same images in Kaggle's layout, unpacked: class folders for training, one folder for validation.

    Parameters
    ----------
    path : path
        The folder with ``ILSVRC/Data/CLS-LOC`` (its ``train`` has class folders, its ``val`` images),
        ``LOC_synset_mapping.txt``, the names of the classes, and ``LOC_val_solution.csv``, the labels of the
        validation images; or one of the folders down to ``CLS-LOC``, with the two files in it or above it.

    Raises
    ------
    ConfigError
        If a folder or file is missing.
    ValueError
        If a table is damaged, or does not match the folders.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        top = Path(path)
        places = (top / "ILSVRC" / "Data" / "CLS-LOC", top / "Data" / "CLS-LOC", top / "CLS-LOC", top)
        data = next((p for p in places if (p / "train").is_dir() and (p / "val").is_dir()), None)
        if data is None:
            raise ConfigError(
                f"{path}: expected Kaggle's folder with ILSVRC/Data/CLS-LOC/train and val, got none"
            )
        self._roots = {"train": data / "train", "val": data / "val"}
        self._names, self.labels = {}, {}
        # Down to Data, ILSVRC and the folder around it.
        tables = {}
        for name in ("LOC_synset_mapping.txt", "LOC_val_solution.csv"):
            around = (top, data, *data.absolute().parents[:3])
            tables[name] = next((p / name for p in around if (p / name).is_file()), top / name)
        for table in tables.values():
            stamp_of(table)
        words = _mapping(tables["LOC_synset_mapping.txt"])
        label_of = {wnid: label for label, wnid in enumerate(words)}
        self.class_names = [f"{wnid} {text}" for wnid, text in words.items()]
        ignored = Ignored()
        folders = class_folders(self._roots["train"], ignored)
        odd = sorted(set(folders) ^ set(words))
        if odd:
            raise ValueError(
                f"{self._roots['train']}: expected a folder for each class of LOC_synset_mapping.txt and no other, "
                f"got {'one more,' if odd[0] in folders else 'none for'} {printable(odd[0])}"
            )
        starts = starting_folders(self._roots, {"train": list(folders), "val": []})
        files = class_files(self._roots["train"], list(folders), starts, ignored)
        check_not_empty(self._roots["train"], files)
        self._names["train"], self.labels["train"] = flattened(list(files.values()))
        truth = _solution(tables["LOC_val_solution.csv"], label_of)
        names = _flat(self._roots["val"], set(truth), tables["LOC_val_solution.csv"].name, ignored)
        self._names["val"] = names
        self.labels["val"] = np.array([truth[Path(name).stem] for name in names], np.int64)
        self._identify()
        self.notes = ignored.notes()


def _mapping(path: Path) -> dict[str, str]:
    """Read the classes, sorted, and their names: ``n01440764 tench, Tinca tinca``."""
    words = {}
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        wnid, _, text = line.strip().partition(" ")
        if not re.fullmatch(r"n\d+", wnid) or not text or wnid in words:
            raise ValueError(
                f"{path}, line {number}: expected a class of its own, such as 'n01440764 tench', got {got(line, 60)}"
            )
        words[wnid] = text
    if not words:
        raise ValueError(f"{path}: expected the classes, got an empty file")
    return dict(sorted(words.items()))


def _solution(path: Path, label_of: Mapping[str, int]) -> dict[str, int]:
    """Read the labels of the validation images: an image's name, and its class before each of its boxes."""
    truth: dict[str, int] = {}
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        rows = csv.reader(file)
        try:
            for row in rows:
                if row == ["ImageId", "PredictionString"] and rows.line_num == 1:
                    continue
                wnids = set(row[1].split()[::5]) if len(row) == 2 else set()
                if len(wnids) != 1 or not wnids <= label_of.keys() or row[0] in truth:
                    raise ValueError(
                        f"{path}, line {rows.line_num}: expected an image of its own and one of {len(label_of)} "
                        f"classes, got {got(','.join(row), 80)}"
                    )
                truth[row[0]] = label_of[wnids.pop()]
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num}: expected a table, got: {error}") from None
    return truth


def _flat(root: Path, expected: set[str], table: str, ignored: Ignored) -> list[str]:
    """List a folder of images, which a table names without their endings, sorted."""
    names = []
    with os.scandir(root) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                ignored.add(HIDDEN_FILES, os.path.join(root, entry.name))
            elif is_folder(entry):
                raise ValueError(
                    f"{root}: expected images, as Kaggle has them, got a folder {got(entry.name, 60)}; class folders: "
                    "tmpack folder TRAIN VAL"
                )
            elif entry.name.lower().endswith(IMAGE_ENDINGS):
                names.append(entry.name)
            else:
                ignored.other(entry.name)
    stems = Counter(Path(name).stem for name in names)
    for odd, what in (
        (sorted(expected - set(stems)), "no"),
        (sorted(set(stems) - expected), "one more,"),
        ([stem for stem, n in stems.items() if n > 1], "two files for"),
    ):
        if odd:
            raise ValueError(
                f"{root}: expected the {len(expected)} images of {table}, got {what} {printable(odd[0])}"
            )
    return sorted(names)
