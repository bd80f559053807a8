"""Files of weights: ours, Lasagne's and torch's, read without executing anything that is in them, and written.

What a file is shows in its first bytes, not in its name:

- a checkpoint (:mod:`theanompi.record.checkpoint`), or the folder of a run;
- ``.npz``, of named arrays or of ``np.savez(file, *get_all_param_values(network))``;
- a pickle as in Lasagne's model zoo, also of Python 2: a list, a dictionary of arrays, or one with either in it;
- a ``state_dict`` of torch (``.pt``, ``.pth``), read with ``weights_only=True``;
- safetensors: its length in eight bytes, a header of JSON, the bytes of the arrays. That is less code in NumPy than a
  dependency is worth.
"""

import hashlib
import io
import json
import mmap
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from theanompi.config import ConfigError, got, shortened
from theanompi.config.files import check_new, instead_of_file, reason, write_whole, writing
from theanompi.record import checkpoint, pickles
from theanompi.record.folder import CHECKPOINT_FILE

ENDINGS = (".safetensors", ".pt", ".pth", ".npz", ".h5")
"""What `write_weights` can write, by the end of the file's name."""
INSIDE = ("state_dict", "model_state_dict", "model", "param values", "params", "values")
"""Under which of these names a dictionary of other things has the weights."""
WEIGHTS = "weights/"
"""How the names of weights begin in a checkpoint."""

_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1"},
}
# The number that torch's files began with before they were zip archives, as a pickle.
_OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_CONTENT = "a checkpoint, an npz file, a pickle, a state_dict of torch or a safetensors file"


class Weights(NamedTuple):
    """What a file of weights has.

    Attributes
    ----------
    arrays : dict of str to ndarray
        By the names that they have in the file.
    ordered : bool
        There are no names in it, only an order, that of Lasagne's ``get_all_params``: they are called 0, 1, ….
    path : Path
        Of the file.
    sha256 : str
        Of all its bytes.
    """

    arrays: dict[str, np.ndarray]
    ordered: bool
    path: Path
    sha256: str


class _Odd(ValueError):
    """What a file has other than weights, in words."""


def read_weights(path: str | Path) -> Weights:
    """Read a file of weights, or the checkpoint in the folder of a run.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    ConfigError
        In one line: if there is no such file, if it is truncated, damaged or of another kind, or a pickle in it would
        do more than make arrays and containers, naming what it would load.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(folder + "/net.npz", np.ones((2, 3)), np.zeros(3))
    ...     weights = read_weights(folder + "/net.npz")
    >>> weights.ordered, {name: array.shape for name, array in weights.arrays.items()}
    (True, {'0': (2, 3), '1': (3,)})
    """
    path = Path(path)
    if os.path.isdir(path):
        path /= CHECKPOINT_FILE
    wrong = instead_of_file(path)
    if wrong:
        raise ConfigError(f"weights {path}: expected a file, got {wrong}")
    try:
        with open(path, "rb") as file:
            start = file.read(512)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        arrays, ordered = _arrays(_reader(path, start)(path))
        return Weights(arrays, ordered, path, digest)
    except _Odd as error:
        problem = str(error)
    except OSError as error:
        problem = f"expected to be read, got: {reason(error)}"
    except Exception as error:  # whatever a damaged file makes its library raise
        line = shortened(str(error).split("\n")[0], 100)
        problem = f"expected {_CONTENT}, got a damaged or truncated one ({type(error).__name__}: {line})"
    raise ConfigError(f"weights {path}: {problem}")


def _reader(path: Path, start: bytes) -> Callable[[Path], Any]:
    """What reads a file that starts so."""
    if start.startswith(b"theanompi checkpoint"):
        return _read_checkpoint
    if start.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            return _read_torch if any(n.endswith("data.pkl") for n in archive.namelist()) else _read_npz
    if start[2:].startswith(_OLD_TORCH):
        return _read_torch
    if start[8:9] == b"{":
        return _read_safetensors
    # Pickles of protocol 2 and up, and the text of older ones: a mark or an empty container.
    if start[:1] in (b"\x80", b"(", b"]", b"}", b"c"):
        return _read_pickle
    raise _Odd(f"expected {_CONTENT}, got one that begins with {got(start[:16])}")


def _arrays(content: Any) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays in what a file was read to, and whether they have only an order."""
    for _ in INSIDE:
        if not isinstance(content, Mapping):
            break
        inner = next((content[k] for k in INSIDE if isinstance(content.get(k), Mapping | list | tuple)), None)
        if inner is None:
            break
        content = inner
    if isinstance(content, Mapping):
        found = {str(name): _array(value) for name, value in content.items()}
        named = {name: array for name, array in found.items() if array is not None}
        numbers = [name for name in named if re.fullmatch(r"arr_\d+", name)]
        if len(numbers) < len(named) or not named:
            return named, False
        content = [named[f"arr_{i}"] for i in sorted(int(name.removeprefix("arr_")) for name in numbers)]
    if not isinstance(content, list | tuple):
        raise _Odd(f"expected arrays by name or a list of them, got {type(content).__name__}")
    arrays = {str(i): _array(value) for i, value in enumerate(content)}
    odd = next((name for name, array in arrays.items() if array is None), None)
    if odd is not None:
        raise _Odd(f"expected a list of arrays, got {type(content[int(odd)]).__name__} at {odd}")
    return {name: array for name, array in arrays.items() if array is not None}, True


def _array(value: Any) -> np.ndarray | None:
    """An array of numbers, also of a tensor; None for anything else."""
    if hasattr(value, "detach"):
        tensor = value.detach().cpu()
        value = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    array = np.asarray(value) if isinstance(value, np.ndarray | np.generic) else None
    return array if array is not None and array.dtype.kind in "biuf" else None


def _read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays, _ = checkpoint.load(path)
    except ValueError as error:
        raise _Odd(str(error).removeprefix(f"checkpoint {path}: ")) from None
    found = {k.removeprefix(WEIGHTS): array for k, array in arrays.items() if k.startswith(WEIGHTS)}
    if not found:
        raise _Odd(f"expected a checkpoint with {WEIGHTS}…, got one without")
    return found


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_torch(path: Path) -> Any:
    import torch  # which takes its time, and only these files need it

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        if name is None:
            raise
        raise _Odd(
            f"expected a state_dict, got one that would load {name[1]}, which is not executed"
        ) from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    if begin > len(content):
        raise _Odd(f"expected a header of {begin - 8} bytes, got {len(content) - 8}: the file is truncated")
    header = json.loads(content[8:begin])
    arrays = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        kind, shape, (start, end) = about["dtype"], about["shape"], about["data_offsets"]
        if kind not in _DTYPES:
            raise _Odd(f"array {got(name)}: expected one of {', '.join(_DTYPES)}, got dtype {got(kind)}")
        if not 0 <= start <= end <= len(content) - begin:
            raise _Odd(
                f"array {got(name)}: expected {end} bytes of data, got {len(content) - begin}: the file is truncated"
            )
        array = np.frombuffer(content[begin + start : begin + end], _DTYPES[kind]).reshape(shape)
        # The upper half of a float32.
        arrays[name] = (array.astype("<u4") << 16).view("<f4") if kind == "BF16" else array
    return arrays


def _dtype(kind: str, align: int = False, copy: int = False) -> np.dtype[Any]:
    """`numpy.dtype`, also with the 0 and 1 that Python 2 had for False and True there."""
    return np.dtype(kind, bool(align), bool(copy))


class _Unpickler(pickles.Unpickler):
    """Loads arrays and numbers of any dtype, and plain containers."""

    names = {
        **pickles.ARRAYS,
        ("numpy", "dtype"): _dtype,
        **pickles.of_numpy("multiarray.scalar", np.float32(1).__reduce__()[0]),
        ("collections", "OrderedDict"): OrderedDict,
        **{
            (module, kind.__name__): kind
            for module in ("builtins", "__builtin__")
            for kind in (list, dict, tuple, set, frozenset)
        },
    }


def _read_pickle(path: Path) -> Any:
    # Mapped, a file gives no more than it has, and makes no room for more.
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Python 2's texts, in which also arrays are.
        unpickler = _Unpickler(content, encoding="latin1")
        try:
            return unpickler.load()
        except pickles.NotLoaded as error:
            what = got(str(error))
            raise _Odd(f"expected arrays and containers, got a pickle that would load {what}") from None


def write_weights(path: str | Path, arrays: Mapping[str, np.ndarray], *, overwrite: bool = False) -> None:
    """Write weights by name, in the format that the end of the file's name says, one of `ENDINGS`.

    Parameters
    ----------
    path : str or Path
        The file has this name only when it is whole.
    arrays : mapping of str to ndarray
        They are written as float32.
    overwrite : bool
        Replace a file that is there.

    Raises
    ------
    ConfigError
        For another ending, or if there is something of that name.
    theanompi.config.files.CannotWrite
        If it cannot be written; what was there is kept.
    """
    path = Path(path)
    check_out(path, overwrite=overwrite)
    arrays = {name: np.array(array, "<f4", order="C") for name, array in arrays.items()}
    if path.suffix == ".h5":
        checkpoint.save(path, {f"{WEIGHTS}{name}": array for name, array in arrays.items()}, {})
        return
    if path.suffix == ".safetensors":
        content = _safetensors(arrays)
    else:
        memory = io.BytesIO()
        if path.suffix == ".npz":
            np.savez(memory, **arrays)  # type: ignore[arg-type]
        else:
            import torch

            torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, memory)
        content = memory.getvalue()
    with writing(path):
        write_whole(path, content)


def check_out(path: str | Path, *, overwrite: bool) -> None:
    """Check that weights may be written to a file of this name.

    Raises
    ------
    ConfigError
        As `write_weights`.
    """
    ending = Path(path).suffix
    if ending not in ENDINGS:
        raise ConfigError(
            f"weights {path}: expected a name that ends with {', '.join(ENDINGS)}, got {got(ending)}"
        )
    check_new(path, f"weights {path}", overwrite=overwrite)


def _safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in sorted(arrays):
        end = start + arrays[name].nbytes
        header[name] = {"dtype": "F32", "shape": arrays[name].shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join(
        [len(text).to_bytes(8, "little"), text, *(arrays[name].tobytes() for name in sorted(arrays))]
    )
