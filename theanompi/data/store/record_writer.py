"""Writes files of arrays and of tokens block by block, in the format of `theanompi.data.store.records`.

All goes into ``OUT.writing``, which gets the file's name when it is whole and valid. Of an interrupted one nothing is
kept; only a kill leaves it behind, and the next writer begins it anew.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Self

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from theanompi.config import shortened
from theanompi.config.files import check_new, destination, sync_folder
from theanompi.data.store.hdf5 import ALIGNMENT, FORMAT, SPLITS, Split, hdf5_writes, put_attributes, reserve
from theanompi.data.store.records import (
    STREAM_BLOCK,
    VERSION,
    Field,
    check,
    field_trouble,
    index_sha256,
    token_dtype,
    token_fields,
    vocabulary_size,
)
from theanompi.data.store.writer import lock, no_folder

MOST_VOCABULARY = 16 * 2**20
"""Bytes of a vocabulary as JSON."""


class RecordWriter:
    """Writes a file of arrays or of tokens: each split's fields, or tokens, then `finish`.

    Parameters
    ----------
    path : path
        The file, which appears when all is done.
    overwrite : bool
        Replace a file of that name.
    written : callable, optional
        Is told the number of bytes after each block.

    Raises
    ------
    ConfigError
        If the folder does not exist, the file does and must not be replaced, or another process is writing it.

    Examples
    --------
    >>> import tempfile
    >>> from theanompi.data import open_dataset
    >>> with tempfile.TemporaryDirectory() as folder, RecordWriter(f"{folder}/a.h5") as writer:
    ...     for split in ("train", "val"):
    ...         writer.arrays(split, 3, {"x": Field("int8", (2,))}, lambda name: [np.ones((3, 2), np.int8)])
    ...     writer.finish(name="a", description="Ones.", source="here", licence="CC0")
    ...     with open_dataset(f"{folder}/a.h5") as data:
    ...         data.n_val, data.item("val", 2)["x"].tolist()
    (3, [1, 1])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        overwrite: bool = False,
        written: Callable[[int], object] = lambda n_bytes: None,
    ) -> None:
        self.path = Path(path)
        check_new(path, f"data file {path}", overwrite=overwrite)
        self._target = destination(path)
        self._part = self._target.with_name(f"{self._target.name}.writing")
        self._written = written
        self._fields: dict[str, Field] = {}
        self._counts: dict[Split, int] = {}
        try:
            self._lock = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise no_folder(path, error) from None
        with ExitStack() as stack:
            stack.callback(os.close, self._lock)
            lock(self._lock, self._part, self.path)
            stack.callback(self._part.unlink)
            # Older HDF5 layouts hold at most 64 KiB of attributes. The lock is ours: HDF5's would meet it.
            with hdf5_writes(self.path):
                self._file = h5py.File(
                    self._part,
                    "w",
                    libver="v108",
                    locking=False,
                    alignment_threshold=ALIGNMENT,
                    alignment_interval=ALIGNMENT,
                )
            stack.pop_all()

    def arrays(
        self,
        split: Split,
        n: int,
        fields: Mapping[str, Field],
        blocks: Callable[[str], Iterable[NDArray[Any]]],
    ) -> None:
        """Write all fields of a split.

        Parameters
        ----------
        split : "train" or "val"
        n : int
            Number of items.
        fields : mapping of str to Field
            The same for both splits.
        blocks : callable
            Gives, for a field's name, its values, some items after another.

        Raises
        ------
        ValueError
            If a field's name, dtype or shape cannot be, or there are other numbers of items.
        OSError
            As when the disk is full.
        """
        checksums = np.zeros(n, np.uint32)
        self._fields, self._counts[split] = dict(sorted(fields.items())), n
        for name, field in self._fields.items():
            wrong = field_trouble(name, field)
            if wrong:
                raise ValueError(f"data file {self.path}: {shortened(name, 80)}: {wrong}")
            done = 0
            for block in self._fill(f"{split}/fields/{name}", field.dtype, (n, *field.shape), blocks(name)):
                data, size = block.reshape(-1).view(np.uint8).data, field.nbytes
                for i in range(len(block)):
                    checksums[done + i] = zlib.crc32(
                        data[i * size : (i + 1) * size], int(checksums[done + i])
                    )
                done += len(block)
        self._put(f"{split}/crc32", checksums)

    def stream(self, split: Split, n: int, dtype: str, blocks: Iterable[NDArray[Any]]) -> None:
        """Write the `n` tokens of a split as one stream, some after another."""
        self._counts[split] = n
        checksums, crc, at = [], 0, 0
        for block in self._fill(f"{split}/tokens", dtype, (n,), blocks):
            begin = 0
            while begin < len(block):
                part = block[begin : begin + STREAM_BLOCK - at]
                crc, at, begin = zlib.crc32(part.data, crc), at + len(part), begin + len(part)
                if at == STREAM_BLOCK:
                    checksums.append(crc)
                    crc = at = 0
        self._put(f"{split}/crc32", np.array(checksums + [crc] * (at > 0), np.uint32))

    def texts(
        self,
        split: Split,
        lengths: Sequence[int],
        labels: ArrayLike,
        dtype: str,
        blocks: Iterable[NDArray[Any]],
    ) -> None:
        """Write the texts of a split, each a block of as many tokens as `lengths` says, and their labels."""
        n = self._counts[split] = len(lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype("<i8")
        filled = self._fill(f"{split}/tokens", dtype, (int(offsets[-1]),), blocks)
        checksums = np.zeros(n, np.uint32)
        for i, block in enumerate(filled):
            if i >= n or len(block) != lengths[i]:
                raise ValueError(f"data file {self.path}: {split} text {i}: expected other tokens than came")
            checksums[i] = zlib.crc32(block.data)
        self._put(f"{split}/offsets", offsets)
        self._put(f"{split}/labels", np.asarray(labels, "<i8"))
        self._put(f"{split}/crc32", checksums)

    def finish(
        self,
        *,
        name: str,
        description: str,
        source: str,
        licence: str,
        class_names: list[str] | None = None,
        left_out: Sequence[str] = (),
        tokens: str | None = None,
        vocabulary: Literal["bytes"] | list[str] = "bytes",
    ) -> None:
        """Complete the file and give it its name.

        Parameters
        ----------
        name, description, source, licence : str
            What is in the file, where it comes from and on what terms it may be used.
        class_names : list of str, optional
            One per class, if there are labels.
        left_out : sequence of str
            ``"name: reason"``.
        tokens : "bytes", "characters" or "words", optional
            What tokens are; None: the file has arrays.
        vocabulary : "bytes" or list of str
            What the tokens' ids stand for.

        Raises
        ------
        ValueError
            If the contents do not satisfy the schema.
        """
        attributes: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "modality": "tokens" if tokens else "arrays",
            "name": name,
            "description": description,
            "source": source,
            "licence": licence,
            "left_out": list(left_out),
            **{f"{split}_count": n for split, n in self._counts.items()},
        }
        if class_names is not None:
            attributes["class_names"] = class_names
        if tokens:
            n_tokens = vocabulary_size(vocabulary)
            self._fields = token_fields(n_tokens, class_names is not None)
            text = json.dumps(vocabulary)
            if len(text) > MOST_VOCABULARY:
                raise ValueError(
                    f"data file {self.path}: expected a vocabulary of at most {MOST_VOCABULARY:,} bytes, got "
                    f"{n_tokens:,} entries in {len(text):,} bytes; fewer by --vocabulary-size"
                )
            kind = "stream" if class_names is None else "texts"
            attributes |= {"kind": kind, "tokens": tokens, "vocabulary": text, "n_tokens": n_tokens}
        attributes["fields"] = json.dumps(
            {key: {"dtype": field.dtype, "shape": list(field.shape)} for key, field in self._fields.items()}
        )
        with hdf5_writes(self.path):
            put_attributes(self._file, attributes)
            self._file.attrs["sha256"] = index_sha256(self._file)
            self._file.flush()
            try:
                check(self._file)
            except ValueError as error:
                raise ValueError(f"data file {self.path}: {error}") from None
            self._file.close()
            os.fsync(self._lock)
            self._part.replace(self._target)
            sync_folder(self._target.parent)
        self.close()

    def _fill(
        self, name: str, dtype: str, shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]
    ) -> Iterator[NDArray[Any]]:
        """Write blocks into an array of a known shape, and give each as it is stored."""
        little = np.dtype(dtype).newbyteorder("<")
        with hdf5_writes(self.path):
            array = reserve(self._file, name, little, shape)
        done = 0
        for given in blocks:
            block = np.ascontiguousarray(given, little)
            if block.shape[1:] != shape[1:] or done + len(block) > shape[0]:
                raise ValueError(
                    f"data file {self.path}: {name}: expected {shape} in all, got a block {block.shape} after {done}"
                )
            with hdf5_writes(self.path):
                array[done : done + len(block)] = block
            done += len(block)
            self._written(block.nbytes)
            yield block
        if done != shape[0]:
            raise ValueError(f"data file {self.path}: {name}: expected {shape[0]:,} in all, got {done:,}")

    def _put(self, name: str, values: NDArray[Any]) -> None:
        with hdf5_writes(self.path):
            reserve(self._file, name, values.dtype.newbyteorder("<"), values.shape)[...] = values

    def close(self) -> None:
        """Close; what is not finished is removed. A second call does nothing."""
        if self._lock < 0:
            return
        try:
            self._file.close()
        except (OSError, RuntimeError):  # of what could not be written, which was said
            pass
        if os.path.exists(self._part):
            self._part.unlink()
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_arrays(
    path: str | os.PathLike[str],
    train: Mapping[str, ArrayLike],
    val: Mapping[str, ArrayLike],
    *,
    name: str,
    class_names: list[str] | None = None,
    description: str = "Arrays.",
    source: str = "arrays in memory",
    licence: str = "not stated",
) -> None:
    """Write arrays as a data set; the file appears under its name only when it is whole and valid.

    Parameters
    ----------
    path : path
        The file; one of that name is replaced.
    train, val : mapping of str to array (n, …)
        The fields of each split: bool, integers of up to 64 bits (unsigned 32) or floats of up to 64.
    name, description, source, licence : str
        What is in the file, where it comes from and on what terms it may be used.
    class_names : list of str, optional
        If the field ``labels`` numbers classes from 0 on: what they are called.

    Raises
    ------
    ConfigError
        If the folder does not exist.
    ValueError
        If the splits have different fields, a field cannot be stored, or a label is none or of no class.

    Examples
    --------
    See `theanompi.data.store.records.ArrayDataset`.
    """
    splits = {"train": _as_arrays(train, path), "val": _as_arrays(val, path)}
    fields = {key: Field(a.dtype.name, a.shape[1:]) for key, a in splits["train"].items()}
    others = {key: Field(a.dtype.name, a.shape[1:]) for key, a in splits["val"].items()}
    if fields != others:
        raise ValueError(
            f"data file {path}: val: expected the fields of train, got {shortened(str(others), 120)}"
        )
    with RecordWriter(path, overwrite=True) as writer:
        for split in SPLITS:
            arrays = splits[split]
            n = len(next(iter(arrays.values())))
            if class_names is not None and "labels" in arrays:
                arrays["labels"] = _as_labels(arrays["labels"], f"data file {path}: {split} labels")
                fields["labels"] = Field("int64", fields["labels"].shape)
            writer.arrays(split, n, fields, lambda key, arrays=arrays: [arrays[key]])  # type: ignore[misc]
        writer.finish(
            class_names=class_names, name=name, description=description, source=source, licence=licence
        )


def _as_arrays(fields: Mapping[str, ArrayLike], path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    arrays = {key: np.asarray(values) for key, values in fields.items()}
    for key, values in arrays.items():
        if values.ndim == 0 or len(values) == 0:
            raise ValueError(f"data file {path}: {key}: expected an array (n, …), got {values.shape}")
    if not arrays:
        raise ValueError(f"data file {path}: expected at least one field, got none")
    return arrays


def write_stream(
    path: str | os.PathLike[str],
    train: ArrayLike,
    val: ArrayLike,
    *,
    name: str,
    tokens: str = "bytes",
    vocabulary: Literal["bytes"] | list[str] = "bytes",
    description: str = "Tokens.",
    source: str = "arrays in memory",
    licence: str = "not stated",
) -> None:
    """Write tokens as a stream for a language model.

    Parameters
    ----------
    path : path
        The file; one of that name is replaced.
    train, val : whole numbers (m,)
        Ids, from 0 to the size of the vocabulary - 1.
    tokens : "bytes", "characters" or "words"
        What a token is.
    vocabulary : "bytes" or list of str
        What the ids stand for.
    name, description, source, licence : str
        As in `write_arrays`.

    Raises
    ------
    ConfigError
        If the folder does not exist.
    ValueError
        If an id is not of the vocabulary, or a split is empty.

    Examples
    --------
    See `theanompi.data.store.records.TokenDataset`.
    """
    n_tokens = vocabulary_size(vocabulary)
    with RecordWriter(path, overwrite=True) as writer:
        for split, given in zip(SPLITS, (train, val), strict=True):
            ids = _as_ids(given, n_tokens, f"data file {path}: {split}")
            writer.stream(split, len(ids), token_dtype(n_tokens), [ids])
        writer.finish(
            tokens=tokens,
            vocabulary=vocabulary,
            name=name,
            description=description,
            source=source,
            licence=licence,
        )


def write_texts(
    path: str | os.PathLike[str],
    train: tuple[Sequence[ArrayLike], ArrayLike],
    val: tuple[Sequence[ArrayLike], ArrayLike],
    *,
    name: str,
    class_names: list[str],
    tokens: str = "bytes",
    vocabulary: Literal["bytes"] | list[str] = "bytes",
    description: str = "Texts.",
    source: str = "arrays in memory",
    licence: str = "not stated",
) -> None:
    """Write texts with labels.

    Parameters
    ----------
    path : path
        The file; one of that name is replaced.
    train, val : (sequence of whole numbers (m,), whole numbers (n,))
        The ids of each text, at least one, and the labels.
    class_names : list of str
        One per class, in the order of the labels.
    tokens, vocabulary, name, description, source, licence
        As in `write_stream`.

    Raises
    ------
    ConfigError
        If the folder does not exist.
    ValueError
        If an id is not of the vocabulary, a text is empty, or a label is of no class.

    Examples
    --------
    >>> import tempfile
    >>> from theanompi.data import open_dataset
    >>> texts = [list(b"good"), list(b"rather bad")], [1, 0]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_texts(f"{folder}/a.h5", texts, texts, name="a", class_names=["bad", "good"])
    ...     with open_dataset(f"{folder}/a.h5") as data:
    ...         data.offsets("train").tolist(), data.labels("train").tolist()
    ([0, 4, 14], [1, 0])
    """
    n_tokens = vocabulary_size(vocabulary)
    with RecordWriter(path, overwrite=True) as writer:
        for split, (texts, labels) in zip(SPLITS, (train, val), strict=True):
            ids = [
                _as_ids(text, n_tokens, f"data file {path}: {split} text {i}") for i, text in enumerate(texts)
            ]
            numbers = _as_labels(labels, f"data file {path}: {split} labels")
            writer.texts(split, [len(text) for text in ids], numbers, token_dtype(n_tokens), ids)
        writer.finish(
            tokens=tokens,
            vocabulary=vocabulary,
            class_names=class_names,
            name=name,
            description=description,
            source=source,
            licence=licence,
        )


def _as_labels(values: ArrayLike, where: str) -> NDArray[np.int64]:
    labels = np.asarray(values)
    if labels.dtype.kind not in "biu":
        raise ValueError(f"{where}: expected whole numbers (n,), got {labels.dtype} {labels.shape}")
    return labels.astype(np.int64)


def _as_ids(values: ArrayLike, n_tokens: int, where: str) -> NDArray[Any]:
    ids = np.asarray(values)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
        raise ValueError(f"{where}: expected whole numbers (m,), at least one, got {ids.dtype} {ids.shape}")
    if ids.min() < 0 or ids.max() >= n_tokens:
        raise ValueError(f"{where}: expected tokens from 0 to {n_tokens - 1}, got {ids.min()} to {ids.max()}")
    return ids
