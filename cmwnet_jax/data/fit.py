"""Brings images of any size to one size on the host: resizing and cropping, at random in training."""

import dataclasses
import math

import numpy as np
from PIL import Image

_TRIES = 10
_ASPECTS = (math.log(3 / 4), math.log(4 / 3))  # of a random area, width by height


@dataclasses.dataclass(frozen=True)
class Fit:
    """Resizes and crops images of any size to one size.

    Attributes:
        resize_pixels: the shorter side after resizing; 0 keeps the size.
        crop_pixels: side of the square crop; 0 does not crop.
        resize_up_to_pixels: largest shorter side of a random crop's image, drawn uniformly from
            `resize_pixels` on (scale jitter); 0 for `resize_pixels` always.
        least_area: smallest share of the image's area that a random crop shows, in (0, 1). The crop has a
            random area and aspect ratio, of the image as it is stored, and is resized to `crop_pixels` (as in
            Szegedy et al. 2015); 0 for crops of `crop_pixels` without resizing.
    """

    resize_pixels: int = 0
    crop_pixels: int = 0
    resize_up_to_pixels: int = 0
    least_area: float = 0.0

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Resizes with the aspect ratio kept, then crops; or crops a random area.

        Args:
            image: [height, width, channels] uint8.
            rng: generator for a random crop; None crops the centre.

        Returns:
            uint8, [crop_pixels, crop_pixels, channels] if `crop_pixels` is set.
        """
        if self.least_area and rng is not None:
            left, top, right, bottom = random_area(*image.shape[:2], self.least_area, rng)
            return _resized(image[top:bottom, left:right], (self.crop_pixels, self.crop_pixels))
        if self.resize_pixels:
            side = self.resize_pixels
            if self.resize_up_to_pixels and rng is not None:
                side = int(rng.integers(side, self.resize_up_to_pixels + 1))
            image = _scaled(image, side / min(image.shape[:2]))
        if self.crop_pixels:
            image = _scaled(image, max(self.crop_pixels / min(image.shape[:2]), 1))
            room = np.array(image.shape[:2]) - self.crop_pixels
            y, x = room // 2 if rng is None else rng.integers(room + 1)
            image = image[y : y + self.crop_pixels, x : x + self.crop_pixels]
        return image


def random_area(height: int, width: int, least: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws a rectangle of random area, aspect ratio and place (Szegedy et al. 2015).

    The area's share is uniform in [least, 1] and the logarithm of the aspect ratio uniform between those of 3:4
    and 4:3. The first of ten draws that fits is taken; if none does, the largest centred rectangle whose aspect
    ratio is in this range.

    Args:
        height, width: of the image.
        least: the smallest share.
        rng: the generator.

    Returns:
        (left, top, right, bottom), in pixels.
    """
    areas = height * width * rng.uniform(least, 1, _TRIES)
    aspects = np.exp(rng.uniform(*_ASPECTS, _TRIES))
    place = rng.uniform(size=2)
    widths, heights = (np.rint(np.sqrt(sides)).astype(int) for sides in (areas * aspects, areas / aspects))
    fits = (widths >= 1) & (heights >= 1) & (widths <= width) & (heights <= height)
    if fits.any():
        first = int(np.argmax(fits))
        w, h = int(widths[first]), int(heights[first])
    else:
        w = min(width, max(1, round(height * math.exp(_ASPECTS[1]))))
        h = min(height, max(1, round(width / math.exp(_ASPECTS[0]))))
        place = np.array([0.5, 0.5])
    left, top = (int(share * (room + 1)) for share, room in zip(place, (width - w, height - h), strict=True))
    left, top = min(left, width - w), min(top, height - h)
    return left, top, left + w, top + h


def _scaled(image: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return image
    height, width, _ = image.shape
    return _resized(image, (round(width * scale), round(height * scale)))


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image at this (width, height)."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(size[1], size[0], image.shape[-1])
