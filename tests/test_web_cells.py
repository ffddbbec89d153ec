"""Every cell of Tables 5 to 9 and 12 takes two steps on made files, which the sets' own builders read.

The config is the cell's, in both recipes and all stages, but for the classifier, the sizes of images and
batches, and the number of classes. Nothing is compiled for a cell: operations run one at a time, on one device,
and all cells share them, since their arrays have the same shapes. (`test_experiments.py` compiles each kind of
step for four devices.)
"""

import itertools

import jax
import jax.numpy as jnp
import pytest
import raw_data
from table_cells import args_of, check_two_steps, config_of, write_nets

from cmwnet_jax.data.builders import webfg, webvision
from cmwnet_jax.data.load import load_data
from cmwnet_jax.train import parallel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("quick_programs", "one_operation_at_a_time"),
    pytest.mark.filterwarnings("ignore:the class sizes take only"),
]
FILES = ("table5_animal10n", "table6_webvision", "table7_webfg", "transfer")
CLASSES, SIDE = 10, 8


@pytest.fixture
def one_operation_at_a_time(monkeypatch):
    """Functions that are mapped over the devices are called on the first one, and operations as they come."""
    first = jax.local_devices()[:1]
    for name, value in (("device_count", 1), ("local_device_count", 1), ("local_devices", first)):
        monkeypatch.setattr(jax, name, lambda value=value: value)

    def of_one_device(function, donate_argnums=()):
        def run(*arguments):
            outputs = function(*jax.tree.map(lambda x: x[0], arguments))
            return jax.tree.map(lambda x: jnp.asarray(x)[None], outputs)

        return run

    monkeypatch.setattr(parallel, "pmap", of_one_device)
    with jax.disable_jit():
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The files of all sets, under the names that the cells' arguments have for them."""
    root = tmp_path_factory.mktemp("web")
    raw_data.animal_folder(root / "animal10n")
    web = raw_data.webvision_folder(root / "webvision", CLASSES, flickr=True, google=2)
    raw_data.add_imagenet(web, root / "imagenet", range(CLASSES))
    for part in ("aircraft", "bird", "car"):
        names = tuple(f"{part} {c}" for c in range(CLASSES))
        raw_data.image_folder(root / f"web_{part}", names, {"train": 2, "val": 1})
    sizes = (4, 4, 4, 3, 3, 2, 2, 1, 1, 1)  # of three groups, so that each has a meta-class
    raw_data.prepared_imagenet_lt(root / "data", root / "imagenet_lt", sizes)
    write_nets(root)
    return root


@pytest.fixture
def few_classes(monkeypatch):
    """All sets have as many classes, so that the cells' arrays have the same shapes."""
    for builder in (
        webvision.Webvision,
        webvision.WebvisionMini,
        webfg.WebAircraft,
        webfg.WebBird,
        webfg.WebCar,
    ):
        monkeypatch.setattr(builder, "NUM_CLASSES", CLASSES)


@pytest.mark.parametrize(
    ("name", "arg"), list(itertools.chain(*([(name, arg) for arg in args_of(name)] for name in FILES)))
)
def test_the_cell_takes_two_steps(name, arg, folders, few_classes, monkeypatch):
    monkeypatch.chdir(folders)
    imagenet = ",imagenet=imagenet" if "webvision" in f"{name} {arg}" else ""
    config = config_of(name, arg + imagenet)
    set_name = config.data.name
    config.data.dir = "data"
    config.data.raw_dir = "" if set_name == "imagenet_lt" else set_name.removesuffix("_mini")
    if config.data.resize_pixels:
        config.data.resize_pixels = config.data.crop_pixels = SIDE
    config.batch_size, config.meta_set.batch_size, config.chunk_steps = 8, 8, 2
    config.meta_set.per_class_examples = 1
    data = load_data(config)
    assert data.source.num_classes == CLASSES
    assert ("also_test" in data.splits) == ("webvision" in set_name)
    check_two_steps(config, data)
