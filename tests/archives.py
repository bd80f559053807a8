"""Small archives of images in their published layouts, and files as odd as they really occur."""

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from tests.photographs import photograph

Pixels = NDArray[np.uint8]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image file in memory."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rotated(image: Image.Image, orientation: int, kind: str = "JPEG") -> bytes:
    """A file whose EXIF tag says how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif)


def odd_files() -> tuple[dict[str, bytes], dict[str, tuple[bytes, str]]]:
    """Convertible files, 60 × 80 when upright, by name; and those that show no picture, with the reason."""
    image = Image.fromarray(photograph(900, 60, 80))
    grey, jpeg = image.convert("L"), encoded(image, "JPEG", quality=90)
    scan = jpeg.index(b"\xff\xda")
    good = {
        "grey.JPEG": encoded(grey, "JPEG"),
        "cmyk.JPEG": encoded(image.convert("CMYK"), "JPEG"),
        "png.JPEG": encoded(image, "PNG"),
        "exif.JPEG": rotated(image.transpose(Image.Transpose.ROTATE_90), 6),
        "progressive.JPEG": encoded(image, "JPEG", progressive=True),
        "extraneous.JPEG": jpeg[:scan] + bytes(4) + jpeg[scan:],
        "trailing.JPEG": jpeg + b"more",
        "16bit.png": encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + 99), "PNG"),
        "palette.png": encoded(image.quantize(64), "PNG", transparency=bytes(range(64))),
        "alpha.PNG": encoded(image.convert("RGBA"), "PNG"),
        "picture.gif": encoded(image.quantize(64), "GIF", transparency=0),
    }
    bad = {
        "truncated.JPEG": (jpeg[: len(jpeg) // 2], "truncated"),
        "truncated.png": (good["png.JPEG"][:2000], "truncated"),
        "zero.JPEG": (b"", "empty file"),
        "text.JPEG": (b"<html>404 Not Found</html>\n" * 20, "not an image"),
    }
    return good, bad


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def tar_bytes(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


class _Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2's ``str``, as the published files have them."""

    dispatch = dict(pickle._Pickler.dispatch)

    def _save_text(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = _save_text


def python2_pickle(value: object) -> bytes:
    """Pickle as Python 2 and an old NumPy did."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def _planes(images: Pixels) -> Pixels:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)


Batches = dict[str, tuple[Pixels, NDArray[np.int64]]]


def cifar_batches(names: list[str], n_classes: int, n: int = 12) -> Batches:
    """Random images (n, 32, 32, 3) and labels by the batch's name."""
    draw = np.random.default_rng(7)
    return {
        name: (draw.integers(0, 256, (n, 32, 32, 3), np.uint8), draw.integers(0, n_classes, n))
        for name in names
    }


def cifar10_batches() -> Batches:
    return cifar_batches([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], 10)


def cifar10_python(batches: Batches) -> dict[str, bytes]:
    files = {
        name: python2_pickle(
            {
                "batch_label": f"batch {name}",
                "labels": labels.tolist(),
                "data": _planes(images),
                "filenames": [f"{i}.png" for i in range(len(labels))],
            }
        )
        for name, (images, labels) in batches.items()
    }
    meta = {"num_cases_per_batch": 10000, "label_names": [f"class {i}" for i in range(10)], "num_vis": 3072}
    files["batches.meta"] = python2_pickle(meta)
    files["readme.html"] = b"<html></html>"
    return {f"cifar-10-batches-py/{name}": data for name, data in files.items()}


def cifar10_binary(batches: Batches) -> dict[str, bytes]:
    files = {
        f"{name}.bin": np.concatenate([labels[:, None].astype(np.uint8), _planes(images)], axis=1).tobytes()
        for name, (images, labels) in batches.items()
    }
    files["batches.meta.txt"] = "\n".join(f"class{i}" for i in range(10)).encode() + b"\n\n"
    return {f"cifar-10-batches-bin/{name}": data for name, data in files.items()}


def cifar100_python(batches: Batches) -> dict[str, bytes]:
    files = {
        name: python2_pickle(
            {
                "batch_label": f"{name}ing batch 1 of 1",
                "coarse_labels": (labels // 5).tolist(),
                "fine_labels": labels.tolist(),
                "data": _planes(images),
                "filenames": [f"{i}.png" for i in range(len(labels))],
            }
        )
        for name, (images, labels) in batches.items()
    }
    meta = {
        "fine_label_names": [f"fine{i}" for i in range(100)],
        "coarse_label_names": [f"coarse{i}" for i in range(20)],
    }
    files["meta"] = python2_pickle(meta)
    return {f"cifar-100-python/{name}": data for name, data in files.items()}


def cifar100_binary(batches: Batches) -> dict[str, bytes]:
    files = {
        f"{name}.bin": np.concatenate(
            [(labels[:, None] // 5).astype(np.uint8), labels[:, None].astype(np.uint8), _planes(images)],
            axis=1,
        ).tobytes()
        for name, (images, labels) in batches.items()
    }
    files["fine_label_names.txt"] = "".join(f"fine{i}\n" for i in range(100)).encode()
    files["coarse_label_names.txt"] = "".join(f"coarse{i}\n" for i in range(20)).encode()
    return {f"cifar-100-binary/{name}": data for name, data in files.items()}


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def idx(values: NDArray[np.uint8]) -> bytes:
    """The format of MNIST: magic number, sizes, bytes."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(struct.pack(">I", size) for size in values.shape)
    return header + values.tobytes()


def mnist(
    train: tuple[Pixels, NDArray[np.uint8]],
    val: tuple[Pixels, NDArray[np.uint8]],
    compressed: bool = False,
    mark: str = "-",
) -> dict[str, bytes]:
    files = {}
    for stem, (images, labels) in (("train", train), ("t10k", val)):
        files[f"{stem}-images{mark}idx3-ubyte"] = idx(images)
        files[f"{stem}-labels{mark}idx1-ubyte"] = idx(labels)
    return {f"{name}.gz": gzip.compress(data) for name, data in files.items()} if compressed else files


def devkit(
    synsets: list[tuple[int, str, str, int, int]], truth: list[int], with_counts: bool = True
) -> dict[str, bytes]:
    """The devkit's files.

    Parameters
    ----------
    synsets : list of (ILSVRC2012_ID, WNID, words, number of children, number of training images)
    truth : list of int
        The ID of each validation image.
    """
    kinds = [
        ("ILSVRC2012_ID", object),
        ("WNID", object),
        ("words", object),
        ("gloss", object),
        ("num_children", object),
        ("children", object),
        ("wordnet_height", object),
    ]
    rows = [
        (float(i), wnid, words, "a gloss", float(children), np.arange(float(children)), 1.0, float(n))
        for i, wnid, words, children, n in synsets
    ]
    if with_counts:
        kinds.append(("num_train_images", object))
    else:
        rows = [row[:-1] for row in rows]
    table = np.array(rows, dtype=kinds).reshape(-1, 1)
    file = io.BytesIO()
    scipy.io.savemat(file, {"synsets": table})
    return {
        "ILSVRC2012_devkit_t12/readme.txt": b"read me",
        "ILSVRC2012_devkit_t12/data/meta.mat": file.getvalue(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "".join(
            f"{i}\n" for i in truth
        ).encode(),
    }
