"""Maps and probabilities go by the classes' names, not by where they happen to stand."""

import json

import numpy as np
import pytest
import raw_data
from bias_laws import apply, clean, make_posterior
from test_train import small_config

from cmwnet_jax.data.bias import similar
from cmwnet_jax.data.load import load_data
from cmwnet_jax.data.probabilities import check_class_order, load_probabilities, save_probabilities
from cmwnet_jax.errors import UsageError
from cmwnet_jax.train.build import build_recipe

FOLDERS = {
    "fashion_mnist": [name.replace("/", "_") for name in similar.CLASS_NAMES["fashion_mnist"]],
    "cifar10": [name.upper() for name in similar.CLASS_NAMES["cifar10"]],
    "mnist": [f"class_{c}" for c in range(10)],
    "digits": [f"{c:02d}" for c in range(10)],
}


def flipped(labels) -> dict[int, int]:
    """Where wrong labels went."""
    wrong = labels.is_wrong
    return dict(zip(labels.true[wrong].tolist(), labels.given[wrong].tolist(), strict=True))


@pytest.mark.parametrize("known_as", FOLDERS)
def test_an_image_folders_map_goes_by_its_names(tmp_path, known_as):
    folder = raw_data.image_folder(tmp_path / "raw", classes=FOLDERS[known_as], splits={"train": 5, "test": 1})
    fields = {"data__name": "image_folder", "data__raw_dir": str(folder), "data__dir": str(tmp_path / "data")}
    data = load_data(
        small_config(**fields, data__known_as=known_as, data__bias="asymmetric_80", batch_size=8, method="erm")
    )
    names = data.source.class_names
    published = similar.ASYMMETRIC_FLIPS[known_as]
    assert {names[a]: names[b] for a, b in flipped(data.biased).items()} == {
        FOLDERS[known_as][a]: FOLDERS[known_as][b] for a, b in published.items()
    }


@pytest.mark.parametrize(
    "dataset, kind, maps",
    [
        *((name, "asymmetric", similar.ASYMMETRIC_FLIPS) for name in similar.ASYMMETRIC_FLIPS),
        ("cifar10", "asymmetric_dividemix", similar.DIVIDEMIX_FLIPS),
        *((name, "asymmetric_plc", similar.PLC_FLIPS) for name in similar.PLC_FLIPS),
    ],
)
def test_any_order_of_any_spelling(dataset, kind, maps):
    published = similar.CLASS_NAMES[dataset]
    order = np.random.default_rng(0).permutation(len(published))
    place = np.argsort(order)
    expected = {place[a]: place[b] for a, b in maps[dataset].items()}
    spellings = (
        str,
        str.upper,
        lambda name: name.replace("_", " "),
        lambda name: f" {name}_".replace("/", "-"),
    )
    for spell in spellings:
        names = [spell(published[c]) for c in order]
        assert similar.flips_of(kind, maps, dataset, len(order), names) == expected
        assert (
            flipped(apply(f"{kind}_90", clean(30, len(order)), dataset=dataset, class_names=names)) == expected
        )
    numbers = [f"class_{c:03d}" for c in order]
    assert similar.flips_of(kind, maps, dataset, len(order), numbers) == expected
    assert similar.flips_of(kind, maps, dataset, len(order)) == maps[dataset]


@pytest.mark.parametrize(
    "names, message",
    [
        (["hat", *similar.CLASS_NAMES["cifar10"][1:]], "1 of the 10 class names are none of them, e.g. 'hat'"),
        ([str(c + 1) for c in range(10)], "10 of the 10 class names are none of them, e.g. '1'"),
        (["Bird", "bird", *similar.CLASS_NAMES["cifar10"][2:]], "some are twice, e.g. 'Bird'"),
        (similar.CLASS_NAMES["cifar10"][:7], "'cifar10' is of 10 classes, but the data set has 7"),
        ([str(c) for c in range(11)], "'cifar10' is of 10 classes, but the data set has 11"),
    ],
)
@pytest.mark.parametrize("kind", ["asymmetric", "asymmetric_dividemix", "asymmetric_plc"])
def test_other_classes_have_no_map(kind, names, message):
    with pytest.raises(UsageError, match=message) as error:
        apply(f"{kind}_40", clean(10, len(names)), dataset="cifar10", class_names=names)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_classes", [7, 11])
def test_nor_have_other_numbers_of_them(num_classes):
    with pytest.raises(UsageError, match=f"is of 10 classes, but the data set has {num_classes}"):
        apply("asymmetric_40", clean(10, num_classes), dataset="mnist")


LABELS = clean(60).true
NAMES = similar.CLASS_NAMES["cifar10"]
LOOSE = {"field": "data.posterior", "hint": "make one", "shape": (600, 10)}


def loaded(path, labels=LABELS, names=NAMES) -> np.ndarray:
    return load_probabilities(path=str(path), true_labels=labels, class_names=names, **LOOSE)


def test_probabilities_come_back_for_the_same_rows_and_classes(tmp_path):
    values = make_posterior(LABELS).astype(np.float32)
    save_probabilities(tmp_path / "p.npy", values, LABELS, NAMES)
    np.testing.assert_array_equal(loaded(tmp_path / "p.npy"), values)
    loaded(tmp_path / "p.npy", names=[str(c) for c in range(10)])  # other spellings of the same labels
    (tmp_path / "p.npy.json").unlink()
    loaded(tmp_path / "p.npy")


@pytest.mark.parametrize(
    "labels, names, message",
    [
        (
            np.argsort(np.r_[1:10, 0])[LABELS],
            [*NAMES[1:], NAMES[0]],
            "with the classes in the order airplane, automobile",
        ),
        (LABELS, NAMES[::-1], "with the classes in the order airplane, automobile"),
        (LABELS[::-1], NAMES, "with other training labels, or in another order"),
        ((LABELS + 1) % 10, [str(c) for c in range(10)], "with other training labels, or in another order"),
    ],
)
def test_probabilities_of_others_are_refused(tmp_path, labels, names, message):
    save_probabilities(tmp_path / "p.npy", make_posterior(LABELS), LABELS, NAMES)
    with pytest.raises(UsageError, match=rf"data.posterior is .*p.npy', made {message}") as error:
        loaded(tmp_path / "p.npy", labels, names)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", ["", "[1]", "{}", '{"dataset_checksum": ""}', '{"dataset_checksum": "", "class_names": 1}']
)
def test_records_beside_probabilities_that_cannot_be_used(tmp_path, content):
    save_probabilities(tmp_path / "p.npy", make_posterior(LABELS), LABELS, NAMES)
    (tmp_path / "p.npy.json").write_text(content)
    with pytest.raises(UsageError, match="beside which p.npy.json .*: remove it, or make both anew"):
        loaded(tmp_path / "p.npy")


def test_a_runs_own_record_vouches_for_its_confidences(tmp_path):
    np.save(tmp_path / "confidences.npy", make_posterior(LABELS))
    (tmp_path / "bias.json").write_text(json.dumps({"dataset_checksum": "another"}))
    with pytest.raises(UsageError, match="with other training labels, or in another order"):
        loaded(tmp_path / "confidences.npy")


@pytest.mark.parametrize("moved", [(1, 0), (1, 2, 0), tuple(range(9, -1, -1)), (*range(1, 10), 0)])
@pytest.mark.parametrize("sharpness", [2.0, 4.0, 9.0])
def test_columns_in_another_order_are_seen_without_a_record(moved, sharpness):
    posterior = make_posterior(LABELS, sharpness=sharpness)
    check_class_order("data.posterior", "p.npy", posterior, LABELS)
    order = np.array([*moved, *range(len(moved), 10)])
    with pytest.raises(
        UsageError, match="agree with the labels in another order of the classes alone"
    ) as error:
        check_class_order("data.posterior", "p.npy", posterior[:, order], LABELS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(20))
def test_poor_classifiers_are_not_taken_for_reordered_ones(seed):
    rng = np.random.default_rng(seed)
    useless = make_posterior(rng.integers(10, size=600), sharpness=3)
    collapsed = make_posterior(np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])[LABELS])
    for posterior in (useless, collapsed, np.full((600, 10), 0.1), rng.dirichlet(np.ones(10), 600)):
        check_class_order("data.posterior", "p.npy", posterior, LABELS)


def test_two_classes_that_are_hard_to_tell_apart_are_not_swapped():
    """Worse than chance by a little, or on a handful of examples."""
    labels = np.arange(1000) % 2
    for right, of in ((450, 1000), (400, 1000), (0, 3)):
        taken_for = np.where(np.arange(of) < right, labels[:of], 1 - labels[:of])
        check_class_order("data.posterior", "p.npy", np.eye(2)[taken_for], labels[:of])
    with pytest.raises(UsageError, match="agree with the labels in another order"):
        check_class_order("data.posterior", "p.npy", np.eye(2)[1 - labels[:12]], labels[:12])


@pytest.mark.parametrize("use", ["posterior", "confidences", "forward"])
def test_every_use_of_probabilities_is_checked(tmp_path, use):
    true = load_data(small_config(data__bias="none")).true_labels
    np.save(tmp_path / "p.npy", make_posterior(true)[:, ::-1])
    path = str(tmp_path / "p.npy")
    fields = {
        "posterior": {"data__bias": "pmd1_5", "data__posterior": path},
        "confidences": {"data__bias": "confidences", "data__confidences": path},
        "forward": {"method": "forward", "loss__forward_posterior": path, "data__bias": "symmetric_20"},
    }
    config = small_config(**fields[use])
    with pytest.raises(UsageError, match="agree with the labels in another order of the classes alone"):
        build_recipe(config, load_data(config))
