"""Order, augmentation and the two input paths."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from cmwnet_jax.core.types import MetaState
from cmwnet_jax.data import augment as augment_module
from cmwnet_jax.data.augment import Augmentation, augment, pixel_moments
from cmwnet_jax.data.batches import BatchOrder, PassOrder, Raw, Selection, crop_purpose
from cmwnet_jax.data.fit import Fit
from cmwnet_jax.data.streaming import StreamedSplit
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods.base import Phase, Stream
from cmwnet_jax.train import parallel
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.config import default_config
from cmwnet_jax.train.inputs import open_input
from cmwnet_jax.train.views import scaling_of, standardize


def numbered_images(count, size=6, channels=1):
    """Image i has pixel values that say which image and which pixel they are of."""
    base = np.arange(size * size * channels).reshape(size, size, channels)
    return ((base[None] + 40 * np.arange(count)[:, None, None, None]) % 256).astype(np.uint8)


class Source(list):
    """Random access as a data source has it."""

    def __getitems__(self, ids):
        return [self[i] for i in ids]


def source_of(images):
    return Source({"image": image} for image in images)


def test_an_epoch_is_a_permutation_and_another_one_each_time():
    order = BatchOrder(seed=3, num_examples=103, batch_size=10)
    rows = order.epoch(0)
    assert rows.shape == (10, 10)
    assert len(np.unique(rows)) == 100
    assert not np.array_equal(rows, order.epoch(1))
    assert not np.array_equal(rows, BatchOrder(4, 103, 10).epoch(0))
    np.testing.assert_array_equal(rows, BatchOrder(3, 103, 10).epoch(0))
    np.testing.assert_array_equal(order(23), order.epoch(2)[3])


def test_a_pass_visits_every_row_once_and_pads_the_last_chunk():
    order = PassOrder(num_examples=25, chunk_size=10)
    rows = np.concatenate([order(i) for i in range(len(order))])
    np.testing.assert_array_equal(rows[:25], np.arange(25))
    np.testing.assert_array_equal(rows[25:], 0)
    np.testing.assert_array_equal(order(4), order(1))


def test_meta_batches_go_through_the_meta_set_before_they_repeat():
    rows = BatchOrder(0, num_examples=12, batch_size=4, steps=6, stream="meta").epoch(5)
    assert rows.shape == (6, 4)
    for first in (0, 3):
        assert len(np.unique(rows[first : first + 3])) == 12
    np.testing.assert_array_equal(
        np.sort(BatchOrder(0, 12, 100, 2, "meta").epoch(5), axis=1), [np.arange(12)] * 2
    )


def test_an_epoch_of_several_passes_leaves_each_passes_last_partial_batch_out():
    rows = BatchOrder(0, num_examples=11, batch_size=4, steps=5).epoch(2)
    assert rows.shape == (5, 4)
    for first in (0, 2):
        assert len(np.unique(rows[first : first + 2])) == 8
    np.testing.assert_array_equal(BatchOrder(0, 11, 4, 2).epoch(2), rows[:2])


def test_no_augmentation_is_the_identity():
    images = jnp.asarray(numbered_images(3))
    np.testing.assert_array_equal(augment(images, jnp.arange(3), jax.random.key(0), Augmentation()), images)


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_a_crop_is_a_window_of_the_padded_image(mode):
    images = numbered_images(40)
    change = Augmentation(pad_pixels=2, pad_mode=mode)
    cropped = np.asarray(augment(jnp.asarray(images), jnp.arange(40), jax.random.key(0), change))
    places = []
    for image, got in zip(images, cropped, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode=mode)
        windows = {(y, x): padded[y : y + 6, x : x + 6] for y in range(5) for x in range(5)}
        found = [place for place, window in windows.items() if np.array_equal(window, got)]
        assert found
        places += found[:1]
    assert len(set(places)) > 10


def test_crops_and_flips_are_uniform():
    change, count = Augmentation(pad_pixels=1, pad_mode="constant", flip=True), 4000
    image = np.zeros((3, 3, 1), np.uint8)
    image[1, 1], image[1, 2] = 255, 100  # where it is says the crop, on which side the other is, the flip
    images = jnp.asarray(np.repeat(image[None], count, axis=0))
    out = np.asarray(augment(images, jnp.arange(count), jax.random.key(1), change))[..., 0]
    place = np.argmax((out == 255).reshape(count, -1), axis=1)
    assert stats.chisquare(np.bincount(place, minlength=9)).pvalue > 1e-3
    side = np.array(
        [np.argwhere(o == 100)[0][1] > np.argwhere(o == 255)[0][1] for o in out if (o == 100).any()]
    )
    assert stats.binomtest(int(side.sum()), len(side)).pvalue > 1e-3


def test_an_examples_augmentation_does_not_depend_on_its_batch():
    images, change = numbered_images(8), Augmentation(pad_pixels=2, flip=True)
    rows = np.arange(8, dtype=np.int32)
    whole = augment(jnp.asarray(images), rows, jax.random.key(0), change)
    part = augment(jnp.asarray(images[[5, 2]]), rows[[5, 2]], jax.random.key(0), change)
    np.testing.assert_array_equal(part, whole[jnp.array([5, 2])])


def test_random_ops_are_applied_to_what_was_cropped_and_flipped(monkeypatch):
    images, rows, key = jnp.asarray(numbered_images(30)), np.arange(30), jax.random.key(1)
    cropped = np.asarray(augment(images, rows, key, Augmentation(pad_pixels=2, flip=True)))

    def inverted(images, rows, ops_key, **options):
        assert options == {"num_ops": 3, "magnitude": None}
        assert not np.array_equal(jax.random.key_data(ops_key), jax.random.key_data(key))
        return 255 - images

    monkeypatch.setattr(augment_module, "rand_augment", inverted)
    out = augment(images, rows, key, Augmentation(pad_pixels=2, flip=True, rand_ops=3))
    np.testing.assert_array_equal(out, 255 - cropped)


def test_cutout_comes_last_and_alone_needs_no_random_ops():
    images, rows, key = jnp.asarray(numbered_images(20)), np.arange(20), jax.random.key(1)
    cropped, cut = (
        np.asarray(augment(images, rows, key, Augmentation(pad_pixels=2, cutout_pixels=pixels)))
        for pixels in (0, 3)
    )
    changed = np.any(cut != cropped, axis=-1)
    assert np.all(cut[changed] == 127)
    assert np.all(changed.sum(axis=(1, 2)) <= 9) and changed.any(axis=(1, 2)).all()


def test_with_random_ops_too_an_augmentation_does_not_depend_on_the_batch():
    images, rows, key = jnp.asarray(numbered_images(30, channels=3)), np.arange(30), jax.random.key(1)
    change = Augmentation(pad_pixels=1, rand_ops=1)
    whole = augment(images, rows, key, change)
    assert whole.dtype == jnp.uint8
    np.testing.assert_array_equal(augment(images[4:7], rows[4:7], key, change), whole[4:7])


def test_the_number_of_random_ops_is_a_checked_config_field():
    config = default_config()
    assert Augmentation(**config.augment) == Augmentation()
    config.augment.rand_ops = 2
    check_config(config)
    assert Augmentation(**config.augment).rand_ops == 2
    config.augment.rand_ops = -1
    with pytest.raises(UsageError, match=r"augment.rand_ops is -1, expected a number"):
        check_config(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pad_mode": "edge"}, "augment.pad_mode"),
        ({"pad_pixels": -1}, "augment.pad_pixels is -1"),
        ({"rand_ops": -1}, "augment.rand_ops is -1"),
        ({"cutout_pixels": -1}, "augment.cutout_pixels is -1"),
    ],
)
def test_an_augmentation_that_is_none_is_named(fields, message):
    with pytest.raises(UsageError, match=message):
        Augmentation(**fields)


def test_pixel_moments_are_numpys():
    images = np.random.default_rng(0).integers(256, size=(20, 5, 4, 3), dtype=np.uint8)
    mean, std = pixel_moments(images)
    scaled = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, scaled.std(axis=0), rtol=1e-5)
    scaling = scaling_of(Raw.whole(images, np.zeros(20)))
    normal = np.asarray(standardize(jnp.asarray(images), scaling)).reshape(-1, 3)
    np.testing.assert_allclose(normal.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(normal.std(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize(("workers", "starts"), [(0, (0, 7)), (1, (7,))])  # a worker starts for seconds
def test_a_stream_gives_what_the_device_path_gives_from_any_position(workers, starts):
    images = numbered_images(50)
    labels = np.arange(40, dtype=np.int32) % 5
    ids = np.random.default_rng(0).permutation(50)[:40]
    table = Raw.whole(images[ids], labels)
    stream = StreamedSplit(source_of(images), ids, labels, workers=workers, prefetch=2)
    order = BatchOrder(0, 40, 8)
    for start in starts:
        batches = stream.batches(order, start=start)
        for step in range(start, start + 7):
            batch, expected = next(batches), table.take(order(step))
            for field in ("image", "label", "row"):
                np.testing.assert_array_equal(getattr(batch, field), getattr(expected, field))
        del batches


def test_random_crops_of_a_stream_depend_on_step_and_row_alone():
    images = np.random.default_rng(0).integers(256, size=(16, 20, 24, 3), dtype=np.uint8)
    stream = StreamedSplit(source_of(images), np.arange(16), np.zeros(16, np.int32), fit=Fit(crop_pixels=8))
    order = BatchOrder(0, 16, 8)
    first = [next(stream.batches(order, start=s, crops=(1, 6))).image for s in (0, 1, 2)]
    resumed = stream.batches(order, start=1, crops=(1, 6))
    np.testing.assert_array_equal(next(resumed).image, first[1])
    np.testing.assert_array_equal(next(resumed).image, first[2])
    assert first[0].shape == (8, 8, 8, 3)
    plain = next(stream.batches(order)).image
    np.testing.assert_array_equal(plain, images[order(0)][:, 6:14, 8:16])


def random_crops_of_two_views():
    images = np.random.default_rng(0).integers(256, size=(16, 20, 24, 3), dtype=np.uint8)
    return StreamedSplit(source_of(images), np.arange(16), np.zeros(16, np.int32), fit=Fit(crop_pixels=8))


def test_views_have_different_random_crops_which_depend_on_the_row_alone():
    split, rows, crops = random_crops_of_two_views(), np.arange(16, dtype=np.int32), (1, 6, 0)
    first, second = split.read(rows, crops, views=2).image
    np.testing.assert_array_equal(first, split.read(rows, crops).image)  # as of a stream with one view
    assert np.mean(np.any(first != second, axis=(1, 2, 3))) > 0.9  # 13 x 17 places
    np.testing.assert_array_equal(split.read(rows[[5, 2]], crops, views=2).image[1], second[[5, 2]])
    assert split.read(rows, views=2).image.shape == (16, 8, 8, 3)  # the centre, for all views


def test_steps_get_the_crops_of_each_view():
    split, order, views = (
        random_crops_of_two_views(),
        BatchOrder(1, 16, 8, stream="labelled"),
        ("weak", "strong"),
    )
    pair = Stream(8, "b", views=dict.fromkeys(views, Augmentation()))
    data = SimpleNamespace(splits={"train": split}, source=SimpleNamespace(one_unit=False))
    streams = {"labelled": pair, "meta": dataclasses.replace(pair, planned=True)}
    inputs = open_input(data, streams, {"labelled": order}, 1, one_step_a_call=True)
    loaded = {"meta": inputs.load("meta", Selection(np.arange(8), np.zeros(8, int)), 0)}
    state = MetaState.create(params=jnp.ones(()), optimizer=optax.identity(), rng=jax.random.key(0))
    run_steps = inputs.make_run_steps(Phase(handing_out, tuple(streams)))
    rows = {"labelled": order.epoch(0)[:1], "meta": np.arange(8, dtype=np.int32)[None]}
    seen = parallel.unreplicate(run_steps(parallel.replicate(state), rows, loaded)[1])
    for stream, chosen in (("labelled", order(0)), ("meta", np.arange(8))):
        crops = split.read(chosen, (1, *crop_purpose(stream), 0), views=2).image
        for view, expected in zip(views, crops, strict=True):
            expected = standardize(jnp.asarray(expected), scaling_of(split))
            np.testing.assert_allclose(seen[f"{stream}/{view}"][0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fit", "shape", "expected"),
    [
        (Fit(), (10, 12, 3), (10, 12, 3)),
        (Fit(resize_pixels=20), (10, 12, 1), (20, 24, 1)),
        (Fit(resize_pixels=20, crop_pixels=16), (100, 60, 3), (16, 16, 3)),
        (Fit(crop_pixels=16), (10, 40, 3), (16, 16, 3)),
    ],
)
def test_images_are_made_to_fit(fit, shape, expected):
    image = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    assert fit(image).shape == expected
    assert fit(image, np.random.default_rng(0)).dtype == np.uint8


def test_images_of_different_sizes_are_named():
    source = Source([{"image": np.zeros((5, 5, 1), np.uint8)}, {"image": np.zeros((6, 5, 1), np.uint8)}])
    stream = StreamedSplit(source, np.arange(2), np.zeros(2, np.int32))
    with pytest.raises(UsageError, match=r"crop_pixels is 0, but images differ.*\(5, 5, 1\) and \(6, 5, 1\)"):
        stream.read(np.arange(2))


def handing_out(state, batch):
    """A step that reports all that it was given."""
    shown = {f"{name}/{view}": x for name, stream in batch.items() for view, x in stream.items()}
    shown = {name: parallel.gather(x) for name, x in shown.items()}
    rows = batch["labelled"]["row"]
    return state.replace(step=state.step + 1), {"losses": rows, "weights": rows, **shown}


def test_streams_and_their_views_are_alike_on_all_paths_from_any_step():
    """Two streams, one of them shown twice, and a planned one with labels of its own."""
    images, labels = numbered_images(40), np.arange(40, dtype=np.int32) % 5
    crops = Augmentation(pad_pixels=1, flip=True)
    strong = dataclasses.replace(crops, cutout_pixels=3)
    streams = {
        "labelled": Stream(4, "b", views={"weak": crops}),
        "unlabelled": Stream(8, "b", views={"weak": crops, "strong": strong}),
        "meta": Stream(4, "b", planned=True),
    }
    orders = {name: BatchOrder(3, 40, streams[name].batch_size, 5, name) for name in ("labelled", "unlabelled")}
    chosen = Selection(np.array([7, 3, 30, 21]), np.eye(5, dtype=np.float32)[:4])
    in_memory = Raw.whole(images, labels)
    streamed = StreamedSplit(source_of(images), np.arange(40), labels)
    seen = []
    for split, one_step_a_call in ((in_memory, False), (in_memory, True), (streamed, True)):
        data = SimpleNamespace(splits={"train": split}, source=SimpleNamespace(one_unit=False))
        inputs = open_input(data, streams, orders, 3, one_step_a_call)
        loaded = {"meta": inputs.load("meta", chosen, 1)}
        run_steps = inputs.make_run_steps(Phase(handing_out, tuple(streams)))
        state = MetaState.create(params=jnp.ones(()), optimizer=optax.identity(), rng=jax.random.key(0))
        state, parts = parallel.replicate(state.replace(step=jnp.array(6))), []
        for steps in (slice(1, 3), slice(3, 5)):  # of the second epoch, in two chunks
            rows = {name: order.epoch(1)[steps] for name, order in orders.items()}
            rows["meta"] = np.tile(np.arange(4, dtype=np.int32), (2, 1))
            state, metrics = run_steps(state, rows, loaded)
            parts.append(parallel.unreplicate(metrics))
        seen.append(jax.tree.map(lambda *x: np.concatenate(x), *parts))
        for name, order in orders.items():
            np.testing.assert_array_equal(seen[-1][f"{name}/row"], order.epoch(1)[1:])
            np.testing.assert_array_equal(seen[-1][f"{name}/label"], labels[order.epoch(1)[1:]])
        np.testing.assert_array_equal(seen[-1]["meta/row"], [chosen.rows] * 4)
        np.testing.assert_array_equal(seen[-1]["meta/label"], [chosen.labels] * 4)
        assert np.any(seen[-1]["unlabelled/weak"] != seen[-1]["unlabelled/strong"])
    for other in seen[1:]:
        for name, expected in seen[0].items():
            np.testing.assert_allclose(other[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
