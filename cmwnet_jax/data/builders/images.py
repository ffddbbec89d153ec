"""Encoded images: checked when a data set is prepared, decoded when it is read, by Pillow."""

import io

import numpy as np
from PIL import Image

# By the pixels that the network sees; a palette or an alpha channel is neither.
_CHANNELS = {"L": 1, "RGB": 3}
_MODES = {channels: mode for mode, channels in _CHANNELS.items()}


def decode(data: bytes, channels: int) -> np.ndarray:
    """[height, width, channels] uint8: an encoded image, made grey or RGB where it is something else.

    Args:
        data: a JPEG or PNG file's bytes.
        channels: 1 or 3.
    """
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image if image.mode == _MODES[channels] else image.convert(_MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def channels_of(data: bytes) -> int | None:
    """1 for a grey image, 3 for an RGB one, None for any other and for what is no image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _CHANNELS.get(image.mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def problem_with(data: bytes, channels: int | None, shape: tuple[int, int] | None) -> str:
    """Decodes the whole image and says what is wrong with it; empty where nothing is.

    Args:
        data: a file's bytes.
        channels: what every image of the set must have; None allows what can be made RGB.
        shape: (height, width) that it must have; None allows any.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            image.load()
            mode, size = image.mode, (image.height, image.width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error) if "truncated" in str(error) else "not a readable JPEG or PNG"
        return f"{reason} ({len(data)} bytes)"
    if channels is not None and _CHANNELS.get(mode) != channels:
        return f"its pixels are {mode}, expected {_MODES[channels]} as the others"
    if shape is not None and size != shape:
        return f"it is {size[0]}x{size[1]}, expected {shape[0]}x{shape[1]}"
    return ""
