"""tfds builders for data sets that tfds lacks, by `data.name`."""

from cmwnet_jax.data.builders.animal10n import Animal10n
from cmwnet_jax.data.builders.arrays import Arrays
from cmwnet_jax.data.builders.base import LocalBuilder as LocalBuilder
from cmwnet_jax.data.builders.csv_table import Csv
from cmwnet_jax.data.builders.digits import Digits
from cmwnet_jax.data.builders.image_folder import ImageFolder
from cmwnet_jax.data.builders.imagenet_val import ImagenetVal
from cmwnet_jax.data.builders.mnist_format import MnistFormat
from cmwnet_jax.data.builders.webfg import WebAircraft, WebBird, WebCar
from cmwnet_jax.data.builders.webvision import Webvision, WebvisionMini

BUILDERS: dict[str, type[LocalBuilder]] = {
    builder.name: builder
    for builder in (
        Digits,
        MnistFormat,
        ImageFolder,
        Arrays,
        Csv,
        Animal10n,
        WebvisionMini,
        Webvision,
        WebAircraft,
        WebBird,
        WebCar,
        ImagenetVal,
    )
}
"""Our builders by name."""
