"""The HDF5 format of arrays and of tokens, version 3: checked and opened here.

`theanompi.data.store.record_writer` writes it. Attributes of the root group:

=================================  =======================================================================
``format``, ``version``            ``"theanompi-dataset"``, 3
``modality``                       ``"arrays"`` or ``"tokens"``
``name``, ``description``          a short name and a sentence or two
``source``, ``licence``            where it comes from and on what terms it may be used
``fields``                         JSON text: by name, ``{"dtype": …, "shape": [of one item]}``
``class_names``                    if there are labels: strings, one per class, in their order
``train_count``, ``val_count``     number of items, of texts, or of a stream's tokens
``left_out``                       strings ``"name: reason"``: what could not be packed
``kind``                           of tokens: ``"stream"``, one text for a language model, or ``"texts"``
``tokens``                         of tokens, what they are: ``"bytes"``, ``"characters"`` or ``"words"``
``vocabulary``                     of tokens, JSON text: ``"bytes"``, or the list of texts that ids stand for
``n_tokens``                       size of the vocabulary
``sha256``                         SHA-256 over all other attributes and the arrays ``crc32`` and ``offsets``:
                                   see `index_sha256`
=================================  =======================================================================

Both groups, ``train`` and ``val``, have contiguous little-endian arrays, so that an item is read without HDF5:

==================  ======================================================================================
``fields/NAME``     arrays: the field (n, …). A field ``labels`` is int64 (n,) if there are class names
``tokens``          tokens: ids one after another, uint16 for up to 65,536 entries of the vocabulary, else
                    int32
``offsets``         texts: int64 (n + 1,), where each text begins in ``tokens``, and where the last one ends
``labels``          texts: int64 (n,)
``crc32``           uint32, CRC-32 (zlib's): of each item (its bytes in one field after another, in the order
                    of ``fields``), of each text, or of each 65,536 tokens of a stream
==================  ======================================================================================
"""

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from theanompi.config import got, shortened
from theanompi.data.modality import Field
from theanompi.data.store.hdf5 import (
    DAMAGE,
    READ_BYTES,
    SPLITS,
    OpenFile,
    Split,
    check_attributes,
    check_digest,
    check_labels,
    check_version,
    difference,
    digest,
    open_hdf5,
    plain,
)

VERSION = 3
MODALITIES = ("arrays", "tokens")
KINDS = ("stream", "texts")
TOKENS = ("bytes", "characters", "words")
STREAM_BLOCK = 65536
"""Tokens of a stream for one checksum."""
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
    *("float16", "float32", "float64"),
)
"""Of fields."""
RESERVED = ("keys", "weights")
"""What every batch has beside the fields."""
MOST_ITEM_BYTES = 2**30
_MOST_FIELDS, _MOST_DIMENSIONS, _MOST_NAME = 64, 16, 64
_TEXTS = ("modality", "name", "description", "source", "licence", "fields", "sha256")
_TOKEN_TEXTS = ("kind", "tokens", "vocabulary")

Kind = Literal["stream", "texts"]


def vocabulary_size(vocabulary: Literal["bytes"] | list[str]) -> int:
    """Count the tokens that ids stand for."""
    return 256 if vocabulary == "bytes" else len(vocabulary)


def token_dtype(n_tokens: int) -> str:
    """Name the dtype of the ids of a vocabulary.

    Examples
    --------
    >>> token_dtype(65536), token_dtype(65537)
    ('uint16', 'int32')
    """
    return "uint16" if n_tokens <= 2**16 else "int32"


def field_trouble(name: str, field: Field) -> str:
    """Say what is wrong with a field's name, dtype or shape; nothing if it is fine."""
    if not name.isidentifier() or len(name) > _MOST_NAME:
        return f"expected a name of letters, digits and _, at most {_MOST_NAME}, got {got(name, 80)}"
    if name in RESERVED:
        return f"expected a name other than {' and '.join(RESERVED)}, which every batch has, got {name}"
    if field.dtype not in DTYPES:
        return f"expected {', '.join(DTYPES)}, got {shortened(field.dtype, 80)}"
    if len(field.shape) > _MOST_DIMENSIONS or 0 in field.shape or field.nbytes > MOST_ITEM_BYTES:
        return (
            f"expected items of at most {_MOST_DIMENSIONS} dimensions and 1 to {MOST_ITEM_BYTES:,} bytes, "
            f"got {field.dtype} {got(field.shape, 80)}"
        )
    return ""


def index_sha256(file: h5py.File) -> str:
    """Digest the attributes (but ``sha256``) as sorted JSON, then each split's ``crc32``, ``offsets`` and ``labels``.

    The last two are those of texts: the labels of arrays are a field, which ``crc32`` stands for.
    """
    texts = file.attrs.get("kind") == "texts"
    columns = ("crc32", *(["offsets", "labels"] * texts))
    return digest(file, [f"{split}/{name}" for split in SPLITS for name in columns])


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"attribute {name!r}: expected JSON text, got {got(text)}") from None


def _fields_in(text: str) -> dict[str, Field]:
    """Read the attribute ``fields``."""
    content = _json(text, "fields")
    if not isinstance(content, dict) or not 0 < len(content) <= _MOST_FIELDS:
        raise ValueError(
            f"attribute 'fields': expected 1 to {_MOST_FIELDS} fields by name, got {got(content)}"
        )
    fields = {}
    for name, given in content.items():
        right = (
            isinstance(given, dict)
            and set(given) == {"dtype", "shape"}
            and isinstance(given["dtype"], str)
            and isinstance(given["shape"], list)
            and all(type(size) is int and 0 < size < 2**63 for size in given["shape"])
        )
        if not right:
            raise ValueError(
                f"attribute 'fields': {shortened(name, 80)}: expected a dtype and a shape, got {got(given)}"
            )
        fields[name] = Field(given["dtype"], tuple(given["shape"]))
        wrong = field_trouble(name, fields[name])
        if wrong:
            raise ValueError(f"attribute 'fields': {shortened(name, 80)}: {wrong}")
    return fields


def _vocabulary_in(text: str) -> Literal["bytes"] | list[str]:
    """Read the attribute ``vocabulary``."""
    content = _json(text, "vocabulary")
    texts = isinstance(content, list) and content and all(isinstance(entry, str) for entry in content)
    if content != "bytes" and not texts:
        raise ValueError(f"attribute 'vocabulary': expected \"bytes\" or a list of texts, got {got(content)}")
    return content


def _array(file: h5py.File, name: str, dtype: str, shape: tuple[int, ...]) -> h5py.Dataset:
    """Find an array that must be contiguous, of this dtype and shape, and wholly in the file."""
    array = file.get(name)
    if not isinstance(array, h5py.Dataset):
        raise ValueError(f"expected a data set {name}, found none")
    little = np.dtype(dtype).newbyteorder("<")
    if array.dtype != little or array.shape != shape:
        found = shortened(str(array.dtype), 80)
        raise ValueError(f"{name}: expected {dtype} {shape}, got {found} {got(array.shape, 80)}")
    start = array.id.get_offset()
    if array.chunks is not None or start is None:
        raise ValueError(f"{name}: expected a contiguous array, got one in pieces or nowhere")
    # Else a small file could ask for any amount of memory.
    end = start + math.prod(shape) * little.itemsize
    size = os.stat(file.filename).st_size
    if end > size:
        raise ValueError(f"{name}: expected it to end within the {size:,} bytes of the file, got {end:,}")
    return array


def check(file: h5py.File) -> None:
    """Check that a file satisfies the schema, the bytes of its items excepted.

    Raises
    ------
    ValueError
        One line that says what is wrong, and where in the file.
    """
    check_version(file, VERSION)
    attributes = file.attrs
    counts, known = ("train_count", "val_count"), {"modality": MODALITIES}
    check_attributes(file, texts=_TEXTS, lists=("left_out",), whole=counts, known=known)
    if "class_names" in attributes:
        check_attributes(file, lists=("class_names",))
    for split in SPLITS:
        if not 1 <= attributes[f"{split}_count"] < 2**62:
            raise ValueError(
                f"attribute '{split}_count': expected at least 1, got {attributes[f'{split}_count']}"
            )
    fields = _fields_in(attributes["fields"])
    if attributes["modality"] == "arrays":
        _check_arrays(file, fields)
    else:
        _check_tokens(file, fields)
    check_digest(file, index_sha256(file))


def _check_arrays(file: h5py.File, fields: dict[str, Field]) -> None:
    if "class_names" in file.attrs and fields.get("labels") != Field("int64", ()):
        raise ValueError("attribute 'class_names': expected a field labels, int64 (), got none")
    for split in SPLITS:
        n = int(file.attrs[f"{split}_count"])
        for name, field in fields.items():
            values = _array(file, f"{split}/fields/{name}", field.dtype, (n, *field.shape))
            if name == "labels" and "class_names" in file.attrs:
                check_labels(values[:], len(plain(file.attrs["class_names"])), f"{split}/fields/labels")
        _array(file, f"{split}/crc32", "uint32", (n,))


def _check_tokens(file: h5py.File, fields: dict[str, Field]) -> None:
    attributes = file.attrs
    known = {"kind": KINDS, "tokens": TOKENS}
    check_attributes(file, texts=_TOKEN_TEXTS, whole=("n_tokens",), known=known)
    vocabulary = _vocabulary_in(attributes["vocabulary"])
    if (vocabulary == "bytes") != (attributes["tokens"] == "bytes"):
        raise ValueError(
            f"attribute 'vocabulary': expected one of {attributes['tokens']}, got {got(vocabulary)}"
        )
    n_tokens = vocabulary_size(vocabulary)
    if attributes["n_tokens"] != n_tokens:
        raise ValueError(
            f"attribute 'n_tokens': expected {n_tokens}, the size of the vocabulary, got {attributes['n_tokens']}"
        )
    texts = attributes["kind"] == "texts"
    expected = token_fields(n_tokens, texts)
    if fields != expected:
        wrong = {name: str(field) for name, field in fields.items()}
        right = {name: str(field) for name, field in expected.items()}
        raise ValueError(f"attribute 'fields': expected {right}, got {got(wrong)}")
    if texts != ("class_names" in attributes):
        raise ValueError("attribute 'class_names': expected it for texts, and only for them")
    for split in SPLITS:
        n = int(attributes[f"{split}_count"])
        if not texts:
            _array(file, f"{split}/tokens", expected["tokens"].dtype, (n,))
            _array(file, f"{split}/crc32", "uint32", (-(-n // STREAM_BLOCK),))
            continue
        offsets = _array(file, f"{split}/offsets", "int64", (n + 1,))[:]
        last = int(offsets[-1])
        if offsets[0] != 0 or (offsets[1:] <= offsets[:-1]).any():
            raise ValueError(f"{split}/offsets: expected increasing positions from 0 on, got others")
        _array(file, f"{split}/tokens", expected["tokens"].dtype, (last,))
        labels = _array(file, f"{split}/labels", "int64", (n,))[:]
        check_labels(labels, len(plain(attributes["class_names"])), f"{split}/labels")
        _array(file, f"{split}/crc32", "uint32", (n,))


def token_fields(n_tokens: int, texts: bool) -> dict[str, Field]:
    """Fields of tokens: the ids and, of texts, the labels.

    Examples
    --------
    >>> token_fields(256, texts=True)
    {'tokens': Field(dtype='uint16', shape=()), 'labels': Field(dtype='int64', shape=())}
    """
    return {"tokens": Field(token_dtype(n_tokens), ()), **({"labels": Field("int64", ())} if texts else {})}


def modality_of(path: str | os.PathLike[str]) -> str:
    """Say of what modality a data file is: "arrays" or "tokens" of version 3, else "pictures", unchecked.

    Raises
    ------
    ConfigError, ValueError
        As `theanompi.data.store.hdf5.open_hdf5`, and if a file of version 3 has another modality.
    """
    with open_hdf5(Path(path)) as file:
        try:
            version, found = file.attrs.get("version"), file.attrs.get("modality")
        except (OSError, *DAMAGE) as error:
            raise ValueError(f"data file {path}: damaged ({shortened(str(error), 120)})") from None
        except ValueError as error:
            raise ValueError(f"data file {path}: {shortened(str(error), 120)}") from None
    if not isinstance(version, np.integer) or version != VERSION:
        return "pictures"
    if not isinstance(found, str) or found not in MODALITIES:
        raise ValueError(
            f"data file {path}: attribute 'modality': expected one of {', '.join(MODALITIES)}; got {got(plain(found))}"
        )
    return found


class RecordDataset(OpenFile):
    """An opened file of arrays or tokens: its index is in memory, its items stay in the file.

    Parameters
    ----------
    path : path
        A file in the format of this module.
    check_items : bool
        Compare the items with their checksums if they take at most 64 MiB. Those of larger files, and what is
        wrong with more than one, `verify` tells.

    Attributes
    ----------
    modality : "arrays" or "tokens"
    path : Path
    name, description, source, licence : str
    n_train, n_val : int
        Number of items, of texts, or of a stream's tokens.
    noun : str
        What these are: "items", "texts" or "tokens".
    fields : dict of str to Field
        Dtype and shape in one item, in the order in which an item's checksum takes them.
    class_names : list of str
        Empty if there are no labels.
    n_classes : int
        0 if there are no labels.
    left_out : list of str
        What could not be packed, and why.
    sha256 : str
        What tells its contents from any other's, wherever the file lies: `index_sha256`.

    Raises
    ------
    ConfigError
        If there is no readable file at `path`.
    ValueError
        If it is not HDF5, truncated, damaged, or does not satisfy the schema: one line that says what and where.
    """

    def __init__(self, path: str | os.PathLike[str], check_items: bool = True) -> None:
        super().__init__(path, check, check_items)

    def _index(self, file: h5py.File, attributes: Mapping[str, Any]) -> None:
        self.fields = _fields_in(attributes["fields"])


class ArrayDataset(RecordDataset):
    """An opened file of arrays: fields by name, each with one value per item.

    See `RecordDataset` for what it has.

    Examples
    --------
    >>> import tempfile
    >>> from theanompi.data import open_dataset, write_arrays
    >>> split = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "y": np.array([1.5, 2.5, 3.5])}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_arrays(f"{folder}/a.h5", split, split, name="a")
    ...     with open_dataset(f"{folder}/a.h5") as data:
    ...         data.fields["x"], data.item("val", 1)["x"].tolist(), data.column("train", "y").tolist()
    (Field(dtype='float32', shape=(2,)), [2.0, 3.0], [1.5, 2.5, 3.5])
    """

    modality = "arrays"

    def _index(self, file: h5py.File, attributes: Mapping[str, Any]) -> None:
        super()._index(file, attributes)
        self._starts = {
            (split, name): file[f"{split}/fields/{name}"].id.get_offset()
            for split in SPLITS
            for name in self.fields
        }

    def nbytes(self, split: Split) -> int:
        return self.count(split) * sum(field.nbytes for field in self.fields.values())

    def item_name(self, split: Split, i: int) -> str:
        return f"item {i}"

    def locate(
        self, split: Split, field: str, ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Say where a field of some items lies in the file.

        Parameters
        ----------
        split : "train" or "val"
        field : str
        ids : int64 (n,)

        Returns
        -------
        positions, lengths : int64 (n,)
            Bytes from the beginning of the file, and their number.

        Raises
        ------
        IndexError
            If an id is past the end.
        """
        if len(ids) and not (0 <= ids.min() and ids.max() < self.count(split)):
            raise IndexError(f"{split}: expected ids from 0 to {self.count(split) - 1}, got others")
        size = self.fields[field].nbytes
        return self._starts[split, field] + ids * size, np.full(len(ids), size, np.int64)

    def column(self, split: Split, field: str) -> NDArray[Any]:
        """Read a field of all items of a split, (n, …): for small ones, such as labels."""
        return self._rows(split, field, 0, self.count(split))

    def item(self, split: Split, i: int) -> dict[str, NDArray[Any]]:
        """Read all fields of one item."""
        return {name: self._rows(split, name, i, i + 1)[0] for name in self.fields}

    def _rows(self, split: Split, field: str, start: int, stop: int) -> NDArray[Any]:
        dtype, shape = self.fields[field]
        size = self.fields[field].nbytes
        data = self._read(
            self._starts[split, field] + start * size, (stop - start) * size, f"{split} field {field}"
        )
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(stop - start, *shape)

    def verify(self) -> Iterator[tuple[Split, int, str | None]]:
        sizes = {name: field.nbytes for name, field in self.fields.items()}
        step = max(1, READ_BYTES // sum(sizes.values()))
        for split in SPLITS:
            for first in range(0, self.count(split), step):
                expected = self._checksums[split][first : first + step].tolist()
                found, wrong = [0] * len(expected), dict[int, str]()
                for name, size in sizes.items():
                    data, trouble = self._bytes(
                        self._starts[split, name] + first * size, len(expected) * size
                    )
                    for i in range(len(expected)):
                        part = data[i * size : (i + 1) * size]
                        if len(part) != size:
                            wrong.setdefault(i, f"{name}: expected {size} bytes, got {len(part)}{trouble}")
                        found[i] = zlib.crc32(part, found[i])
                for i, checksum in enumerate(expected):
                    yield split, first + i, wrong.get(i) or difference(found[i], checksum)


class TokenDataset(RecordDataset):
    """An opened file of tokens: one stream for a language model, or texts with labels.

    It has what `RecordDataset` has, and besides:

    Attributes
    ----------
    kind : "stream" or "texts"
    tokens : "bytes", "characters" or "words"
        What a token is.
    vocabulary : "bytes" or list of str
        What the ids stand for.
    n_tokens : int
        Size of the vocabulary: ids are 0 … n_tokens - 1.
    dtype : dtype
        Of the ids in the file.

    Examples
    --------
    >>> import tempfile
    >>> from theanompi.data import open_dataset, write_stream
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_stream(f"{folder}/a.h5", list(b"To be, or not"), list(b"to be"), name="a")
    ...     with open_dataset(f"{folder}/a.h5") as data:
    ...         data.n_tokens, data.length("train"), data.ids("val", 0, 2), data.text(data.ids("val", 3, 5))
    (256, 13, array([116, 111], dtype=uint16), 'be')
    """

    modality = "tokens"

    def _index(self, file: h5py.File, attributes: Mapping[str, Any]) -> None:
        super()._index(file, attributes)
        self.kind: Kind = attributes["kind"]
        self.tokens: str = attributes["tokens"]
        self.vocabulary = _vocabulary_in(attributes["vocabulary"])
        self.n_tokens: int = attributes["n_tokens"]
        self.dtype = np.dtype(self.fields["tokens"].dtype).newbyteorder("<")
        self.noun = "texts" if self.kind == "texts" else "tokens"
        self._starts = {split: file[f"{split}/tokens"].id.get_offset() for split in SPLITS}
        self._lengths = {split: file[f"{split}/tokens"].shape[0] for split in SPLITS}
        self._columns = {
            (split, name): file[f"{split}/{name}"][:]
            for split in SPLITS
            for name in ("offsets", "labels")
            if self.kind == "texts"
        }

    def nbytes(self, split: Split) -> int:
        return self.length(split) * self.dtype.itemsize

    def item_name(self, split: Split, i: int) -> str:
        if self.kind == "texts":
            return f"text {i}"
        first = i * STREAM_BLOCK
        return f"tokens {first:,} to {min(first + STREAM_BLOCK, self.length(split)) - 1:,}"

    def length(self, split: Split) -> int:
        """Count all tokens of a split."""
        return self._lengths[split]

    def start(self, split: Split) -> int:
        """Say at which byte of the file the first token of a split lies."""
        return self._starts[split]

    def offsets(self, split: Split) -> NDArray[np.int64]:
        """Say at which token of the split each text begins, and where the last one ends: int64 (n + 1,).

        Of a stream, 0 and its end.
        """
        if self.kind == "stream":
            return np.array([0, self.length(split)], np.int64)
        return self._columns[split, "offsets"]

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Give the label of each text, int64 (n,).

        Raises
        ------
        ValueError
            If it is a stream, which has none.
        """
        if self.kind == "stream":
            raise ValueError(f"data file {self.path}: expected texts with labels, got a stream of tokens")
        return self._columns[split, "labels"]

    def ids(self, split: Split, start: int, stop: int) -> NDArray[Any]:
        """Read the tokens from `start` up to, not including, `stop`, counted in the split; (stop - start,)."""
        size = self.dtype.itemsize
        data = self._read(
            self._starts[split] + start * size,
            (stop - start) * size,
            f"{split} tokens {start:,} to {stop - 1:,}",
        )
        return np.frombuffer(data, self.dtype)

    def text(self, ids: NDArray[Any]) -> str:
        """Write ids as text: words with spaces between them, ``<eos>`` as a new line."""
        if isinstance(self.vocabulary, str):
            return bytes(ids.tolist()).decode(errors="replace")
        texts = [self.vocabulary[i] for i in ids.tolist()]
        return "".join(texts) if self.tokens == "characters" else " ".join(texts).replace("<eos>", "\n")

    def verify(self) -> Iterator[tuple[Split, int, str | None]]:
        for split in SPLITS:
            offsets = self.offsets(split)
            if self.kind == "stream":
                offsets = np.append(np.arange(0, self.length(split), STREAM_BLOCK), self.length(split))
            size = self.dtype.itemsize
            for i, part, wrong in self._verified(split, self._starts[split], offsets * size):
                yield split, i, wrong or self._outside(np.frombuffer(part, self.dtype))

    def _outside(self, ids: NDArray[Any]) -> str | None:
        wrong = ids[(ids < 0) | (ids >= self.n_tokens)]
        return f"expected tokens from 0 to {self.n_tokens - 1}, got {wrong[0]}" if wrong.size else None
