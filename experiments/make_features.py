"""Makes fixed features of an image set, on which an MLP trains in minutes: an .npz for the data set `arrays`.

    python -m experiments.make_features --name=image_folder --raw_dir=cifar10.tar.gz --output=FEATURES.npz

Random filters with two-sided soft thresholds, after Coates and Ng (2011, "The importance of encoding versus
training with sparse coding and vector quantization"); nothing is learned from labels. Patches of 6x6 pixels are
normalised in brightness and contrast, and whitened (ZCA). The filters are randomly chosen whitened patches,
scaled to length 1. For a filter's response z, max(0, z - t) and max(0, -z - t) are averaged over the four
quadrants of the image. The principal components of the training split's features are kept. The same seed gives
the same features on the same machine.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import flags
from threadpoolctl import threadpool_limits  # a dependency of scikit-learn

from cmwnet_jax import command
from cmwnet_jax.data import sources
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import file_to_write, replace_file

PATCH = 6  # pixels per side
_WHITENING_PATCHES = 100_000
_CONTRAST, _SMOOTHING = 10.0, 0.1  # added to a patch's variance (of pixels in 0 to 255), and to the eigenvalues


def normalised_patches(images: np.ndarray) -> np.ndarray:
    """All patches of images, each with mean 0 and about unit variance.

    Args:
        images: [n, height, width, channels] uint8.

    Returns:
        [n, height - 5, width - 5, 36 * channels] float32.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images, (PATCH, PATCH), axis=(1, 2))
    patches = windows.reshape(*windows.shape[:3], -1).astype(np.float32)
    patches -= patches.mean(axis=-1, keepdims=True)
    return patches / np.sqrt(np.mean(patches**2, axis=-1, keepdims=True) + _CONTRAST)


def make_filters(images: np.ndarray, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws filters from training images; whitening and filter are one matrix.

    Args:
        images: [N, height, width, channels] uint8.
        number: number of filters, K.
        seed: the random seed.

    Returns:
        (matrix [d, K], offset [K]) float32: the responses to patches [..., d] are `patches @ matrix - offset`.
    """
    rng = np.random.default_rng(seed)
    patches = _random_patches(images, _WHITENING_PATCHES, rng)
    mean = patches.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((patches - mean).T))
    whiten = (vectors / np.sqrt(np.maximum(values, 0) + _SMOOTHING)) @ vectors.T
    chosen = (_random_patches(images, number, rng) - mean) @ whiten
    filters = chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-6)
    matrix = whiten @ filters.T
    return matrix.astype(np.float32), (mean @ matrix).astype(np.float32)


def _random_patches(images: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """[number, d] float64, normalised patches at random places of random images."""
    rows = rng.integers(len(images), size=number)
    y, x = (rng.integers(side - PATCH + 1, size=number) for side in images.shape[1:3])
    inside = np.arange(PATCH)
    cut = images[rows[:, None, None], (y[:, None] + inside)[:, :, None], (x[:, None] + inside)[:, None, :]]
    return normalised_patches(cut).reshape(number, -1).astype(np.float64)


def pooled(images: np.ndarray, matrix: np.ndarray, offset: np.ndarray, threshold: float) -> np.ndarray:
    """Thresholded responses, averaged over the quadrants.

    Args:
        images: [N, height, width, channels] uint8.
        matrix, offset: from `make_filters`.
        threshold: t.

    Returns:
        [N, 8 K] float32: per quadrant, K averages of max(0, z - t), then K of max(0, -z - t).
    """
    average = _quadrant_means(*(side - PATCH + 1 for side in images.shape[1:3]))

    def one(image: np.ndarray) -> np.ndarray:  # its responses fit into the processor's cache
        patches = normalised_patches(image[None])
        responses = patches.reshape(-1, patches.shape[-1]) @ matrix
        responses -= offset
        # The mean of max(0, z - t) is that of max(z, t), minus t.
        above = average @ np.maximum(responses, np.float32(threshold)) - threshold
        below = -(average @ np.minimum(responses, np.float32(-threshold))) - threshold
        return np.concatenate([above, below], axis=1, dtype=np.float32).ravel()

    # Threads for the images are several times faster than threads inside of these small products.
    features = np.empty((len(images), 8 * matrix.shape[1]), np.float32)
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, found in enumerate(pool.map(one, images)):
            features[row] = found
    return features


def _quadrant_means(height: int, width: int) -> np.ndarray:
    """[4, height * width] float32, the averaging weights of each quadrant."""
    below, right = (np.arange(side) >= side // 2 for side in (height, width))
    inside = [np.outer(b, r).ravel() for b in (~below, below) for r in (~right, right)]
    return np.array([mask / mask.sum() for mask in inside], np.float32)


def principal_components(train: np.ndarray, test: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Projects both splits on the principal components of the training split, largest variance first.

    Args:
        train: [N, d] float32.
        test: [M, d] float32.
        number: number of components, at most d and N.

    Returns:
        [N, number] and [M, number] float32; the largest coefficient of each component is positive.
    """
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = train - mean
    _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64) / len(train))
    vectors = vectors[:, ::-1][:, :number]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    vectors = (vectors * np.sign(largest)).astype(np.float32)
    return centred @ vectors, (test - mean) @ vectors


def make_features(
    dataset: sources.Dataset, *, seed: int, filters: int = 512, components: int = 1024, threshold: float = 0.25
) -> dict[str, np.ndarray]:
    """The arrays of the .npz file, for the data set `arrays`.

    Args:
        dataset: an image set in memory.
        seed: seed of the patches and filters.
        filters: number of filters.
        components: number of principal components.
        threshold: t.

    Returns:
        `train_x` and `test_x` [N, components] float32, `train_y` and `test_y` [N] int32, `class_names` [C],
        `one_unit`, which is True, and `ids` [N], the training examples' names, if the set has any.

    Raises:
        UsageError: the images are too small, or there are fewer features or examples than components.
    """
    train, test = dataset.train, dataset.test
    side, most = min(train.images.shape[1:3]), min(8 * filters, len(train))
    if side < PATCH + 1:
        raise UsageError(f"the images' shorter side is {side} pixels, expected at least {PATCH + 1}")
    if components > most:
        raise UsageError(
            f"components is {components}, expected at most {most}, the smaller of the numbers of features "
            f"({8 * filters}) and training examples ({len(train)}): lower it"
        )
    matrix, offset = make_filters(train.images, filters, seed)
    both = [pooled(split.images, matrix, offset, threshold) for split in (train, test)]
    train_x, test_x = principal_components(*both, components)
    named = {} if train.ids is None else {"ids": train.ids}
    return {
        "train_x": train_x,
        "train_y": train.labels,
        "test_x": test_x,
        "test_y": test.labels,
        "class_names": np.array(dataset.class_names),
        # Were each divided by its own deviation, the last components would be as loud as the first.
        "one_unit": np.array(True),
        **named,
    }


def main(argv: list[str]) -> None:
    """Reads the images and writes the file."""
    if len(argv) > 1:
        raise UsageError(f"got the argument {argv[1]!r}, expected flags alone: put '--' before its name")
    output = file_to_write("--output", command.required(_OUTPUT.value, "output", "an .npz to write"), ".npz")
    started = time.perf_counter()
    dataset = sources.load(_NAME.value, _DATA_DIR.value, _RAW_DIR.value)
    arrays = make_features(
        dataset,
        seed=_SEED.value,
        filters=_FILTERS.value,
        components=_COMPONENTS.value,
        threshold=_THRESHOLD.value,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(output, lambda file: np.savez(file, **arrays))
    shape = " x ".join(map(str, arrays["train_x"].shape))
    print(f"written: {output}, {shape} for training ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    _NAME = flags.DEFINE_enum("name", "image_folder", sources.DATASETS, "the image set, as data.name")
    _RAW_DIR = flags.DEFINE_string("raw_dir", "", "as data.raw_dir")
    _DATA_DIR = flags.DEFINE_string("data_dir", "", "as data.dir")
    _OUTPUT = flags.DEFINE_string("output", None, "the .npz file to write")
    _SEED = flags.DEFINE_integer("seed", 0, "seed of the patches and filters", lower_bound=0)
    _FILTERS = flags.DEFINE_integer("filters", 512, "number of filters; each gives 8 features", lower_bound=1)
    _COMPONENTS = flags.DEFINE_integer("components", 1024, "number of principal components", lower_bound=1)
    _THRESHOLD = flags.DEFINE_float("threshold", 0.25, "t, the soft threshold", lower_bound=0)
    command.run(main)
