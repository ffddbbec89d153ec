"""WebFG-496: fine-grained classes; trains on web images, tests on older sets (Sec. 5, Table 7)."""

from cmwnet_jax.data.builders.image_folder import ImageFolder

_PUBLISHED = "https://github.com/NUST-Machine-Intelligence-Laboratory/weblyFG-dataset"


class WebAircraft(ImageFolder):
    """100 aircraft variants: 13,503 training images; tests on FGVC-Aircraft."""

    WANTS = "web-aircraft.tar.gz or the folder web-aircraft in it (train/CLASS/*.jpg and val/CLASS/*.jpg)"
    URL = _PUBLISHED
    NUM_CLASSES = 100
    MIXED_CHANNELS = True


class WebBird(ImageFolder):
    """200 bird species: 18,388 training images; tests on CUB200-2011."""

    WANTS = "web-bird.tar.gz or the folder web-bird in it (train/CLASS/*.jpg and val/CLASS/*.jpg)"
    URL = _PUBLISHED
    NUM_CLASSES = 200
    MIXED_CHANNELS = True


class WebCar(ImageFolder):
    """196 car models: 21,448 training images; tests on Stanford Cars."""

    WANTS = "web-car.tar.gz or the folder web-car in it (train/CLASS/*.jpg and val/CLASS/*.jpg)"
    URL = _PUBLISHED
    NUM_CLASSES = 196
    MIXED_CHANNELS = True
