"""Image files of every kind: read as a viewer shows them, or refused with counts; never passed over."""

import io
import itertools
import re

import numpy as np
import pytest
import raw_data
from PIL import Image, ImageOps
from test_builders import refused

from cmwnet_jax.data import sources
from cmwnet_jax.data.builders import contents, images

RNG = np.random.default_rng(0)
RGB = Image.fromarray(RNG.integers(256, size=(8, 6, 3), dtype=np.uint8))
GREY = Image.fromarray(RNG.integers(256, size=(8, 6), dtype=np.uint8))
SIXTEEN = RNG.integers(1 << 16, size=(8, 6), dtype=np.uint16)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def with_alpha(image: Image.Image) -> Image.Image:
    """Its left half hidden, its right half seen."""
    alpha = np.full((8, 6), 255, np.uint8)
    alpha[:, :3] = 0
    image = image.copy()
    image.putalpha(Image.fromarray(alpha))
    return image


def on_white(image: Image.Image) -> np.ndarray:
    pixels = np.array(image.convert("RGB"))
    pixels[:, :3] = 255
    return pixels


PALETTE = RGB.quantize(16)
HIDDEN = with_alpha(RGB)

SHOWN = {
    "grey, 16 bits": (encoded(Image.fromarray(SIXTEEN)), (SIXTEEN >> 8).astype(np.uint8)),
    "grey, 16 bits, TIFF": (encoded(Image.fromarray(SIXTEEN), "TIFF"), (SIXTEEN >> 8).astype(np.uint8)),
    "1 bit": (encoded(GREY.convert("1")), np.asarray(GREY.convert("1").convert("L"))),
    "palette": (encoded(PALETTE), np.asarray(PALETTE.convert("RGB"))),
    "grey": (encoded(GREY), np.asarray(GREY)),
    "RGBA": (encoded(HIDDEN), on_white(RGB)),
    "RGBA, WebP": (encoded(HIDDEN, "WEBP", lossless=True), on_white(RGB)),
    "LA": (encoded(with_alpha(GREY)), on_white(GREY)),
    "half transparent": (
        encoded(Image.new("RGBA", (6, 8), (100, 0, 200, 128))),
        np.full((8, 6, 3), (177, 127, 227), np.uint8),
    ),
    "palette, one colour transparent": (
        encoded(PALETTE, transparency=3),
        np.where(np.asarray(PALETTE)[..., None] == 3, 255, np.asarray(PALETTE.convert("RGB"))),
    ),
    "RGB, one colour transparent": (encoded(Image.new("RGB", (6, 8), "red"), transparency=(255, 0, 0)), 255),
    "grey, one level transparent": (encoded(Image.new("L", (6, 8), 7), transparency=7), 255),
    "CMYK": (
        encoded(RGB.convert("CMYK"), "TIFF"),
        np.asarray(RGB.convert("CMYK").convert("RGB")),
    ),
    "CMYK, JPEG": (encoded(Image.new("CMYK", (6, 8), (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    "GIF": (encoded(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB"))),
    "BMP": (encoded(RGB, "BMP"), np.asarray(RGB)),
    "TIFF": (encoded(RGB, "TIFF", compression="tiff_lzw"), np.asarray(RGB)),
}


@pytest.mark.parametrize("kind", SHOWN)
def test_pixels_are_those_that_a_viewer_shows(kind):
    data, expected = SHOWN[kind]
    assert images.problem_with(data, None, (8, 6)) == "" and images.size_of(data) == (8, 6)
    pixels = images.decode(data, 3)
    expected = np.asarray(expected)
    np.testing.assert_array_equal(
        pixels, np.broadcast_to(expected[..., None] if expected.ndim == 2 else expected, (8, 6, 3))
    )
    if expected.ndim == 2:
        np.testing.assert_array_equal(images.decode(data, 1)[..., 0], expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_upright(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for image in (RGB, Image.fromarray(SIXTEEN)) if format in ("PNG", "TIFF") else (RGB,):
        data = encoded(image, format, exif=exif)
        with Image.open(io.BytesIO(encoded(image, format))) as plain:
            plain.load()
            plain.getexif()[0x0112] = orientation
            expected = np.asarray(ImageOps.exif_transpose(plain))
        shape = (8, 6) if orientation < 5 else (6, 8)
        assert expected.shape[:2] == shape == images.size_of(data)
        assert images.problem_with(data, None, shape) == ""
        expected = expected if image is RGB else np.repeat(expected[..., None] >> 8, 3, axis=2)
        np.testing.assert_array_equal(images.decode(data, 3), expected)


def pages(format: str) -> bytes:
    return encoded(
        RGB, format, save_all=True, append_images=[Image.new("RGB", (6, 8), c) for c in ("red", "blue")]
    )


@pytest.mark.parametrize(
    "data, message",
    [
        *(
            (pages(format), "it has 3 frames or pages, expected one")
            for format in ("GIF", "PNG", "TIFF", "WEBP")
        ),
        (encoded(Image.new("F", (6, 8), 0.5), "TIFF"), "its pixels are F, 32 bits"),
        (encoded(Image.new("I", (6, 8), 5), "TIFF"), "its pixels are I, 32 bits"),
        (
            encoded(Image.fromarray(SIXTEEN), "TIFF", tiffinfo={262: 0}),
            "its pixels are grey in an order or in bits",
        ),
        (encoded(Image.new("1", (10000, 9000))), "it is 9000x10000, expected at most 89478485 pixels"),
        (encoded(Image.new("1", (20000, 9000))), "it has far more than 89478485 pixels"),
        (b"", r"not a readable JPEG or PNG.* \(0 bytes\)"),
        (encoded(RGB, "JPEG2000"), "not a readable JPEG or PNG"),
        (encoded(RGB, "EPS"), "not a readable JPEG or PNG"),
        (b"<svg/>", "not a readable JPEG or PNG"),
    ],
)
def test_what_is_not_read(tmp_path, data, message):
    folder = raw_data.image_folder(tmp_path / "raw")
    raw_data.write(folder / "train" / "dog" / "0001.jpg", data)
    message = (
        rf"1 of the first 9 images of the split train cannot be used, the first 'train/dog/0001.jpg': {message}"
    )
    assert re.search(message, refused("image_folder", tmp_path, folder))


def test_bytes_that_are_damaged_are_a_problem_or_an_image():
    """No kind of damage gets out as anything but a sentence, and what passed is decoded later, too."""
    rng = np.random.default_rng(1)
    for format in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        data = encoded(RGB if format != "GIF" else PALETTE, format)
        for _ in range(60):
            damaged = bytearray(data)
            for at in rng.integers(len(data), size=3):
                damaged[at] = rng.integers(256)
            damaged = bytes(damaged[: rng.integers(1, 2 * len(data))])
            problem = images.problem_with(damaged, None, None)
            assert "\n" not in problem
            if not problem:
                assert images.decode(damaged, 3).shape[:2] == images.size_of(damaged)
            images.channels_of(damaged)


@pytest.mark.parametrize("kind", ["folder", "archive", "large"])
def test_an_image_edited_in_place_is_another_set(kind, tmp_path, monkeypatch):
    """A BMP keeps its size. Of a large set, contents are not read again at each launch (see `sources.open`)."""
    if kind == "large":
        monkeypatch.setattr(contents, "_HASHED_BYTES", 1000)
    root, pixels = tmp_path / "raw", {}
    for shade in (10, 200):
        for split, name in itertools.product(("train", "test"), ("cat", "dog")):
            for number in range(2):
                image = encoded(Image.new("L", (6, 8), shade), "BMP")
                raw_data.write(root / split / name / f"{number}.bmp", image)
        raw = raw_data.pack(root, tmp_path / "raw.tar") if kind == "archive" else root
        dataset = sources.load("image_folder", str(tmp_path / "data"), str(raw))
        pixels[shade] = set(dataset.train.images.ravel().tolist())
    assert pixels == {10: {10}, 200: {10 if kind == "large" else 200}}
