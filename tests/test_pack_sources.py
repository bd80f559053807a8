"""Each published format, from archives that are built here, and what is said of damaged ones."""

import contextlib
import gzip
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import archives
from tests.archives import python2_pickle, tar_bytes, write_files, write_tar
from tests.photographs import jpeg
from theanompi.config import ConfigError
from theanompi.data.pictures.augment import POLICIES
from theanompi.data.sources.arrays import Npz
from theanompi.data.sources.base import IMAGE_ENDINGS, Arrays, Files, Source, printable
from theanompi.data.sources.cifar import Cifar10, Cifar100
from theanompi.data.sources.folders import Folder
from theanompi.data.sources.glyphs import Glyphs
from theanompi.data.sources.ilsvrc import Ilsvrc, KaggleIlsvrc
from theanompi.data.sources.mnist import Mnist
from theanompi.data.sources.synthetic import Synthetic
from theanompi.data.store.schema import SPLITS, Split


@contextlib.contextmanager
def says(*parts: str, error: type[ValueError] = ValueError) -> Iterator[None]:
    """The error is one line that holds these parts, in this order."""
    with pytest.raises(error, match=".*".join(map(re.escape, parts))) as caught:
        yield
    assert "\n" not in str(caught.value)


def pixels_of(source: Source, split: Split) -> tuple[NDArray[np.uint8], list[str]]:
    """All pixels and names, asked for in uneven runs that went through a pickle, as on the way to a worker."""
    parts, names = [], []
    n = len(source.labels[split])
    for start in range(0, n, 7):
        items = pickle.loads(pickle.dumps(source.items(split, start, min(start + 7, n))))
        assert isinstance(items, Arrays)
        parts.append(items.pixels())
        names += items.names
        assert items.labels.tolist() == source.labels[split][start : start + 7].tolist()
    return np.concatenate(parts), names


def files_of(source: Source, split: Split) -> dict[str, tuple[int, bytes]]:
    found = {}
    n = len(source.labels[split])
    for start in range(0, n, 3):
        items = pickle.loads(pickle.dumps(source.items(split, start, min(start + 3, n))))
        assert isinstance(items, Files)
        for name, label, data in zip(items.names, items.labels.tolist(), items.contents(), strict=True):
            found[name] = (label, data)
    assert len(found) == n
    return found


# --- Class folders


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    files = {
        "train/dog/b.JPEG": b"1",
        "train/dog/a.png": b"2",
        "train/dog/deep/er/c.jpg": b"3",
        "train/dog/notes.txt": b"-",
        "train/dog/._a.png": b"-",
        "train/cat/x.JpG": b"4",
        "train/zebra/y.webp": b"5",
        "train/readme.html": b"-",
        "val/cat/v.jpeg": b"6",
        "val/zebra/w.gif": b"7",
    }
    return write_files(tmp_path, files)


def test_class_folders(folders: Path) -> None:
    source = Folder(folders / "train", folders / "val")
    assert source.class_names == ["cat", "dog", "zebra"]
    assert files_of(source, "train") == {
        "cat/x.JpG": (0, b"4"),
        "dog/a.png": (1, b"2"),
        "dog/b.JPEG": (1, b"1"),
        "dog/deep/er/c.jpg": (1, b"3"),
        "zebra/y.webp": (2, b"5"),
    }
    assert files_of(source, "val") == {"cat/v.jpeg": (0, b"6"), "zebra/w.gif": (2, b"7")}
    assert source.notes == [
        "ignored: 2 files not named like images: .html 1, .txt 1",
        f"ignored: 1 hidden file or folder, such as {folders}/train/dog/._a.png",
    ]


@pytest.mark.parametrize(
    "name",
    [".ipynb_checkpoints", ".thumbnails", ".Trash-1000", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "lost+found"],
)
@pytest.mark.parametrize("where", ["dog", "dog/deep", "."])
def test_hidden_folders_are_never_listed(folders: Path, name: str, where: str) -> None:
    before = Folder(folders / "train", folders / "val")
    write_files(folders / "train" / where / name, {"a-checkpoint.png": b"8", "more/b.jpg": b"9"})
    # As with a link to the folder around it, by which the images of other classes would get this label.
    (folders / "train" / where / name / "around").symlink_to(folders / "train")
    source = Folder(folders / "train", folders / "val")
    assert files_of(source, "train") == files_of(before, "train")
    assert source.class_names == before.class_names
    hidden = [note for note in source.notes if "hidden" in note]
    assert len(hidden) == 1 and hidden[0].startswith("ignored: 2 hidden files and folders, such as ")


def test_a_folder_belongs_to_the_class_in_which_it_lies(folders: Path) -> None:
    """A link to it from a class that is listed earlier has nothing new; nor has a second link to one elsewhere."""
    before = Folder(folders / "train", folders / "val")
    (folders / "train" / "cat" / "link").symlink_to(folders / "train" / "dog" / "deep")
    write_files(folders / "elsewhere", {"e.jpg": b"8"})
    for name in ("cat", "zebra"):
        (folders / "train" / name / "more").symlink_to(folders / "elsewhere")
    source = Folder(folders / "train", folders / "val")
    files = files_of(source, "train")
    assert files.pop("cat/more/e.jpg") == (0, b"8")
    assert files == files_of(before, "train")
    assert source.notes[-1].startswith("ignored: 2 links to folders that are listed already, such as ")


def test_what_is_ignored_is_told_by_ending(folders: Path) -> None:
    write_files(
        folders / "train", {"dog/a.heic": b"", "dog/b.HEIC": b"", "cat/README": b"", "loose.jpg": b""}
    )
    assert Folder(folders / "train", folders / "val").notes == [
        "ignored: 5 files not named like images: .heic 2, .html 1, without ending 1, .txt 1",
        f"ignored: 1 hidden file or folder, such as {folders}/train/dog/._a.png",
        f"ignored: 1 image that lies in no class folder, such as {folders}/train/loose.jpg",
    ]


def test_every_ending_of_an_image_that_pillow_decodes_counts(tmp_path: Path) -> None:
    names = {f"a/{i}{ending}": b"1" for i, ending in enumerate(IMAGE_ENDINGS)}
    assert {".jfif", ".jpe", ".avif", ".jp2"} <= set(IMAGE_ENDINGS)
    write_files(tmp_path, {f"{split}/{name}": data for split in SPLITS for name, data in names.items()})
    source = Folder(tmp_path / "train", tmp_path / "val")
    assert set(files_of(source, "train")) == set(names) and source.notes == []


def test_a_folder_that_is_a_link_to_itself_is_none(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with says("loop: expected a folder of class folders, got: Too many levels", error=ConfigError):
        Folder(tmp_path / "loop", tmp_path)


def test_a_class_may_have_no_images_in_val(folders: Path) -> None:
    (folders / "val" / "dog").mkdir()
    source = Folder(folders / "train", folders / "val")
    assert source.labels["val"].tolist() == [0, 2]
    (folders / "train" / "wolf").mkdir()
    with says(f"{folders / 'train' / 'wolf'}: expected images of its class, got none", error=ConfigError):
        Folder(folders / "train", folders / "val")


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("train", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("val", [COMPOSED, DECOMPOSED])
def test_one_name_in_two_spellings_is_one_class(folders: Path, train: str, val: str) -> None:
    write_files(folders, {f"train/{train}/1.jpg": b"8", f"val/{val}/1.jpg": b"9"})
    source = Folder(folders / "train", folders / "val")
    assert source.class_names == [COMPOSED, "cat", "dog", "zebra"]
    assert files_of(source, "train")[f"{train}/1.jpg"] == (0, b"8")
    assert files_of(source, "val")[f"{val}/1.jpg"] == (0, b"9")


def test_two_folders_of_one_name_in_two_spellings_are_refused(folders: Path) -> None:
    write_files(folders, {f"train/{COMPOSED}/1.jpg": b"8", f"train/{DECOMPOSED}/1.jpg": b"9"})
    with says(
        f"{folders}/train: expected one folder for each class, got 'cafe\\u0301' and 'caf\\xe9', which are the same",
        error=ConfigError,
    ):
        Folder(folders / "train", folders / "val")


def test_links_to_class_folders_are_followed(folders: Path) -> None:
    (folders / "val" / "dog").symlink_to(folders / "train" / "dog")
    assert len(Folder(folders / "train", folders / "val").labels["val"]) == 5


@pytest.mark.parametrize("target", [".", "..", "../..", "../cat", "deep"])
def test_each_folder_is_listed_once(folders: Path, target: str) -> None:
    """A link to a folder around it, to another class, or to what is listed already."""
    link = folders / "train" / "dog" / "self"
    link.symlink_to(target)
    source = Folder(folders / "train", folders / "val")
    assert len(source.labels["train"]) == 5 and len(source.labels["val"]) == 2
    assert source.notes[-1].startswith("ignored: 1 link to a folder that is listed already, such as ")


def test_a_link_to_a_folder_elsewhere_is_followed(folders: Path, tmp_path: Path) -> None:
    write_files(tmp_path, {"more/m.jpg": b"8"})
    (folders / "train" / "dog" / "more").symlink_to(tmp_path / "more")
    assert files_of(Folder(folders / "train", folders / "val"), "train")["dog/more/m.jpg"] == (1, b"8")


def test_two_classes_of_one_folder_are_refused(folders: Path) -> None:
    (folders / "train" / "wolf").symlink_to("dog")
    message = f"{folders / 'train' / 'wolf'}: expected a folder of its own, got that of class 'dog'"
    with says(message, error=ConfigError):
        Folder(folders / "train", folders / "val")


def test_a_name_that_is_no_utf8_can_be_read_and_printed(folders: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (folders / "val" / "cat" / name).write_bytes(b"8")
    files = files_of(Folder(folders / "train", folders / "val"), "val")
    assert files[f"cat/{name}"] == (0, b"8")
    assert printable(name) == r"caf\udce9.jpg"


@pytest.mark.parametrize("change", ["touch", "rename", "grow", "move"])
def test_the_stamps_tell_other_files(folders: Path, change: str) -> None:
    def stamps() -> object:
        return Folder(folders / "train", folders / "val").stamps

    before, path = stamps(), folders / "train" / "dog" / "b.JPEG"
    assert stamps() == before
    if change == "touch":
        os.utime(path, (1, 1))
    elif change == "rename":
        path.rename(path.with_name("bb.JPEG"))
    elif change == "move":
        path.rename(folders / "train" / "cat" / "b.JPEG")
    else:
        status = path.stat()
        path.write_bytes(b"11")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert stamps() != before


def test_wrong_folders(folders: Path) -> None:
    train, val = folders / "train", folders / "val"
    with says(
        str(folders / "no"), "expected a folder of class folders, got: No such file", error=ConfigError
    ):
        Folder(train, folders / "no")
    with says("readme.html: expected a folder of class folders, got: Not a directory", error=ConfigError):
        Folder(train / "readme.html", val)
    with says(f"{train / 'cat'}: expected a folder of class folders, got no folder in it", error=ConfigError):
        Folder(train / "cat", val)
    (folders / "no images" / "dog").mkdir(parents=True)
    with says("no images: expected images in its class folders, got none", error=ConfigError):
        Folder(train, folders / "no images")
    write_files(folders / "flat", {"ILSVRC2012_val_00000001.JPEG": b""})
    with says(
        "flat: expected a folder of class folders, got no folder in it but 1 images; ImageNet as Kaggle has it: "
        "tmpack ilsvrc FOLDER",
        error=ConfigError,
    ):
        Folder(train, folders / "flat")
    write_files(val, {"fox/1.jpg": b"", "wolf/1.jpg": b""})
    with says(f"{val}: expected only classes of {train}, got 'fox' and 1 more", error=ConfigError):
        Folder(train, val)


# --- ILSVRC 2012

SYNSETS = [
    (1, "n02000002", "tench, Tinca tinca", 0, 4),
    (2, "n01000001", "great white shark", 0, 2),
    (3, "n03000003", "kit fox", 0, 3),
    (4, "n00000009", "animal", 2, 0),
]
TRUTH = [3, 1, 1, 2, 3]
CLASSES = {"n02000002": 4, "n01000001": 2, "n03000003": 3}


def ilsvrc_images() -> tuple[dict[str, dict[str, bytes]], dict[str, bytes]]:
    train = {
        wnid: {f"{wnid}_{i}.JPEG": jpeg(10 * k + i, 20, 30) for i in range(n)}
        for k, (wnid, n) in enumerate(CLASSES.items())
    }
    # Not in their order, as tar finds them.
    val = {f"ILSVRC2012_val_{i:08}.JPEG": jpeg(100 + i, 20, 30) for i in (2, 1, 5, 3, 4)}
    return train, val


def ilsvrc(folder: Path, **changes: Any) -> tuple[Path, Path, Path]:
    """Write the archives; the changes replace what goes into them."""
    train, val = ilsvrc_images()
    train_files = {f"{wnid}.tar": tar_bytes(files) for wnid, files in train.items()}
    train_files = changes.get("train", lambda files: files)(train_files)
    val = changes.get("val", lambda files: files)(val)
    kit = archives.devkit(
        changes.get("synsets", SYNSETS), changes.get("truth", TRUTH), changes.get("counts", True)
    )
    kit = changes.get("devkit", lambda files: files)(kit)
    return (
        write_tar(folder / "ILSVRC2012_img_train.tar", train_files),
        write_tar(folder / "ILSVRC2012_img_val.tar", val),
        write_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", kit, "w:gz"),
    )


@pytest.mark.parametrize("counts", [True, False])
def test_the_archives_of_ilsvrc(tmp_path: Path, counts: bool) -> None:
    source = Ilsvrc(*ilsvrc(tmp_path, counts=counts))
    train, val = ilsvrc_images()
    assert source.class_names == [
        "n01000001 great white shark",
        "n02000002 tench, Tinca tinca",
        "n03000003 kit fox",
    ]
    wnids = sorted(CLASSES)
    assert files_of(source, "train") == {
        f"{wnid}/{name}": (wnids.index(wnid), data)
        for wnid, files in train.items()
        for name, data in files.items()
    }
    wnid_of = {i: wnid for i, wnid, *_ in SYNSETS}
    assert list(files_of(source, "val").items()) == [
        (
            f"ILSVRC2012_val_{i:08}.JPEG",
            (wnids.index(wnid_of[TRUTH[i - 1]]), val[f"ILSVRC2012_val_{i:08}.JPEG"]),
        )
        for i in range(1, 6)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [  # nothing is unpacked
        "ILSVRC2012_devkit_t12.tar.gz",
        "ILSVRC2012_img_train.tar",
        "ILSVRC2012_img_val.tar",
    ]


def test_what_macos_puts_into_archives_is_not_taken(tmp_path: Path) -> None:
    """For each x that has attributes of its own, tar on macOS packs a ._x before it."""

    def with_doubles(files: dict[str, bytes]) -> dict[str, bytes]:
        return {
            name: data
            for real, content in files.items()
            for name, data in (
                (f"._{real}", b"\0\5\x16\7"),
                (f"__MACOSX/{real}", b"-"),
                (f"./{real}", content),
            )
        }

    train, _ = ilsvrc_images()
    inner = {f"{wnid}.tar": tar_bytes(with_doubles(files)) for wnid, files in train.items()}
    paths = ilsvrc(tmp_path, train=lambda _: with_doubles(inner), val=with_doubles, devkit=with_doubles)
    source = Ilsvrc(*paths)
    (tmp_path / "clean").mkdir()
    clean = Ilsvrc(*ilsvrc(tmp_path / "clean"))
    for split in SPLITS:
        want = list(files_of(clean, split).values())
        assert list(files_of(source, split).values()) == want
    assert source.notes[-1].startswith("ignored: 34 hidden files and folders, such as ")


def test_fewer_images_than_the_devkit_says_are_noted(tmp_path: Path) -> None:
    paths = ilsvrc(tmp_path, train=lambda files: {**files, "n01000001.tar": tar_bytes({"a.JPEG": b"1"})})
    source = Ilsvrc(*paths)
    assert source.notes == [f"{paths[0]}: n01000001.tar has 1 images, 2 according to the devkit"]
    assert len(source.labels["train"]) == 8
    assert Ilsvrc(*ilsvrc(tmp_path)).notes == []


def test_another_image_in_an_archive_changes_the_fingerprint(tmp_path: Path) -> None:
    paths = ilsvrc(tmp_path)
    before = Ilsvrc(*paths).fingerprint
    assert Ilsvrc(*paths).fingerprint == before
    os.utime(paths[0], (1, 1))
    assert Ilsvrc(*paths).fingerprint != before


Change = Callable[[Any], Any]
WRONG_ILSVRC: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    (
        {"train": lambda files: {name: files[name] for name in list(files)[:2]}},
        ("img_train.tar: expected 3 archives of classes, got none for n03000003",),
    ),
    (
        {"train": lambda files: {**files, "n09999999.tar": b""}},
        ("expected archives of the 3 classes, such as n01000001.tar, got n09999999.tar",),
    ),
    (
        {"train": lambda files: {"n01000001/1.JPEG": b"", **files}},
        ("expected archives of the 3 classes, such as n01000001.tar, got n01000001/1.JPEG",),
    ),
    (
        {"train": lambda files: {**files, "n01000001.tar": tar_bytes({})}},
        ("img_train.tar: n01000001.tar: expected images, got none",),
    ),
    (
        {"train": lambda files: {**files, "n01000001.tar": files["n01000001.tar"][:1000]}},
        ("img_train.tar: n01000001.tar: expected a whole tar archive",),
    ),
    (
        {"train": lambda files: {**files, "n01000001.tar": b"x" * 2048}},
        ("img_train.tar: n01000001.tar: expected a whole tar archive, uncompressed, got:",),
    ),
    (
        {"val": lambda files: {**files, "cat.JPEG": b""}},
        ("img_val.tar: expected images such as ILSVRC2012_val_00000001.JPEG, got cat.JPEG",),
    ),
    (
        {"truth": TRUTH[:4]},
        (
            "img_val.tar: expected images 1 to 4, as the devkit's ground truth has lines, got 5, numbered 1 to 5",
        ),
    ),
    (
        {"truth": [*TRUTH[:4], 4]},
        ("ground_truth.txt, line 5: expected the ILSVRC2012_ID of one of 3 classes, got '4'",),
    ),
    (
        {"devkit": lambda files: {name: data for name, data in files.items() if "meta" not in name}},
        (
            "devkit_t12.tar.gz: expected the archive ILSVRC2012_devkit_t12.tar.gz with data/meta.mat, got none",
        ),
    ),
    (
        {"devkit": lambda files: {**files, "ILSVRC2012_devkit_t12/data/meta.mat": b"MATLAB" * 99}},
        ("meta.mat: expected synsets with ILSVRC2012_ID, WNID, words and num_children, got:",),
    ),
]


@pytest.mark.parametrize(("changes", "parts"), WRONG_ILSVRC)
def test_wrong_archives_of_ilsvrc(tmp_path: Path, changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    paths = ilsvrc(tmp_path, **changes)
    with says(*parts):
        Ilsvrc(*paths)


def test_missing_and_damaged_archives_of_ilsvrc(tmp_path: Path) -> None:
    train, val, kit = ilsvrc(tmp_path)
    with says("nowhere: expected a file, got: No such file", error=ConfigError):
        Ilsvrc(train, tmp_path / "nowhere", kit)
    with says(f"{tmp_path}: expected a file, got a folder", error=ConfigError):
        Ilsvrc(train, val, tmp_path)
    with says(f"{train}: expected the archive ILSVRC2012_devkit_t12.tar.gz", "got none"):
        Ilsvrc(train, val, train)
    with says(f"{kit}: expected a whole tar archive, uncompressed, got:"):
        Ilsvrc(train, kit, kit)
    kit.write_bytes(kit.read_bytes()[:-40])
    with says(f"{kit}: expected the archive ILSVRC2012_devkit_t12.tar.gz, got:"):
        Ilsvrc(train, val, kit)


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_a_truncated_archive_is_never_taken_for_whole(tmp_path: Path, blocks: int) -> None:
    train, val, kit = ilsvrc(tmp_path)
    data = val.read_bytes().rstrip(b"\0")
    # Also exactly where a header begins, where the reader of the standard library sees the end.
    val.write_bytes(data[: len(data) // 512 * 512 - 512 * blocks])
    with says(f"{val}: expected a whole tar archive"):
        Ilsvrc(train, val, kit)


def test_an_archive_cut_between_two_images_is_damaged(tmp_path: Path) -> None:
    train, val, kit = ilsvrc(tmp_path, val=lambda files: files | {})
    _, images = ilsvrc_images()
    first = next(iter(images.values()))
    val.write_bytes(val.read_bytes()[: 512 + -(-len(first) // 512) * 512])
    with says(f"{val}: expected a whole tar archive, got one without an end mark at byte"):
        Ilsvrc(train, val, kit)


def test_an_archive_that_another_takes_the_name_of_is_read_anew(tmp_path: Path) -> None:
    paths = ilsvrc(tmp_path)
    files_of(Ilsvrc(*paths), "train")
    paths[0].rename(tmp_path / "before.tar")
    one = {"n01000001.tar": tar_bytes({"a.JPEG": b"a"})}
    ilsvrc(tmp_path, train=lambda files: files | one)
    assert files_of(Ilsvrc(*paths), "train")["n01000001/a.JPEG"] == (0, b"a")


def test_an_archive_that_shrinks_afterwards(tmp_path: Path) -> None:
    paths = ilsvrc(tmp_path)
    source = Ilsvrc(*paths)
    os.truncate(paths[1], 700)
    with says("img_val.tar: ILSVRC2012_val_0000000", "expected", "bytes at", "got"):
        files_of(source, "val")


# --- ILSVRC 2012 as Kaggle has it


def kaggle(folder: Path, **changes: Any) -> Path:
    """Write the folder; the changes replace the tables."""
    train, val = ilsvrc_images()
    wnid_of = {i: wnid for i, wnid, *_ in SYNSETS}
    rows = [
        f"ILSVRC2012_val_{i:08},{wnid_of[TRUTH[i - 1]]} 1 2 30 40 {wnid_of[TRUTH[i - 1]]} 3 4 5 6 "
        for i in (4, 2, 1, 3, 5)
    ]
    mapping = [f"{wnid} {words}" for _, wnid, words, n, _ in SYNSETS if not n]
    tables = {
        "LOC_val_solution.csv": "\n".join(["ImageId,PredictionString", *rows, ""]),
        "LOC_synset_mapping.txt": "\n".join([*mapping, ""]),
        "LOC_train_solution.csv": "ImageId,PredictionString\n",
    } | changes
    data = {f"train/{wnid}/{name}": data for wnid, files in train.items() for name, data in files.items()}
    data |= {f"val/{name}": data for name, data in val.items()} | {"test/ILSVRC2012_test_00000001.JPEG": b"-"}
    write_files(folder, {f"ILSVRC/Data/CLS-LOC/{name}": content for name, content in data.items()})
    return write_files(folder, {name: text.encode() for name, text in tables.items()})


@pytest.mark.parametrize("place", [".", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_imagenet_as_kaggle_has_it_is_that_of_the_archives(tmp_path: Path, place: str) -> None:
    (tmp_path / "archives").mkdir()
    archive = Ilsvrc(*ilsvrc(tmp_path / "archives"))
    write_files(kaggle(tmp_path / "kaggle"), {"ILSVRC/Data/CLS-LOC/val/._ILSVRC2012_val_00000001.JPEG": b"-"})
    source = KaggleIlsvrc(tmp_path / "kaggle" / place)
    assert source.class_names == archive.class_names and source.name == archive.name
    for split in SPLITS:
        assert list(files_of(source, split).items()) == list(files_of(archive, split).items())
    assert len(source.notes) == 1 and "ignored: 1 hidden file or folder" in source.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"LOC_synset_mapping.txt": ""}, "LOC_synset_mapping.txt: expected the classes, got an empty file"),
        ({"LOC_synset_mapping.txt": "n02000002 a\nn02000002 b\n"}, "txt, line 2: expected a class of its own, such as"),
        ({"LOC_synset_mapping.txt": "tench"}, "txt, line 1: expected a class of its own"),
        ({"LOC_synset_mapping.txt": "n02000002 a\n"}, "train: expected a folder for each class of "
         "LOC_synset_mapping.txt and no other, got one more, n01000001"),
        ({"LOC_val_solution.csv": "ILSVRC2012_val_00000001,n09 1 2 3 4\n"}, "csv, line 1: expected an image"),
        ({"LOC_val_solution.csv": "ILSVRC2012_val_00000001\n"}, "csv, line 1: expected an image of its own"),
        ({"LOC_val_solution.csv": "a,n02000002 1 2 3 4\na,n02000002 1 2 3 4\n"}, "csv, line 2: expected an image"),
        ({"LOC_val_solution.csv": "a,n02000002 1 2 3 4 n01000001 1 2 3 4\n"}, "csv, line 1: expected an image"),
        ({"LOC_val_solution.csv": "ImageId,PredictionString\nILSVRC2012_val_00000009,n02000002 1 2 3 4\n"},
         "val: expected the 1 images of LOC_val_solution.csv, got no ILSVRC2012_val_00000009"),
        ({"LOC_val_solution.csv": "ILSVRC2012_val_00000001,n02000002 1 2 3 4\n"},
         "val: expected the 1 images of LOC_val_solution.csv, got one more, ILSVRC2012_val_00000002"),
        ({"LOC_val_solution.csv": "x" * 200_000}, "csv, line 1: expected a table, got: field larger than"),
    ],
)  # fmt: skip
def test_wrong_tables_of_kaggle(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with says(message):
        KaggleIlsvrc(kaggle(tmp_path, **changes))


def test_what_is_missing_of_kaggle_is_named(tmp_path: Path) -> None:
    top = kaggle(tmp_path)
    data = top / "ILSVRC" / "Data" / "CLS-LOC"
    write_files(data, {"train/n09999999/1.JPEG": b""})
    with says("train: expected a folder for each class", "got one more, n09999999"):
        KaggleIlsvrc(top)
    (data / "train" / "n09999999").rename(data / "val" / "n09999999")
    with says(
        "val: expected images, as Kaggle has them, got a folder 'n09999999'; class folders: tmpack folder"
    ):
        KaggleIlsvrc(top)
    shutil.rmtree(data / "val" / "n09999999")
    write_files(data, {"val/ILSVRC2012_val_00000001.png": b""})
    with says("val: expected the 5 images", "got two files for ILSVRC2012_val_00000001"):
        KaggleIlsvrc(top)
    shutil.rmtree(data / "train" / "n01000001")
    with says("got none for n01000001"):
        KaggleIlsvrc(top)
    (top / "LOC_val_solution.csv").unlink()
    with says("LOC_val_solution.csv: expected a file, got: No such file", error=ConfigError):
        KaggleIlsvrc(top)
    shutil.rmtree(data / "val")
    with says("expected Kaggle's folder with ILSVRC/Data/CLS-LOC/train and val, got none", error=ConfigError):
        KaggleIlsvrc(top)


# --- CIFAR


def in_folder(folder: Path, files: dict[str, bytes]) -> Path:
    return write_files(folder, files) / next(iter(files)).split("/")[0]


def in_archive(folder: Path, files: dict[str, bytes]) -> Path:
    return write_tar(folder / "archive.tar.gz", files, "w:gz")


@pytest.mark.parametrize("where", [in_folder, in_archive])
@pytest.mark.parametrize("layout", [archives.cifar10_python, archives.cifar10_binary])
def test_cifar10(tmp_path: Path, layout: Callable[..., dict[str, bytes]], where: Callable[..., Path]) -> None:
    batches = archives.cifar10_batches()
    source = Cifar10(where(tmp_path, layout(batches)))
    space = " " if layout is archives.cifar10_python else ""
    assert source.class_names == [f"class{space}{i}" for i in range(10)]
    pixels, names = pixels_of(source, "train")
    train = [batches[f"data_batch_{i}"] for i in range(1, 6)]
    np.testing.assert_array_equal(pixels, np.concatenate([images for images, _ in train]))
    np.testing.assert_array_equal(source.labels["train"], np.concatenate([labels for _, labels in train]))
    assert names[:2] == ["data_batch_1/0", "data_batch_1/1"] and names[-1] == "data_batch_5/11"
    np.testing.assert_array_equal(pixels_of(source, "val")[0], batches["test_batch"][0])
    np.testing.assert_array_equal(source.labels["val"], batches["test_batch"][1])
    assert source.augmentation == "crop"


@pytest.mark.parametrize("where", [in_folder, in_archive])
@pytest.mark.parametrize("layout", [archives.cifar100_python, archives.cifar100_binary])
def test_cifar100(
    tmp_path: Path, layout: Callable[..., dict[str, bytes]], where: Callable[..., Path]
) -> None:
    batches = archives.cifar_batches(["train", "test"], 100)
    source = Cifar100(where(tmp_path, layout(batches)))
    assert source.class_names == [f"fine{i}" for i in range(100)]
    splits: tuple[tuple[Split, str], ...] = (("train", "train"), ("val", "test"))
    for split, name in splits:
        np.testing.assert_array_equal(pixels_of(source, split)[0], batches[name][0])
        np.testing.assert_array_equal(source.labels[split], batches[name][1])


@pytest.mark.parametrize("text", [str, str.encode])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_any_protocol(tmp_path: Path, protocol: int, text: Callable[[str], Any]) -> None:
    """As people write the files anew, with the text of Python 2 as bytes or as text."""
    batches = archives.cifar10_batches()
    contents: dict[str, Any] = {
        name: {text("data"): archives._planes(images), text("labels"): labels.tolist()}
        for name, (images, labels) in batches.items()
    }
    contents["batches.meta"] = {text("label_names"): [text(f"class {i}") for i in range(10)]}
    files = {name: pickle.dumps(content, protocol) for name, content in contents.items()}
    source = Cifar10(write_files(tmp_path, files))
    assert source.class_names == [f"class {i}" for i in range(10)]
    np.testing.assert_array_equal(pixels_of(source, "val")[0], batches["test_batch"][0])
    np.testing.assert_array_equal(source.labels["val"], batches["test_batch"][1])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil",)


def test_a_pickle_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = archives.cifar10_python(archives.cifar10_batches())
    files["cifar-10-batches-py/data_batch_3"] = pickle.dumps({"data": Evil(), "labels": []}, protocol=2)
    path = in_archive(tmp_path, files)
    with says(
        "data_batch_3: expected a pickle of CIFAR, got: posix.system, which is neither an array nor text"
    ):
        Cifar10(path)
    assert not (tmp_path / "evil").exists()


def cifar_entry(**changes: Any) -> bytes:
    entry = {"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1, 2], **changes}
    return python2_pickle({key: value for key, value in entry.items() if value is not None})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (cifar_entry(labels=None), "expected an entry 'labels', got 'data'"),
        (cifar_entry(labels=[0, 1]), "expected a label for each image, got 2 for 3 images"),
        (cifar_entry(labels=[0, 1, 10]), "expected labels from 0 to 9, got 10 for image 2"),
        (cifar_entry(labels=[0, 10**12, 1]), f"expected labels from 0 to 9, got {10**12} for image 1"),
        (cifar_entry(labels=[0, 1, 10**30]), f"expected labels from 0 to 9, got {10**30} for image 2"),
        (cifar_entry(labels=[0, 1, "2"]), "labels: expected a list of whole numbers, got something else"),
        (cifar_entry(data=np.zeros((3, 3000), np.uint8)), "data: expected uint8 (n, 3072), got (3, 3000)"),
        (cifar_entry(data=[1, 2]), "data: expected uint8 (n, 3072), got list"),
        (python2_pickle([1]), "expected a dictionary, got list"),
        (cifar_entry()[:-900], "expected a pickle of CIFAR, got"),
        (b"", "expected a pickle of CIFAR, got one that is cut short"),
    ],
)
def test_wrong_batches_of_cifar(tmp_path: Path, batch: bytes, message: str) -> None:
    files = archives.cifar10_python(archives.cifar10_batches())
    files["cifar-10-batches-py/data_batch_2"] = batch
    with says(f"data_batch_2: {message}"):
        Cifar10(in_folder(tmp_path, files))


def test_wrong_records_and_files_of_cifar(tmp_path: Path) -> None:
    files = archives.cifar10_binary(archives.cifar10_batches())
    with says("expected the files of CIFAR-100, python or binary version, got no", error=ConfigError):
        Cifar100(in_folder(tmp_path / "a", files))
    files["cifar-10-batches-bin/test_batch.bin"] += b"1"
    with says("test_batch.bin: expected records of 3073 bytes, got 36877 bytes"):
        Cifar10(in_folder(tmp_path / "b", files))
    files["cifar-10-batches-bin/batches.meta.txt"] = b"one\ntwo\n"
    with says("batches.meta.txt: expected the names of 10 classes, got 2"):
        Cifar10(in_folder(tmp_path / "c", files))
    text = write_files(tmp_path, {"text": b"text"}) / "text"
    with says(
        f"{text}: expected a whole tar archive or a folder, got: file could not be opened successfully"
    ):
        Cifar10(text)
    del files["cifar-10-batches-bin/data_batch_4.bin"]
    with says("expected the files of CIFAR-10", "got no data_batch_4.bin", error=ConfigError):
        Cifar10(in_folder(tmp_path / "d", files))
    path = in_archive(tmp_path, archives.cifar10_python(archives.cifar10_batches()))
    path.write_bytes(path.read_bytes()[:-5000])
    with says(f"{path}: expected a whole tar archive or a folder, got:"):
        Cifar10(path)


# --- MNIST

DIGITS = (
    np.random.default_rng(1).integers(0, 256, (20, 28, 28), np.uint8),
    np.random.default_rng(2).integers(0, 10, 20).astype(np.uint8),
)


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("compressed", [False, True])
def test_mnist(tmp_path: Path, compressed: bool, mark: str) -> None:
    images, labels = DIGITS
    val = images[:9, ::-1], labels[:9][::-1]
    source = Mnist(write_files(tmp_path, archives.mnist(DIGITS, val, compressed, mark)))
    np.testing.assert_array_equal(pixels_of(source, "train")[0], images[..., None])
    np.testing.assert_array_equal(source.labels["train"], labels)
    np.testing.assert_array_equal(pixels_of(source, "val")[0], val[0][..., None])
    np.testing.assert_array_equal(source.labels["val"], val[1])
    assert source.augmentation == "shift" and source.channels == 1


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train-images-idx3-ubyte", archives.idx(DIGITS[1]), "expected the magic number 0x00000803, got 0x00000801"),
        ("train-images-idx3-ubyte", archives.idx(DIGITS[0])[:-1], "expected 20 × 28 × 28 bytes after the"),
        ("t10k-labels-idx1-ubyte", b"", "expected the magic number 0x00000801, got 0x"),
        ("t10k-labels-idx1-ubyte", archives.idx(DIGITS[1][:5]), "expected a label for each image, got 5 for 20"),
        ("t10k-labels-idx1-ubyte", archives.idx(DIGITS[1] + np.uint8(9)), "expected the labels 0 to 9 of 10 classes"),
    ],
)  # fmt: skip
def test_wrong_files_of_mnist(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    write_files(tmp_path, archives.mnist(DIGITS, DIGITS))
    (tmp_path / name).write_bytes(data)
    with says(message):
        Mnist(tmp_path)


MAPPING = "".join(f"{i} {64 + i} {96 + i}\n" for i in range(1, 27))
LETTERS = (DIGITS[0][:, :, :20], np.arange(20, dtype=np.uint8) + 1)


def emnist(folder: Path, *sets: str, mapping: str | None = MAPPING) -> Path:
    for name in sets:
        files = archives.mnist(LETTERS, (LETTERS[0][:7], LETTERS[1][13:]), compressed=True)
        write_files(folder, {f"{name}-{key.replace('t10k', 'test')}": data for key, data in files.items()})
        if mapping is not None:
            write_files(folder, {f"{name}-mapping.txt": mapping.encode()})
    return folder


def test_emnist_is_turned_and_its_letters_are_named(tmp_path: Path) -> None:
    source = Mnist(emnist(tmp_path, "emnist-letters"))
    np.testing.assert_array_equal(pixels_of(source, "train")[0], LETTERS[0].transpose(0, 2, 1)[..., None])
    assert source.class_names[:2] == ["Aa", "Bb"] and len(source.class_names) == 26
    assert source.labels["train"].tolist() == list(range(20))
    assert source.labels["val"].tolist() == list(range(13, 20))
    assert source.name == "EMNIST letters" and "Cohen" in source.source


def test_one_of_several_sets(tmp_path: Path) -> None:
    emnist(tmp_path, "emnist-letters", "emnist-balanced")
    with says(
        "expected one set, or one of them named by --set, got emnist-balanced, emnist-letters",
        error=ConfigError,
    ):
        Mnist(tmp_path)
    with says("expected the set 'letters', got emnist-balanced, emnist-letters", error=ConfigError):
        Mnist(tmp_path, "letters")
    assert Mnist(tmp_path, "emnist-balanced").name == "EMNIST balanced"
    with says("expected the set 'x', got no train-images-idx3-ubyte", error=ConfigError):
        (tmp_path / "empty").mkdir()
        Mnist(tmp_path / "empty", "x")


def test_letters_without_their_mapping_are_numbered_when_asked(tmp_path: Path) -> None:
    emnist(tmp_path, "emnist-letters", mapping=None)
    with says(
        "expected the labels 0 to 19 of 20 classes, got 20 different ones, such as 20 for image 19 of train; "
        "--renumber numbers them in their order"
    ):
        Mnist(tmp_path)
    source = Mnist(tmp_path, renumber=True)
    assert source.class_names == [str(i) for i in range(1, 21)]
    assert source.labels["train"].tolist() == list(range(20))


def test_labels_in_mnists_format_that_are_no_digits_are_renumbered(tmp_path: Path) -> None:
    split = np.zeros((10, 28, 28), np.uint8), np.arange(10, 20).astype(np.uint8)
    source = Mnist(write_files(tmp_path, archives.mnist(split, split)), renumber=True)
    assert source.class_names == [str(number) for number in range(10, 20)]
    assert source.labels["val"].tolist() == list(range(10))
    few = split[0][:2], np.array([3, 7], np.uint8)
    source = Mnist(write_files(tmp_path / "few", archives.mnist(few, few)), renumber=True)
    assert len(source.class_names) == 10 and source.labels["val"].tolist() == [3, 7]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            "1 65\n1 66\n",
            "mapping.txt, line 2: expected a label of its own and the codes of its characters, got '1 66'",
        ),
        ("1\n", "mapping.txt, line 1: expected a label of its own"),
        ("256 65\n", "mapping.txt, line 1: expected a label of its own"),
        ("1 65\n3 66\n", "mapping.txt: expected all labels in it, got none for 2, of image 1 of train"),
    ],
)
def test_wrong_mappings_of_emnist(tmp_path: Path, mapping: str, message: str) -> None:
    with says(message):
        Mnist(emnist(tmp_path, "emnist-letters", mapping=mapping))


def test_missing_and_truncated_files_of_mnist(tmp_path: Path) -> None:
    write_files(tmp_path, archives.mnist(DIGITS, DIGITS))
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with says("expected t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz, got neither", error=ConfigError):
        Mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(archives.idx(DIGITS[1]))[:-9])
    with says("t10k-labels-idx1-ubyte.gz: expected a whole gzip file, got:"):
        Mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(archives.idx(DIGITS[1]))
    with says("t10k-labels-idx1-ubyte.gz: expected a whole gzip file, got: Not a gzipped file"):
        Mnist(tmp_path)


# --- Arrays


def arrays(path: Path, **changes: Any) -> Path:
    draw = np.random.default_rng(3)
    content: dict[str, Any] = {
        "train_images": draw.integers(0, 256, (11, 5, 6, 3), np.uint8),
        "train_labels": np.arange(11) % 4,
        "val_images": draw.integers(0, 256, (4, 7, 6, 3), np.uint8),
        "val_labels": np.array([0, 3, 1, 1], np.uint8),
        **changes,
    }
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return path


def test_arrays(tmp_path: Path) -> None:
    path = arrays(tmp_path / "some.npz")
    source = Npz(path)
    assert source.class_names == ["0", "1", "2", "3"] and source.name == "some"
    with np.load(path) as content:
        for split in SPLITS:
            np.testing.assert_array_equal(pixels_of(source, split)[0], content[f"{split}_images"])
            np.testing.assert_array_equal(source.labels[split], content[f"{split}_labels"])


def test_arrays_of_grey_images_and_names_of_classes(tmp_path: Path) -> None:
    images = np.arange(11 * 30, dtype=np.uint64).astype(np.uint8).reshape(11, 5, 6)
    names = ["a", "b", "c", "d", "é"]
    source = Npz(arrays(tmp_path / "a.npz", train_images=images, val_images=images[:4], class_names=names))
    np.testing.assert_array_equal(pixels_of(source, "train")[0], images[..., None])
    assert source.class_names == names and source.channels == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_labels": None}, "expected an array val_labels, got train_images, train_labels, val_images"),
        ({"train_images": np.zeros((11, 5, 6))}, "train_images: expected uint8 (n, h, w) or (n, h, w, c), got float64"),
        ({"val_images": np.zeros((0, 5, 6), np.uint8)}, "val_images: expected uint8"),
        ({"val_images": np.zeros((4, 5), np.uint8)}, "val_images: expected uint8"),
        ({"val_images": np.zeros((4, 5, 6), np.uint8)}, "val_images: expected 3 channels as in train_images, got 1"),
        ({"train_labels": np.zeros(11)}, "train_labels: expected whole numbers (n,) or (n, 1), got float64 (11,)"),
        ({"train_labels": np.zeros((11, 2), int)}, "expected whole numbers (n,) or (n, 1), got int64 (11, 2)"),
        ({"train_labels": np.zeros(10, int)}, "train_labels: expected 11, one for each of train_images, got 10"),
        ({"val_labels": np.array([0, -1, 0, 0])}, "expected the labels 0 to 4 of 5 classes, got 5 different ones, "
         "such as -1 for image 1 of val; --renumber numbers them in their order"),
        ({"val_labels": np.array([0, 0, 10**12, 0])}, f"5 different ones, such as {10**12} for image 2 of val; --"),
        ({"val_labels": np.full(4, 2**64 - 1, np.uint64)}, f"5 different ones, such as {2**64 - 1} for image 0 of val"),
        ({"class_names": ["a", "b"]}, "expected the labels 0 to 1 of 2 classes, got 4 different ones, such as 2 for "
         "image 2 of train"),
        ({"class_names": np.arange(4)}, "class_names: expected texts (n,), got int64 (4,)"),
        ({"class_names": np.array(["a", 1], object)}, "got: Object arrays cannot be loaded"),
    ],
)  # fmt: skip
def test_wrong_arrays(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with says(message):
        Npz(arrays(tmp_path / "a.npz", **changes))


WORDNET = [1440764, 1443537, 1484850, 15075141]


@pytest.mark.parametrize("numbers", [[1, 2, 3, 4], [0, 2, 5, 9], WORDNET, [-1, 0, 1, 2**40]])
def test_labels_that_do_not_count_from_0_are_numbered_when_asked(tmp_path: Path, numbers: list[int]) -> None:
    """Else the empty classes between them would each have weights, and the file a name of each."""
    train, val = np.arange(11) % 4, np.array([3, 0, 2, 2])
    labels = {"train_labels": np.array(numbers)[train], "val_labels": np.array(numbers)[val]}
    path = arrays(tmp_path / "a.npz", **labels)
    with says("expected the labels 0 to 3 of 4 classes, got 4 different ones, such as ", "; --renumber"):
        Npz(path)
    source = Npz(path, renumber=True)
    assert source.class_names == [str(number) for number in numbers]
    assert source.labels["train"].tolist() == train.tolist() and source.labels["val"].tolist() == val.tolist()
    assert source.notes == [f"the labels {', '.join(map(str, numbers))} are numbered 0 to 3"]
    # With names of their own, in the order of the numbers.
    source = Npz(arrays(path, **labels, class_names=["a", "b", "c", "d"]), renumber=True)
    assert source.class_names == ["a", "b", "c", "d"] and source.labels["val"].tolist() == val.tolist()


def test_labels_that_count_from_0_stay_as_they_are(tmp_path: Path) -> None:
    path = arrays(tmp_path / "a.npz", class_names=["a", "b", "c", "d", "e", "f"])
    source, plain = Npz(path, renumber=True), Npz(path)
    assert source.class_names == plain.class_names and source.notes == plain.notes == []
    assert source.labels["val"].tolist() == [0, 3, 1, 1]


def test_arrays_as_medmnist_has_them(tmp_path: Path) -> None:
    labels = {
        "train_labels": np.arange(11, dtype=np.uint8)[:, None] % 4,
        "val_labels": np.uint8([[0], [3], [1], [1]]),
    }
    other = {"test_images": np.zeros((2, 7, 6, 3), np.uint8), "test_labels": np.array([None, 1])}
    source = Npz(arrays(tmp_path / "a.npz", **labels, **other))
    assert source.labels["val"].tolist() == [0, 3, 1, 1]
    assert source.notes == ["arrays that are not used: test_images, test_labels"]


def test_files_that_hold_no_arrays(tmp_path: Path) -> None:
    with says("nowhere.npz: expected a file, got: No such file", error=ConfigError):
        Npz(tmp_path / "nowhere.npz")
    path = arrays(tmp_path / "a.npz")
    data = path.read_bytes()
    for wrong in (b"", b"text", data[:-100], data[:200] + bytes(100) + data[300:]):
        path.write_bytes(wrong)
        with says(f"{path}: expected an .npz file of arrays, got:"):
            Npz(path)
    # The way of compression, which no reader knows, and a member that is said to be encrypted.
    for position, byte in ((data.rindex(b"PK\1\2") + 10, 77), (data.rindex(b"PK\1\2") + 8, 1)):
        path.write_bytes(data[:position] + bytes([byte]) + data[position + 1 :])
        with says(f"{path}: expected an .npz file of arrays, got:"):
            Npz(path)
    with zipfile.ZipFile(path, "w") as archive, archive.open("train_images.npy", "w") as member:
        about = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 100)}
        np.lib.format.write_array_header_1_0(member, about)
    with says("got: train_images.npy: (1000000, 100) of uint8 in 128 bytes"):
        Npz(path)
    np.save(tmp_path / "a.npy", np.zeros(3))
    with says("a.npy: expected an .npz file of arrays, got: no zip archive"):
        Npz(tmp_path / "a.npy")


# --- Generated images


def test_generated_images_hang_on_the_seed_alone() -> None:
    source = Synthetic(classes=3, train=40, val=9, size=12, channels=2, seed=5)
    pixels, names = pixels_of(source, "train")
    assert pixels.shape == (40, 12, 12, 2) and names[:2] == ["0", "1"]
    whole = source.items("train", 0, 40)
    assert isinstance(whole, Arrays)
    np.testing.assert_array_equal(whole.pixels(), pixels)
    again, _ = pixels_of(Synthetic(classes=3, train=50, val=9, size=12, channels=2, seed=5), "train")
    np.testing.assert_array_equal(again[:40], pixels)
    other, _ = pixels_of(Synthetic(classes=3, train=40, val=9, size=12, channels=2, seed=6), "train")
    assert np.abs(other.astype(int) - pixels).mean() > 10
    assert len(np.unique(pixels.reshape(40, -1), axis=0)) == 40
    val, _ = pixels_of(source, "val")
    assert np.abs(val.astype(int) - pixels[:9]).mean() > 3


def test_generated_images_can_be_learnt() -> None:
    source = Synthetic(classes=10, train=400, val=200, size=16)
    train, val = (pixels_of(source, split)[0].reshape(-1, 768).astype(float) for split in SPLITS)
    labels = source.labels["train"]
    means = np.stack([train[labels == label].mean(axis=0) for label in range(10)])
    guess = ((val[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (guess == source.labels["val"]).mean() > 0.9


@pytest.mark.parametrize("option", ["classes", "train", "val", "size", "channels"])
def test_nothing_cannot_be_generated(option: str) -> None:
    numbers = {"classes": 2, "train": 2, "val": 2, "size": 2, "channels": 2}
    with says(f"--{option}: expected at least 1, got 0", error=ConfigError):
        Synthetic(**{**numbers, option: 0})
    with says("--seed: expected at least 0, got -1", error=ConfigError):
        Synthetic(**numbers, seed=-1)
    with says(f"--{option}: expected at most ", f", got {10**12}", error=ConfigError):
        Synthetic(**{**numbers, option: 10**12})


# --- All


def test_blocks_take_some_megabytes() -> None:
    def block(size: int) -> int:
        return Synthetic(classes=1, train=1, val=1, size=size).block_images

    assert (block(4), block(32), block(224), block(4000)) == (16384, 2730, 55, 1)


@pytest.mark.parametrize("kind", [Folder, Ilsvrc, Cifar10, Cifar100, Mnist, Npz, Synthetic, Glyphs])
def test_every_source_names_a_policy(kind: type[Source]) -> None:
    assert kind.augmentation in POLICIES


def test_a_pickle_that_asks_for_more_memory_than_there_is_gets_none(tmp_path: Path) -> None:
    huge = b"\x80\x05\x96" + (2**50).to_bytes(8, "little") + b"."
    names = ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6)))
    archives.write_files(tmp_path, dict.fromkeys(names, huge))
    with pytest.raises(ValueError, match="expected a pickle of CIFAR, got one that is cut short"):
        Cifar10(tmp_path)
