"""Encoded images: checked when a data set is prepared, decoded by Pillow when it is read.

The pixels are those that a viewer shows, in 8 bits: rotated as the camera's EXIF data say; transparent images
on white, as on most web pages; of 16 bits, the upper 8.
"""

import contextlib
import io
import struct

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Suffixes of supported image files, in lower case."""

# Not everything that Pillow reads: its EPS reader, for one, runs another program.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_MOST_PIXELS = 89_478_485  # above this, Pillow warns of a decompression bomb

# Channels that the network sees; a palette or an alpha channel does not count.
_CHANNELS = {"L": 1, "RGB": 3}
_MODES = {channels: mode for mode, channels in _CHANNELS.items()}
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_ORIENTATION, _BITS, _PHOTOMETRIC = 0x0112, 258, 262  # tags of EXIF and TIFF


class _NotRead(ValueError):
    """An intact image of an unsupported kind."""


def decode(data: bytes, channels: int) -> np.ndarray:
    """[height, width, channels] uint8, the decoded image, converted to grey or RGB.

    Args:
        data: a file's bytes.
        channels: 1 or 3.
    """
    with _opened(data) as image:
        pixels = np.asarray(_shown(image, _MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def channels_of(data: bytes) -> int | None:
    """1 for a grey image, 3 for an RGB one, None for any other and for data that are no image."""
    try:
        with _opened(data) as image:
            return _CHANNELS.get(image.mode)
    except Exception:  # the errors of decoders on damaged bytes are not documented
        return None


def size_of(data: bytes) -> tuple[int, int]:
    """(height, width) that `decode` will give, from the header alone.

    Args:
        data: bytes of an image that can be decoded.
    """
    with _opened(data) as image:
        # Pillow turns TIFFs by itself.
        sideways = image.format != "TIFF" and _orientation(image) in _SIDEWAYS
        return (image.width, image.height) if sideways else (image.height, image.width)


def problem_with(data: bytes, channels: int | None, shape: tuple[int, int] | None) -> str:
    """Decodes the whole image and describes what is wrong with it; empty if nothing is.

    Args:
        data: a file's bytes.
        channels: required channels; None allows every image that can be converted to RGB.
        shape: required (height, width); None allows any.
    """
    try:
        with _opened(data) as image:
            _check_extent(image)
            mode = image.mode
            shown = _shown(image, "RGB")
            size = (shown.height, shown.width)
    except _NotRead as error:
        return str(error)
    except Image.DecompressionBombError:
        return f"it has far more than {_MOST_PIXELS} pixels"
    except Exception as error:  # the errors of decoders on damaged bytes are not documented
        kinds = "a readable JPEG or PNG, nor WebP, BMP, GIF or TIFF"
        reason = str(error) if "truncated" in str(error) else f"not {kinds}"
        return f"{reason} ({len(data)} bytes)"
    if channels is not None and _CHANNELS.get(mode) != channels:
        return f"its pixels are {mode}, expected {_MODES[channels]} as the others"
    if shape is not None and size != shape:
        return f"it is {size[0]}x{size[1]}, expected {shape[0]}x{shape[1]}"
    return ""


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def _check_extent(image: Image.Image) -> None:
    if image.width * image.height > _MOST_PIXELS:
        raise _NotRead(f"it is {image.height}x{image.width}, expected at most {_MOST_PIXELS} pixels")
    # Some cameras store previews after the photograph, a format that Pillow calls MPO.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames != 1:
        raise _NotRead(f"it has {frames} frames or pages, expected one")


def _shown(image: Image.Image, mode: str) -> Image.Image:
    """The image as a viewer shows it, in mode L or RGB; raises _NotRead or any error of a decoder."""
    image.load()
    with contextlib.suppress(OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        ImageOps.exif_transpose(image, in_place=True)  # ignores a damaged EXIF block
    if image.mode.startswith("I;16"):
        image = _upper_bits(image)
    if image.mode in ("I", "F"):
        raise _NotRead(f"its pixels are {image.mode}, 32 bits without a known range: store them in 8 bits")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return image if image.mode == mode else image.convert(mode)


def _upper_bits(image: Image.Image) -> Image.Image:
    """The upper 8 of 16 bits of grey; Pillow's own conversion turns all levels above 255 white."""
    tags = getattr(image, "tag_v2", {})  # a TIFF's
    if tags.get(_PHOTOMETRIC, 1) != 1 or tags.get(_BITS, (16,)) != (16,):
        raise _NotRead("its pixels are grey in an order or in bits that are not read: store them in 8 bits")
    values = np.asarray(image).astype(np.uint16)
    grey = (values >> 8).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return image.getexif().get(_ORIENTATION, 1)
    return 1
