"""From the bytes of an image file to RGB pixels, whatever odd file it is.

`decode_jpeg` is the fast way, for the JPEG files in a data set: libjpeg-turbo by way of simplejpeg, at reduced
scale on request. `decode` and `as_jpeg` take any file on the way into a data set: what is named .JPEG may be
greyscale, CMYK, rotated by its EXIF tag, or a PNG.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from theanompi.data.reading.reader import BadItem
from theanompi.system import cgroup

Pixels = NDArray[np.uint8]
Seen = TypeVar("Seen")

_JPEG = ("JPEG", "MPO")  # MPO: a JPEG file with further pictures behind it, as telephones write them
_ORIENTATION = 0x0112
# Formats whose greys of more than 8 bits fill 16, in Pillow's readers; that of PPM says I, that of PNG did.
_GREYS_OF_16_BITS = ("PNG", "PPM", "JPEG2000", "IM", "ICO", "ICNS")
# Tags of TIFF.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
# While a picture becomes an array: Pillow's pixel of 4 bytes, once more when it is converted or turned, the array,
# and what it is made of.
_BYTES_PER_PIXEL = 16
# What undoes each value of the EXIF tag: Exif 2.32, §4.6.4 A.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(BadItem):
    """A file that shows no picture; the message is the reason, one line without the file's name."""


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn what Pillow says about a file, in warnings and exceptions of many kinds, into `BadImage`."""
    try:
        # A warning (odd EXIF data, a palette with transparency) is about something that does not matter here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage("not an image") from None
    except Exception as error:
        # Pillow's readers let through whatever the damage makes happen: OSError, SyntaxError, struct.error, …
        reason = " ".join(str(error).split()) or type(error).__name__
        truncated = isinstance(error, EOFError) or "truncated" in reason.lower()
        raise BadImage("truncated" if truncated else f"damaged ({reason})") from None


@contextmanager
def _limits_of_memory() -> Iterator[None]:
    """Let Pillow read what it takes for an attack, as far as there is memory: the files are the user's own.

    Of the memory half is taken, as other workers read pictures too.
    """
    free = cgroup.free_memory() // 2
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    # Pillow refuses what has more than twice as many.
    Image.MAX_IMAGE_PIXELS = free // _BYTES_PER_PIXEL // 2
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = free // 4
    try:
        yield
    except (Image.DecompressionBombError, MemoryError):
        raise _too_large(free) from None
    except ValueError as error:
        if not _is_about_text(error):
            raise
        raise BadImage(f"more text in it than there is memory for, {free >> 22} MiB") from None
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = before


def _too_large(free: int) -> BadImage:
    return BadImage(
        f"more pixels than there is memory for, {_BYTES_PER_PIXEL} bytes each of {free >> 20} MiB"
    )


def _is_about_text(error: Exception) -> bool:
    return "PngImagePlugin.MAX_TEXT" in str(error) or "MAX_TEXT_MEMORY" in str(error)


def _look(
    data: bytes | memoryview, see: Callable[[Image.Image], Seen], formats: tuple[str, ...] | None = None
) -> Seen:
    """Open a file, and give what `see` makes of it."""
    if not len(data):
        raise BadImage("empty file")
    with _reasons():
        try:
            return see(Image.open(io.BytesIO(data), formats=formats))
        except (Image.DecompressionBombError, ValueError) as error:
            if isinstance(error, ValueError) and not _is_about_text(error):
                raise
        # Only now, because it takes a while to ask for the memory.
        with _limits_of_memory():
            return see(Image.open(io.BytesIO(data), formats=formats))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # unreadable EXIF data says nothing about rotation
        return 1


def _grey_bits(image: Image.Image) -> int:
    """How many bits the greys of more than 8 have from black to white; 0 when that is not known."""
    sixteen = image.mode.startswith("I;16")
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        # Where white is 0, Pillow gives the negative.
        return int(tags[_BITS_PER_SAMPLE][0]) if sixteen and tags.get(_PHOTOMETRIC) == 1 else 0
    known = image.format in _GREYS_OF_16_BITS and (sixteen or image.format in ("PNG", "PPM"))
    return 16 if known else 0


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImage("pixels are floats, whose white is not known")
    # 1: unsigned, 4: not said. Of signed bytes Pillow makes unsigned ones.
    if image.format == "TIFF" and not {1, 4}.issuperset(image.tag_v2.get(_SAMPLE_FORMAT, ())):  # type: ignore[attr-defined]
        raise BadImage("pixels are signed numbers, whose white is not known")
    if image.mode.startswith("I"):
        bits = _grey_bits(image)
        if not bits:
            raise BadImage(
                f"greys of more than 8 bits (Pillow's mode {image.mode}), whose white is not known"
            )
        # Pillow would clip them; the high byte is what its readers keep of 16-bit colours.
        image = Image.fromarray((np.asarray(image).clip(0, 2**bits - 1) >> (bits - 8)).astype(np.uint8))
    return image.convert("RGB")


def decode_jpeg(data: bytes | memoryview, reduction: int = 1, size: tuple[int, int] | None = None) -> Pixels:
    """Decode a JPEG file as it is stored: no rotation, no colour management.

    A file with harmless faults, such as extraneous bytes between its parts, is decoded as by Pillow.

    Parameters
    ----------
    data : bytes or memoryview
        The file.
    reduction : 1, 2, 4 or 8
        Decode to 1/reduction of the size, by a smaller inverse DCT: faster, and free of aliasing.
    size : (int, int), optional
        Height and width that the whole picture must have. Told beforehand, because a few bytes may say that they
        are a picture of gigabytes.

    Returns
    -------
    uint8 (ceil(h / reduction), ceil(w / reduction), 3)
        RGB; for a greyscale file, three equal channels.

    Raises
    ------
    BadImage
        If the file is empty, truncated, not a JPEG file, or of another size.

    Examples
    --------
    >>> data = simplejpeg.encode_jpeg(np.full((30, 45, 3), 128, np.uint8))
    >>> decode_jpeg(data).shape, decode_jpeg(data, reduction=4).shape
    ((30, 45, 3), (8, 12, 3))
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        _check_size((height, width), size)
        if reduction == 1:
            return simplejpeg.decode_jpeg(data)
        least = -(-height // reduction), -(-width // reduction)
        # The smallest of libjpeg-turbo's scales, multiples of 1/8, that is not below: exactly the reduction.
        return simplejpeg.decode_jpeg(data, min_height=least[0], min_width=least[1])
    except BadImage:
        raise
    except ValueError:
        # Truncated, or one of the few with harmless faults. Pillow tells them apart; simplejpeg, when it is not
        # strict, takes truncated files and refuses some with extraneous bytes.
        def see(image: Image.Image) -> Pixels:
            _check_size((image.height, image.width), size)
            return np.array(_rgb(image).reduce(reduction))

        return _look(data, see, ("JPEG",))


def _check_size(size: tuple[int, int], expected: tuple[int, int] | None) -> None:
    if expected is not None and size != expected:
        raise BadImage(
            f"expected a picture of {expected[0]} × {expected[1]} pixels, got one of {size[0]} × {size[1]}"
        )


def decode(data: bytes) -> Pixels:
    """Decode a file of any format that Pillow reads, upright.

    Rotation by an EXIF tag is applied; all else is as Pillow's ``convert("RGB")`` makes it, except that greys of 12
    and 16 bits are scaled and not clipped. Transparency is dropped, as in ``torchvision.datasets.ImageFolder``. Of
    several pictures in a file, the first counts. A picture may be as large as there is memory.

    Parameters
    ----------
    data : bytes
        The file.

    Returns
    -------
    uint8 (h, w, 3)
        RGB.

    Raises
    ------
    BadImage
        If the file is empty, truncated, damaged, or not an image, has more pixels than there is memory for, or
        pixels whose white is not known: floats, signed numbers and greys of 32 bits.

    Examples
    --------
    >>> file = io.BytesIO()
    >>> Image.new("L", (45, 30), 128).save(file, "PNG")
    >>> decode(file.getvalue()).shape
    (30, 45, 3)
    >>> decode(file.getvalue()[:50])
    Traceback (most recent call last):
    theanompi.data.pictures.decode.BadImage: truncated
    """
    return _look(data, _upright)


def _upright(image: Image.Image) -> Pixels:
    image.load()  # first: the EXIF data of a PNG file may follow the pixels
    orientation = _orientation(image)
    image = _rgb(image)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return np.array(image)


def as_jpeg(data: bytes) -> tuple[bytes, Pixels]:
    """Give a file that `decode_jpeg` shows right: the bytes untouched wherever possible.

    Untouched are JPEG files, baseline or progressive, in colour or grey, that no EXIF tag rotates. All else
    is encoded anew, with quality 95 and colours at full resolution (4:4:4).

    Parameters
    ----------
    data : bytes
        A file of any format that Pillow reads.

    Returns
    -------
    (bytes, uint8 (h, w, 3))
        A JPEG file, and what `decode_jpeg` makes of it.

    Raises
    ------
    BadImage
        As in `decode`, and if the picture is too large for JPEG.
    """
    data = to_jpeg(data)
    return data, decode_jpeg(data)


def to_jpeg(data: bytes) -> bytes:
    """The file that `as_jpeg` gives; one that is left untouched is not decoded.

    Raises
    ------
    BadImage
        As in `as_jpeg`, but not for what only decoding finds out.
    """
    if _look(data, _is_plain_jpeg):
        return data
    pixels = decode(data)
    if max(pixels.shape) > 65500:  # libjpeg's limit
        raise BadImage(f"{pixels.shape[1]} × {pixels.shape[0]} pixels, above JPEG's limit of 65500")
    return simplejpeg.encode_jpeg(pixels, quality=95, colorsubsampling="444")


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Read the height and width of a JPEG file from its header.

    Raises
    ------
    BadImage
        If it has none.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        return height, width
    except ValueError:
        return _look(data, lambda image: (image.height, image.width), ("JPEG",))


def _is_plain_jpeg(image: Image.Image) -> bool:
    return image.format in _JPEG and image.mode in ("RGB", "L") and _orientation(image) not in _UPRIGHT


def resize_shorter(pixels: Pixels, size: int) -> Pixels:
    """Resize a picture so that its shorter side is `size`, as ``torchvision.transforms.Resize`` does.

    Bilinear, with the filter widened when shrinking (antialiased): Pillow's.

    Parameters
    ----------
    pixels : uint8 (h, w, 3)
    size : int
        Pixels.

    Returns
    -------
    uint8 (H, W, 3)
        The longer side is ``size · long / short``, rounded down.

    Raises
    ------
    BadImage
        If that has more pixels than there is memory for, as of a line of one pixel's height.

    Examples
    --------
    >>> resize_shorter(np.zeros((375, 500, 3), np.uint8), 256).shape
    (256, 341, 3)
    """
    height, width = pixels.shape[:2]
    short = min(height, width)
    if short == size:
        return pixels
    shape = (size * width // short, size * height // short)
    # As when a file is opened: up to Pillow's own limit nobody asks.
    if shape[0] * shape[1] > 2 * (Image.MAX_IMAGE_PIXELS or 0):
        free = cgroup.free_memory() // 2
        if shape[0] * shape[1] * _BYTES_PER_PIXEL > free:
            raise _too_large(free)
    return np.array(Image.fromarray(pixels).resize(shape, Image.Resampling.BILINEAR))
