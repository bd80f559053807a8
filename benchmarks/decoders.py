"""JPEG decoders on the same photographs: a section of `loader_throughput.py`.

Each decodes whole files from memory to RGB arrays in one thread, at full size and at half of it. Libraries that
are missing are listed with the reason: the package needs only Pillow and simplejpeg.
"""

import importlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import common
import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

Decode = Callable[[bytes], NDArray[np.uint8]]


def pillow() -> dict[str, Decode]:
    """Pillow, at half size by its draft mode."""

    def full(data: bytes) -> NDArray[np.uint8]:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def half(data: bytes) -> NDArray[np.uint8]:
        image = Image.open(io.BytesIO(data))
        # The draft is the smallest one that is not below the size asked for.
        image.draft("RGB", (image.width // 2, image.height // 2))
        return np.asarray(image.convert("RGB"))

    return {"full": full, "half": half}


def simplejpeg() -> dict[str, Decode]:
    """The package's own way: simplejpeg."""
    from theanompi.data.pictures.decode import decode_jpeg

    return {"full": decode_jpeg, "half": lambda data: decode_jpeg(data, 2)}


def pyturbojpeg() -> dict[str, Decode]:
    """PyTurboJPEG, which needs a libturbojpeg of the system."""
    turbojpeg = importlib.import_module("turbojpeg")
    decoder = turbojpeg.TurboJPEG()
    rgb = turbojpeg.TJPF_RGB
    return {
        "full": lambda data: decoder.decode(data, pixel_format=rgb),
        "half": lambda data: decoder.decode(data, pixel_format=rgb, scaling_factor=(1, 2)),
    }


def opencv() -> dict[str, Decode]:
    """OpenCV, which gives BGR: turned round, as networks are trained on RGB."""
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)

    def decoder(flag: int) -> Decode:
        def decode(data: bytes) -> NDArray[np.uint8]:
            bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
            return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))

        return decode

    # Else it would turn pictures upright, which the others leave to the caller.
    as_stored = cv2.IMREAD_IGNORE_ORIENTATION
    return {
        "full": decoder(cv2.IMREAD_COLOR | as_stored),
        "half": decoder(cv2.IMREAD_REDUCED_COLOR_2 | as_stored),
    }


LIBRARIES: dict[str, Callable[[], dict[str, Decode]]] = {
    "pillow": pillow,
    "simplejpeg": simplejpeg,
    "pyturbojpeg": pyturbojpeg,
    "opencv-python-headless": opencv,
}


def available(
    libraries: Mapping[str, Callable[[], dict[str, Decode]]],
) -> tuple[dict[str, dict[str, Decode]], dict[str, str]]:
    """Find out which libraries can be used.

    Parameters
    ----------
    libraries : mapping of str to callable
        By name, what gives the decoders.

    Returns
    -------
    decoders : dict of str to dict
    missing : dict of str to str
        By name, the reason.

    Examples
    --------
    >>> def lacking():
    ...     raise ModuleNotFoundError("No module named 'fast'")
    >>> available({"good": dict, "fast": lacking})
    ({'good': {}}, {'fast': "No module named 'fast'"})
    """
    decoders, missing = {}, {}
    for name, library in libraries.items():
        try:
            decoders[name] = library()
        except (ImportError, RuntimeError, OSError) as error:  # the last two: no shared library
            missing[name] = " ".join(str(error).split())
    return decoders, missing


def measure(
    photographs: Sequence[bytes],
    rounds: int,
    libraries: Mapping[str, Callable[[], dict[str, Decode]]] = LIBRARIES,
) -> dict[str, Any]:
    """Milliseconds per photograph of each library, in turn, the order reversed every round.

    Parameters
    ----------
    photographs : sequence of bytes
        JPEG files.
    rounds : int
        How often each library decodes all of them, after once as warm-up.
    libraries : mapping
        As `LIBRARIES`.

    Returns
    -------
    dict
        ``photographs``; ``ms_per_image``, a `common.spread` for each library and scale; ``versions``; ``missing``.
    """
    decoders, missing = available(libraries)
    variants = [
        (f"{name}, {scale}", decode) for name, scales in decoders.items() for scale, decode in scales.items()
    ]
    samples: dict[str, list[float]] = {name: [] for name, _ in variants}
    for turn in range(rounds + 1):
        for name, decode in variants[:: 1 if turn % 2 == 0 else -1]:
            start = time.perf_counter()
            for data in photographs:
                decode(data)
            if turn:
                samples[name].append(1e3 * (time.perf_counter() - start) / len(photographs))
    return {
        "photographs": len(photographs),
        "rounds": rounds,
        "ms_per_image": {name: common.spread(values) for name, values in samples.items()},
        "versions": versions(*decoders) | {"libjpeg-turbo of pillow": features.version("libjpeg_turbo")},
        "missing": missing,
    }


def versions(*names: str) -> dict[str, str]:
    """The versions of those distributions that are installed.

    Examples
    --------
    >>> list(versions("numpy", "no-such-distribution"))
    ['numpy']
    """
    installed = {
        distribution.metadata["Name"].lower(): distribution.version
        for distribution in metadata.distributions()
    }
    return {name: installed[name] for name in names if name in installed}


def show(report: Mapping[str, Any]) -> None:
    """Print a `measure` report as a table."""
    print(f"decoders: ms per image, {report['photographs']} photographs, {report['rounds']} rounds")
    for name, row in report["ms_per_image"].items():
        print(f"  {name:<32}{row['median']:8.3f} ({row['q1']:.3f}–{row['q3']:.3f})")
    for name, reason in report["missing"].items():
        print(f"  {name:<32} not installed: {reason}")
