"""Each example's mean loss: what is added, what a run keeps, and meta sets that are ranked by it."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from test_train import small_config

import cmwnet_jax as cmw
from cmwnet_jax.data.load import load_data
from cmwnet_jax.data.meta_set import lowest_loss
from cmwnet_jax.methods import meta_data
from cmwnet_jax.methods.base import EpochStart
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.config import with_defaults
from cmwnet_jax.train.epoch import margins, saved_history
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.trainer import Trainer

N = 9


def visits(seed, steps=5, n=8):
    """Rows that repeat within a step, padding among them; the last example is never visited."""
    rng = np.random.default_rng(seed)
    return rng.integers(-1, N - 1, (steps, n)).astype(np.int32), rng.exponential(size=(steps, n))


def means(rows, losses):
    """(mean or NaN, number) of each example, by a loop over the visits."""
    seen = [[] for _ in range(N)]
    for row, loss in zip(np.ravel(rows), np.ravel(losses), strict=True):
        if row >= 0:
            seen[row].append(loss)
    return [np.mean(own) if own else np.nan for own in seen], [len(own) for own in seen]


def check(history, rows, losses):
    mean, count = means(rows, losses)
    np.testing.assert_allclose(history.mean, mean, rtol=1e-14)
    np.testing.assert_array_equal(history.count, count)
    assert np.isnan(history.mean[-1]) and max(history.count) > 1


class TestUpdate:
    def test_against_a_loop_over_the_visits(self, x64):
        """On the host, step by step or at once; a step a call; and in one program."""
        rows, losses = visits(0)
        for on_host in (True, False):
            one = many = cmw.LossHistory.create(N, on_host=on_host)
            one = one.update(rows, losses)
            for step in zip(rows, losses, strict=True):
                many = many.update(*step)
            check(one, rows, losses)
            check(many, rows, losses)
            assert isinstance(one.total, np.ndarray) == isinstance(many.mean, np.ndarray) == on_host

        @jax.jit
        def scanned(history, rows, losses):
            return jax.lax.scan(lambda h, step: (h.update(*step), ()), history, (rows, losses))[0]

        check(scanned(cmw.LossHistory.create(N), rows, losses), rows, losses)

    def test_the_old_history_stays_as_it_was(self):
        rows, losses = visits(0)
        for on_host in (True, False):
            history = cmw.LossHistory.create(N, on_host=on_host)
            history.update(rows, losses)
            assert not np.any(history.count) and not np.any(history.total)

    def test_four_devices_are_one(self, x64):
        rows, losses = visits(1)
        step = jax.pmap(lambda history, *visits: history.update(*visits, axis_name="i"), axis_name="i")
        history = jax.tree.map(lambda x: jnp.stack([x] * 4), cmw.LossHistory.create(N))
        for visited in zip(rows, losses, strict=True):
            history = step(history, *(x.reshape(4, 2) for x in visited))
        for device in range(4):
            check(jax.tree.map(lambda x, device=device: x[device], history), rows, losses)

        @functools.partial(jax.vmap, in_axes=(None, 1, 1), axis_name="i")
        def in_lanes(history, rows, losses):
            return history.update(rows, losses, axis_name="i")

        shared = in_lanes(cmw.LossHistory.create(N), rows, losses)
        check(jax.tree.map(lambda x: x[3], shared), rows, losses)

    def test_four_devices_of_a_mesh_are_one(self, x64):
        """`shard_map` checks that what it returns as equal is equal, and that a scan carries the same."""
        mesh = jax.make_mesh((2, 2), ("i", "j"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
        split, rows_and_losses = P(None, ("i", "j")), visits(1)

        def many(history, rows, losses):
            return jax.lax.scan(
                lambda history, visited: (history.update(*visited, axis_name=("i", "j")), ()),
                history,
                (rows, losses),
            )[0]

        step = jax.jit(jax.shard_map(many, mesh=mesh, in_specs=(P(), split, split), out_specs=P()))
        check(step(cmw.LossHistory.create(N), *rows_and_losses), *rows_and_losses)

    def test_half_precision_is_added_in_the_historys(self):
        history = cmw.LossHistory.create(1)
        for _ in range(300):
            history = history.update(jnp.zeros(1, int), jnp.ones(1, jnp.bfloat16))
        assert history.total.dtype == jnp.float32 and history.mean[0] == 1

    def test_nan_is_kept(self):
        history = cmw.LossHistory.create(2, on_host=True).update(np.array([0, 1]), np.array([np.nan, 1.0]))
        assert np.isnan(history.mean[0]) and history.count[0] == 1 and history.mean[1] == 1

    @pytest.mark.parametrize("on_host", [True, False])
    @pytest.mark.parametrize(
        ("rows", "losses", "message"),
        [
            ([0, 9], [1.0, 1.0], "rows are 0 to 9, expected 0 to 8, or -1 for padding"),
            ([-2, 0], [1.0, 1.0], "rows are -2 to 0"),
            (
                [0, 1],
                [1.0],
                r"shape \(2,\) and losses have shape \(1,\), expected integers and a loss for each",
            ),
            ([0.0], [1.0], "expected integers"),
        ],
    )
    def test_refuses(self, rows, losses, message, on_host):
        rows, losses = (np.array(x) if on_host else jnp.array(x) for x in (rows, losses))
        with pytest.raises(cmw.UsageError, match=message):
            cmw.LossHistory.create(N, on_host=on_host).update(rows, losses)

    def test_no_visits_and_no_examples(self):
        history = cmw.LossHistory.create(2, on_host=True).update(np.zeros(0, int), np.zeros(0))
        assert history.count.tolist() == [0, 0]
        with pytest.raises(cmw.UsageError, match="num_examples is 0, expected at least 1"):
            cmw.LossHistory.create(0)

    def test_in_a_program_rows_outside_are_left_out(self):
        history = jax.jit(lambda rows: cmw.LossHistory.create(2).update(rows, jnp.ones(3)))(
            jnp.array([1, 2, -5])
        )
        assert history.count.tolist() == [0, 1]


def plan_of(visited, classes, **fields):
    """(the meta set's rows, how many passes it took) of an epoch, by made losses of now and before."""
    given = np.asarray(classes)
    config = small_config(**{"meta_set__rank_by": "history", "meta_set__per_class_examples": 2, **fields})
    biased = SimpleNamespace(given=given, class_counts=np.bincount(given, minlength=3))
    parts = SimpleNamespace(
        config=config, data=SimpleNamespace(biased=biased), num_classes=3, train_stream=None
    )
    passes = []

    def measure(split, variables):
        passes.append(split)
        return SimpleNamespace(losses=np.arange(len(given)), predictions=given[::-1])

    history = cmw.LossHistory.create(len(given), on_host=True).update(
        np.array(visited, int), -np.array(visited, float)
    )
    state = SimpleNamespace(params=(), model_state={})
    plan = meta_data.meta_fields(parts)["plan_epoch"](EpochStart(5, state, measure, history, None, None))
    chosen = plan.selections["meta"]
    return chosen.rows.tolist(), chosen.labels.tolist(), passes


class TestRanking:
    def test_by_history_needs_no_pass_and_now_does(self):
        assert plan_of(range(7), [0] * 4 + [1] * 3) == ([2, 3, 5, 6], [0, 0, 1, 1], [])
        assert plan_of(range(7), [0] * 4 + [1] * 3, meta_set__rank_by="now")[::2] == ([0, 1, 4, 5], ["train"])

    def test_an_example_without_a_visit_is_not_chosen(self):
        assert plan_of([0, 1, 4, 5], [0] * 4 + [1] * 3)[0] == [0, 1, 4, 5]

    def test_where_too_few_have_been_visited_it_is_now(self):
        for visited in ([], [0, 1, 4]):
            assert plan_of(visited, [0] * 4 + [1] * 3)[::2] == ([0, 1, 4, 5], ["train"])

    def test_of_a_class_that_is_taken_whole_nothing_needs_to_be_known(self):
        assert plan_of([2, 3], [0] * 4 + [1] * 2)[::2] == ([2, 3, 4, 5], [])

    def test_pseudo_labels_need_the_pass(self):
        plan = plan_of(range(7), [0] * 4 + [1] * 3, meta_set__pseudo_labels=True)
        assert plan == ([2, 3, 5, 6], [1, 0, 0, 0], ["train"])

    def test_other_meta_sets_do_not_read_it(self):
        assert plan_of([], [0] * 4 + [1] * 3, meta_set__kind="balanced")[2] == []


def test_a_run_keeps_the_losses_of_its_steps_and_ranks_by_them(tmp_path, monkeypatch):
    """In the warm-up, too, and of the examples that an epoch leaves out in the others alone."""
    config = small_config(num_epochs=3, warmup_epochs=1, chunk_steps=5, meta_set__rank_by="history")
    data = load_data(config)
    order = build_recipe(config, data).orders["train"]
    epochs, passes = {}, []
    run_chunk, measure = Trainer.run_chunk, Trainer.measure

    def kept(trainer, state, epoch):
        state, epochs[epoch.number] = run_chunk(trainer, state, epoch)
        return state, epochs[epoch.number]

    def counted(trainer, split, variables):
        passes.append(split)
        return measure(trainer, split, variables)

    monkeypatch.setattr(Trainer, "run_chunk", kept)
    monkeypatch.setattr(Trainer, "measure", counted)
    train(config, tmp_path)
    assert passes == ["test"] * 3
    seen = [[] for _ in data.biased.ids]
    for number in range(3):
        if number:
            losses = np.array([np.mean(own) if own else np.nan for own in seen])
            rows = lowest_loss(losses, data.biased.given, 10, config.meta_set.per_class_examples)
            np.testing.assert_array_equal(epochs[number].selections["meta"].rows, rows)
        for rows, losses in zip(order.epoch(number), epochs[number].losses, strict=True):
            for row, loss in zip(rows, losses, strict=True):
                seen[row].append(float(loss))
    with np.load(tmp_path / "weights.npz") as arrays:
        np.testing.assert_array_equal(arrays["visits"], [len(own) for own in seen])
        np.testing.assert_allclose(arrays["mean_losses"], [np.mean(own) for own in seen], rtol=1e-6)
        odds = [np.mean(margins(np.array(own))) for own in seen]
        np.testing.assert_allclose(arrays["mean_margins"], odds, rtol=1e-5, atol=1e-6)
    assert {2, 3} <= {len(own) for own in seen}


def test_runs_and_checkpoints_of_before_go_on():
    """As they were trained; their history starts where they go on."""
    before = with_defaults({"method": "cmwnet", "meta_set": {"kind": "lowest_loss"}})["meta_set"]
    assert (before["rank_by"], before["mixup"], before["kind"]) == ("now", False, "lowest_loss")
    history = saved_history({"steps_loss": np.ones(3)}, 5)
    assert history.count.tolist() == [0] * 5 and np.isnan(history.mean).all()
