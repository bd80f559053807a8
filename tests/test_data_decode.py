"""Odd image files, compared with Pillow's own reading of them."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin
from sklearn.datasets import load_sample_images

from tests.archives import encoded, odd_files, rotated
from tests.photographs import jpeg, photograph
from theanompi.data.pack.packing import pack_block
from theanompi.data.pictures.decode import BadImage, as_jpeg, decode, decode_jpeg, resize_shorter
from theanompi.data.sources.base import Files
from theanompi.system import cgroup

GOOD, BAD = odd_files()
PICTURE = photograph(900, 60, 80)


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("data", [jpeg(0, 61, 83), GOOD["grey.JPEG"], GOOD["progressive.JPEG"]])
def test_a_jpeg_file_decodes_as_by_pillow(data: bytes) -> None:
    np.testing.assert_array_equal(decode_jpeg(data), by_pillow(data))
    np.testing.assert_array_equal(decode_jpeg(memoryview(data)), by_pillow(data))


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (9, 17), (60, 80), (61, 83)])
def test_reduced_decoding_has_the_stated_size(size: tuple[int, int], reduction: int) -> None:
    data = simplejpeg.encode_jpeg(np.full((*size, 3), 77, np.uint8))
    got = decode_jpeg(data, reduction)
    assert got.shape == (-(-size[0] // reduction), -(-size[1] // reduction), 3)
    assert np.abs(got.astype(int) - 77).max() <= 1


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_reduced_decoding_shows_the_averaged_picture(reduction: int) -> None:
    for picture in load_sample_images().images:
        data = encoded(Image.fromarray(picture), "JPEG", quality=95)
        averaged = np.asarray(Image.fromarray(decode_jpeg(data)).reduce(reduction))
        # Negative control: a reduction that only skips pixels differs by more than 4.
        assert difference(decode_jpeg(data, reduction), averaged) < 2


@pytest.mark.parametrize("reduction", [1, 4])
def test_extraneous_bytes_do_no_harm(reduction: int) -> None:
    clean = encoded(Image.fromarray(PICTURE), "JPEG", quality=90)
    # At reduced size Pillow averages where libjpeg-turbo transforms, so they differ a little.
    assert difference(decode_jpeg(GOOD["extraneous.JPEG"], reduction), decode_jpeg(clean, reduction)) < 3
    assert as_jpeg(GOOD["extraneous.JPEG"])[0] == GOOD["extraneous.JPEG"]


@pytest.mark.parametrize("cut", [0.05, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_file_is_bad(cut: float, progressive: bool) -> None:
    data = encoded(Image.fromarray(PICTURE), "JPEG", progressive=progressive)
    part = data[: int(cut * len(data))]
    for read in (decode_jpeg, decode, as_jpeg, lambda data: decode_jpeg(data, 2)):
        with pytest.raises(BadImage, match=r"^truncated$"):
            read(part)


@pytest.mark.parametrize("name", BAD)
def test_what_shows_no_picture_says_why(name: str) -> None:
    data, reason = BAD[name]
    for read in (decode, as_jpeg):
        with pytest.raises(BadImage, match=f"^{reason}$"):
            read(data)


def test_a_png_file_is_not_taken_for_jpeg() -> None:
    with pytest.raises(BadImage, match=r"^not an image$"):
        decode_jpeg(GOOD["png.JPEG"])


def test_a_damaged_png_file_says_so_in_one_line() -> None:
    data = bytearray(GOOD["png.JPEG"])
    data[3000] ^= 5
    with pytest.raises(BadImage, match=r"^damaged \([^\n]+\)$"):
        decode(bytes(data))


def test_floats_have_no_white() -> None:
    with pytest.raises(BadImage, match=r"^pixels are floats, whose white is not known$"):
        decode(encoded(Image.fromarray(PICTURE[..., 0].astype(np.float32)), "TIFF"))


def test_a_picture_too_large_for_jpeg_is_bad_only_there() -> None:
    data = encoded(Image.new("L", (65600, 2)), "PNG")
    assert decode(data).shape == (2, 65600, 3)
    with pytest.raises(BadImage, match=r"^65600 × 2 pixels, above JPEG's limit of 65500$"):
        as_jpeg(data)


def test_a_picture_may_be_as_large_as_there_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Pillow takes for an attack from 179 million pixels on is the user's own."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    for name in ("png.JPEG", "picture.gif", "progressive.JPEG"):
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(GOOD[name]))
        assert decode(GOOD[name]).shape == as_jpeg(GOOD[name])[1].shape == (60, 80, 3)
        assert Image.MAX_IMAGE_PIXELS == 2000
    monkeypatch.setattr(cgroup, "free_memory", lambda: 2**17)
    for read in (decode, as_jpeg):
        with pytest.raises(BadImage, match=r"^more pixels than there is memory for, 16 bytes each of 0 MiB$"):
            read(GOOD["png.JPEG"])


def png_with_text(text: bytes, after: bool) -> bytes:
    """A PNG file with a compressed text, before or after the pixels."""
    chunk = b"zTXtnote\0\0" + zlib.compress(text)
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = encoded(Image.fromarray(PICTURE), "PNG")
    at = data.index(b"IEND" if after else b"IDAT") - 4
    return data[:at] + chunk + data[at:]


@pytest.mark.parametrize("after", [False, True])
def test_a_long_text_in_a_png_file_does_no_harm(after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = png_with_text(bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1), after)
    np.testing.assert_array_equal(decode(data), PICTURE)
    np.testing.assert_array_equal(decode(as_jpeg(data)[0]), as_jpeg(data)[1])
    monkeypatch.setattr(cgroup, "free_memory", lambda: 2**22)
    with pytest.raises(BadImage, match=r"^more text in it than there is memory for, 0 MiB$"):
        decode(data)


# --- Every mode and format that Pillow can write

MODES = "1 L P RGB RGBA CMYK YCbCr LAB HSV I F LA PA RGBX RGBa La I;16 I;16L I;16B I;16N".split()
Image.init()


def picture(mode: str) -> Image.Image:
    """A picture of a mode, in whose channels every value may occur."""
    draw = np.random.default_rng(3)
    colours = Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8))
    if mode in ("1", "P"):
        return colours.convert("1") if mode == "1" else colours.quantize(64)
    if mode == "PA":
        pale = colours.quantize(64).convert("PA")
        pale.putalpha(Image.fromarray(draw.integers(0, 256, (32, 32), np.uint8)))
        return pale
    if mode in ("RGBa", "La"):
        return picture(mode.upper()).convert(mode)
    if mode == "F":
        return Image.fromarray(draw.random((32, 32), np.float32))
    length = 4 if mode == "I" else 2 if mode.startswith("I") else len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, (32, 32), draw.bytes(32 * 32 * length))


@pytest.mark.parametrize("kind", sorted(Image.SAVE))
def test_every_mode_and_format_is_what_pillow_makes_of_it_or_refused_by_name(kind: str) -> None:
    # Of an icon for macOS a dozen sizes are encoded, which takes long.
    for mode in MODES if kind != "ICNS" else ("RGBA", "I;16"):
        try:
            with warnings.catch_warnings(action="ignore"):
                data = encoded(picture(mode), kind)
                with Image.open(io.BytesIO(data)) as image:
                    image.load()
                    want = np.asarray(image.convert("RGB"))
        except Exception:
            continue  # Pillow cannot write it, or cannot read what it wrote
        # Pillow's conversion cuts greys of 16 bits off at 255; those of PPM have the mode I.
        if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
            want = np.stack([np.asarray(image) >> 8] * 3, axis=-1).astype(np.uint8)
        elif image.mode in ("I", "F"):
            with pytest.raises(BadImage, match=", whose white is not known$"):
                decode(data)
            continue
        np.testing.assert_array_equal(decode(data), want, err_msg=f"{kind} {mode}")
        stored, pixels = as_jpeg(data)
        np.testing.assert_array_equal(pixels, by_pillow(stored), err_msg=f"{kind} {mode}")
        if stored == data:
            np.testing.assert_array_equal(pixels, want, err_msg=f"{kind} {mode}")


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PALM"])
def test_what_pillow_writes_and_cannot_read_is_refused(kind: str) -> None:
    data = encoded(picture("1" if kind != "EPS" else "L"), kind)
    with pytest.raises(BadImage, match=r"^not an image$|Ghostscript"):
        decode(data)


@pytest.mark.parametrize(
    "options",
    [{"keep_rgb": True}, {"subsampling": "4:1:1"}, {"subsampling": "4:4:4", "restart_marker_rows": 1}],
)
def test_a_jpeg_file_of_another_kind_decodes_as_by_pillow(options: dict[str, object]) -> None:
    data = encoded(Image.fromarray(PICTURE), "JPEG", **options)
    stored, pixels = as_jpeg(data)
    assert stored == data
    np.testing.assert_array_equal(pixels, by_pillow(data))


def tiff(data: bytes, bits: int, photometric: int = 1, sample_format: int = 1) -> bytes:
    """A grey TIFF file of 8 × 2 pixels, as cameras and microscopes write it."""
    tags = {256: 8, 257: 2, 258: bits, 259: 1, 262: photometric, 273: 256, 277: 1, 278: 2, 279: len(data)}
    tags[339] = sample_format
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)).ljust(256, b"\0") + data


def test_greys_of_twelve_bits_are_scaled() -> None:
    values = np.arange(16) * 256 + 77
    packed = b"".join(
        (int(a) << 12 | int(b)).to_bytes(3, "big") for a, b in zip(values[::2], values[1::2], strict=True)
    )
    np.testing.assert_array_equal(decode(tiff(packed, 12))[..., 0].ravel(), values >> 4)


@pytest.mark.parametrize(
    ("bits", "photometric", "sample_format", "what"),
    [
        (8, 1, 2, "pixels are signed numbers"),
        (16, 1, 2, "pixels are signed numbers"),
        (32, 1, 2, "pixels are signed numbers"),
        (32, 1, 1, r"greys of more than 8 bits \(Pillow's mode I\)"),
        (32, 1, 3, "pixels are floats"),
        (16, 0, 1, r"greys of more than 8 bits \(Pillow's mode I;16\)"),
    ],
)
def test_greys_that_cannot_be_scaled_are_refused(
    bits: int, photometric: int, sample_format: int, what: str
) -> None:
    data = tiff(bytes(range(16)) * (bits // 8), bits, photometric, sample_format)
    for read in (decode, as_jpeg):
        with pytest.raises(BadImage, match=f"^{what}, whose white is not known$"):
            read(data)


# How far each may be from the picture: JPEG's loss, 64 colours, or grey.
NEAR = {"grey.JPEG": 20, "16bit.png": 20, "palette.png": 8, "picture.gif": 8, "png.JPEG": 0, "alpha.PNG": 0}


@pytest.mark.parametrize("name", GOOD)
def test_odd_files_show_the_upright_picture(name: str) -> None:
    pixels = decode(GOOD[name])
    assert pixels.dtype == np.uint8
    assert difference(pixels, PICTURE) <= NEAR.get(name, 9)
    data, stored = as_jpeg(GOOD[name])
    np.testing.assert_array_equal(decode_jpeg(data), stored)
    assert difference(stored, pixels) < 5


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = np.asarray(Image.fromarray(PICTURE).convert("L"))
    np.testing.assert_array_equal(decode(GOOD["16bit.png"]), np.stack([grey] * 3, axis=-1))


def test_cmyk_is_what_pillow_makes_of_it() -> None:
    np.testing.assert_array_equal(decode(GOOD["cmyk.JPEG"]), by_pillow(GOOD["cmyk.JPEG"]))


def test_transparency_is_dropped() -> None:
    image = Image.fromarray(PICTURE)
    image.putalpha(Image.new("L", image.size, 3))
    np.testing.assert_array_equal(decode(encoded(image, "PNG")), PICTURE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int, kind: str) -> None:
    data = rotated(Image.fromarray(PICTURE), orientation, kind)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode(data), upright)
    if kind == "JPEG":
        stored, pixels = as_jpeg(data)
        assert (stored == data) == (orientation == 1)
        assert difference(pixels, upright) < 5
        assert as_jpeg(stored)[0] == stored


def test_unreadable_exif_data_is_no_rotation() -> None:
    data = encoded(Image.fromarray(PICTURE), "JPEG", exif=b"Exif\0\0garbage")
    assert as_jpeg(data)[0] == data


def quantization(data: bytes) -> object:
    return Image.open(io.BytesIO(data)).quantization  # type: ignore[attr-defined]


UNTOUCHED = {"grey.JPEG", "progressive.JPEG", "extraneous.JPEG", "trailing.JPEG"}


@pytest.mark.parametrize("name", GOOD)
def test_only_what_must_be_is_encoded_anew(name: str) -> None:
    data, _ = as_jpeg(GOOD[name])
    assert (data == GOOD[name]) == (name in UNTOUCHED)
    if name not in UNTOUCHED:
        assert simplejpeg.decode_jpeg_header(data)[2:] == ("YCbCr", "444")
        fine = encoded(Image.new("RGB", (8, 8)), "JPEG", quality=95)
        assert quantization(data) == quantization(fine)


def test_many_pictures_in_a_jpeg_file_stay_as_they_are() -> None:
    image = Image.fromarray(PICTURE)
    data = encoded(image, "MPO", save_all=True, append_images=[image])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert as_jpeg(data)[0] == data
    # With a harmless fault, so that Pillow has to read it.
    scan = data.index(b"\xff\xda")
    np.testing.assert_array_equal(decode_jpeg(data[:scan] + bytes(4) + data[scan:]), decode_jpeg(data))


@pytest.mark.parametrize("size", [30, 60, 97])
@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (61, 61)])
def test_resizing_by_the_shorter_side(shape: tuple[int, int], size: int) -> None:
    pixels = photograph(3, *shape)
    got = resize_shorter(pixels, size)
    short, long = sorted(shape)
    assert sorted(got.shape[:2]) == [size, int(size * long / short)]
    want = Image.fromarray(pixels).resize((got.shape[1], got.shape[0]), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got, np.asarray(want))


def test_a_line_whose_resized_picture_memory_does_not_hold_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (100, 1)).save(file, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    monkeypatch.setattr(cgroup, "free_memory", lambda: 2**22)
    items = Files(["line.png"], np.zeros(1, np.int64), lambda: iter([file.getvalue()]))
    assert len(pack_block("train", items, "raw", 30).images) == 1
    assert pack_block("train", items, "raw", 40).left_out == [
        (0, "train/line.png: more pixels than there is memory for, 16 bytes each of 2 MiB")
    ]


def test_a_picture_of_gigabytes_in_a_few_bytes_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda *_, **__: pytest.fail("begun"))
    data = bytearray(jpeg(0, 30, 40))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\x00\xff\x00"
    for reduction in (1, 8):
        with pytest.raises(
            BadImage, match="^expected a picture of 30 × 40 pixels, got one of 65280 × 65280$"
        ):
            decode_jpeg(bytes(data), reduction, size=(30, 40))
