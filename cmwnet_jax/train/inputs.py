"""The two input paths behind one interface: splits kept on the devices, and streamed splits.

Of splits with the same rows, both give the same step the same batches, in the same order and with the same
augmentation.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cmwnet_jax.core.types import MetaState, Metrics, PyTree
from cmwnet_jax.data.batches import BatchOrder, PassOrder, Raw, Selection, crop_purpose
from cmwnet_jax.data.load import Data
from cmwnet_jax.data.streaming import StreamedSplit
from cmwnet_jax.methods.base import Phase, Stream
from cmwnet_jax.train import parallel
from cmwnet_jax.train.compiling import Prepare, Program, by_number, with_input
from cmwnet_jax.train.views import Scaling, evaluation_view, prepare_streams, scaling_of

_STEPS_AHEAD = 4
_CHUNK = 1000  # examples per device and call in evaluation, at most
_CHUNK_BYTES = 64 << 20  # of their pixels as float32

Rows = Mapping[str, np.ndarray]
"""Stream -> [steps, n] int32: rows of its split or, for a planned stream, of its selection."""

RunSteps = Callable[[MetaState, Rows, Mapping[str, Raw]], tuple[MetaState, Metrics]]
"""(replicated state, rows, planned streams' examples on the devices) -> (state, metrics).

Metrics are stacked over the steps and equal on all D devices.
"""


class Input(Protocol):
    """The interface of an input path. Its splits are named as in `Data.splits`."""

    def load(self, stream: str, selection: Selection, epoch: int) -> Raw:
        """Loads a planned stream's examples of an epoch onto every device."""

    def make_run_steps(self, phase: Phase) -> RunSteps:
        """Makes the function that runs consecutive steps of a phase; it compiles at its first call."""

    def map_split(self, split: str, function: Callable) -> Callable[..., PyTree]:
        """Maps a function over a split; the results are (*replicated arguments) -> leaves [N, ...] on the host.

        The function is called as function(*arguments, batch).
        """


def open_input(
    data: Data,
    streams: Mapping[str, Stream],
    orders: Mapping[str, BatchOrder],
    seed: int,
    one_step_a_call: bool,
) -> Input:
    """Opens the input path for the data: device or stream.

    Args:
        data: the run's data.
        streams: the method's streams.
        orders: the batch orders of the unplanned streams.
        seed: seed of the random crops.
        one_step_a_call: whether the device path calls each step from Python; otherwise consecutive steps are
            one program.
    """
    paths = {
        "streams": streams,
        "prepare": prepare_streams(streams),
        "scaling": scaling_of(data.splits["train"], data.source.one_unit),
    }
    if isinstance(data.splits["train"], Raw):
        return DeviceInput(data.splits, **paths, one_step_a_call=one_step_a_call)
    return StreamInput(data.splits, **paths, orders=orders, seed=seed)


class DeviceInput:
    """Keeps whole splits on every device as they are stored; the compiled program gathers the batches."""

    def __init__(
        self,
        splits: Mapping[str, Raw],
        *,
        streams: Mapping[str, Stream],
        prepare: Prepare,
        scaling: Scaling,
        one_step_a_call: bool,
    ):
        """Copies the splits to the devices.

        Args:
            splits: whole splits by name.
            streams: the method's streams.
            prepare: turns raw batches by stream and the scaling into the step's batch.
            scaling: how inputs are standardised.
            one_step_a_call: as in `open_input`.
        """
        self._splits = {name: parallel.replicate(split) for name, split in splits.items()}
        self._sizes = {name: len(split) for name, split in splits.items()}
        self._streams, self._prepare, self._one_step_a_call = streams, prepare, one_step_a_call
        self._scaling = parallel.replicate(scaling)
        self._take = parallel.pmap(lambda table, rows, label: table.take(rows).replace(label=label))

    def load(self, stream: str, selection: Selection, epoch: int) -> Raw:
        """As `Input` says."""
        del epoch  # the random augmentation of these images happens inside the step
        rows, labels = parallel.replicate(
            (np.asarray(selection.rows, np.int32), _device_labels(selection.labels))
        )
        return self._take(self._splits[self._streams[stream].split], rows, labels)

    def make_run_steps(self, phase: Phase) -> RunSteps:
        """As `Input` says."""

        def fetch(tables, rows):
            splits, scaling = tables
            return {name: splits[name].take(rows[name]) for name in phase.streams}, scaling

        def tables_of(loaded):
            splits = {name: loaded.get(name, self._splits[self._streams[name].split]) for name in phase.streams}
            return splits, self._scaling

        if self._one_step_a_call:
            programs = by_number(phase.step, self._prepare, fetch)

            def one_by_one(state, rows, loaded):
                tables, rows = tables_of(loaded), parallel.share_steps(rows)
                return _each_step(programs, state, ((tables, at_step) for at_step in _step_by_step(rows)))

            return one_by_one
        one = with_input(phase.step, self._prepare, fetch)

        def scanned(state, tables, rows):
            return jax.lax.scan(lambda s, r: one(s, tables, r), state, rows)

        program = parallel.pmap(scanned, donate_argnums=(0,))
        return lambda state, rows, loaded: program(state, tables_of(loaded), parallel.share_steps(rows))

    def map_split(self, split: str, function: Callable) -> Callable[..., PyTree]:
        """As `Input` says."""
        program = parallel.pmap(
            lambda table, scaling, rows, *args: parallel.gather(
                function(*args, evaluation_view(table.take(rows), scaling))
            )
        )
        order = _pass_order(self._sizes[split], self._splits[split].image[0, 0])

        def run(*args):
            chunks = (parallel.share(order(i)) for i in range(len(order)))
            outputs = (program(self._splits[split], self._scaling, rows, *args) for rows in chunks)
            return _joined(outputs, order.num_examples)

        return run


class StreamInput:
    """Reads splits as needed. A planned stream's examples stay on the devices for one epoch."""

    def __init__(
        self,
        splits: Mapping[str, StreamedSplit],
        *,
        streams: Mapping[str, Stream],
        prepare: Prepare,
        scaling: Scaling,
        orders: Mapping[str, BatchOrder],
        seed: int,
    ):
        """Stores the arguments; workers start at a stream's first batch.

        Args:
            splits: whole splits by name.
            streams: the method's streams.
            prepare: turns raw batches by stream and the scaling into the step's batch.
            scaling: how inputs are standardised.
            orders: the batch orders of the unplanned streams.
            seed: seed of the random crops.
        """
        self._splits, self._streams, self._orders, self._seed = splits, streams, orders, seed
        self._prepare, self._scaling, self._open = prepare, parallel.replicate(scaling), {}

    def load(self, stream: str, selection: Selection, epoch: int) -> Raw:
        """As `Input` says."""
        crops, views = (self._seed, *crop_purpose(stream), epoch), len(self._streams[stream].views)
        raw = self._splits[self._streams[stream].split].read(selection.rows, crops, views)
        return parallel.replicate(raw.replace(label=_device_labels(selection.labels)))

    def make_run_steps(self, phase: Phase) -> RunSteps:
        """As `Input` says."""
        planned = [name for name in phase.streams if self._streams[name].planned]
        read = [name for name in phase.streams if not self._streams[name].planned]

        def fetch(raws, scaling, tables, rows):
            return {**raws, **{name: tables[name].take(rows[name]) for name in planned}}, scaling

        programs = by_number(phase.step, self._prepare, fetch)

        def run_steps(state, rows, loaded):
            tables = {name: loaded[name] for name in planned}
            places = parallel.share_steps({name: rows[name] for name in planned})
            first, count = int(parallel.unreplicate(state.step)), len(next(iter(rows.values())))
            batches = {name: self._batches(name, first) for name in read}

            def steps():
                for index in range(count):
                    raws = {name: next(batches[name]) for name in read}
                    yield raws, self._scaling, tables, jax.tree.map(lambda x, index=index: x[:, index], places)

            return _each_step(programs, state, steps())

        return run_steps

    def _batches(self, stream: str, step: int) -> Iterator[PyTree]:
        """Iterates batches from this step on; reuses the open iterator if it is at this step."""
        iterator = self._open.get(stream)
        if iterator is None or iterator.next_step != step:
            order, split = self._orders[stream], self._splits[self._streams[stream].split]
            crops, views = (self._seed, *crop_purpose(stream)), len(self._streams[stream].views)
            batches = split.batches(_Share(order), start=step, crops=crops, views=views)
            self._open[stream] = iterator = _Counted(_put_ahead(batches), step)
        return iterator

    def map_split(self, split: str, function: Callable) -> Callable[..., PyTree]:
        """As `Input` says."""
        program = parallel.pmap(
            lambda raw, scaling, *args: parallel.gather(function(*args, evaluation_view(raw, scaling)))
        )
        source = self._splits[split]
        order = _pass_order(len(source), source.read(np.zeros(1, np.int32)).image)
        chunks = _put_ahead(source.batches(_Share(order)))

        def run(*args):
            outputs = (program(next(chunks), self._scaling, *args) for _ in range(len(order)))
            return _joined(outputs, order.num_examples)

        return run


def _device_labels(labels: np.ndarray) -> np.ndarray:
    """Converts labels to int32 class indices or float32 distributions."""
    return labels.astype(np.int32 if np.issubdtype(labels.dtype, np.integer) else np.float32)


def _step_by_step(rows: PyTree) -> Iterator[PyTree]:
    """Iterates over the steps: leaves [D, steps, n] become [D, n]."""
    steps = len(jax.tree.leaves(rows)[0][0])
    return (jax.tree.map(lambda x, i=i: x[:, i], rows) for i in range(steps))


def _each_step(
    programs: Callable[[int], Program], state: MetaState, steps: Iterator[tuple]
) -> tuple[MetaState, Metrics]:
    """Calls one program per step, a few steps ahead of the devices; stacks metrics as `lax.scan` would."""
    collected, first = [], int(parallel.unreplicate(state.step))
    for number, arguments in enumerate(steps, first):
        state, metrics = programs(number)(state, *arguments)
        collected.append(metrics)
        if len(collected) > _STEPS_AHEAD:  # otherwise all batches could pile up in the devices' memory
            jax.block_until_ready(collected[-1 - _STEPS_AHEAD])
    return state, jax.tree.map(lambda *values: jnp.stack(values, axis=1), *collected)


def _pass_order(num_examples: int, image: np.ndarray) -> PassOrder:
    """Chunks that the devices share evenly and whose pixels fit into their memory."""
    devices = parallel.device_count()
    size = min(_CHUNK, max(1, _CHUNK_BYTES // (4 * image.size)), -(-num_examples // devices))
    return PassOrder(num_examples, devices * size)


def _joined(chunks: Iterator[PyTree], num_examples: int) -> PyTree:
    """Joins the chunks' outputs, equal on all devices, to leaves [num_examples, ...]; removes the padding."""
    outputs = [parallel.unreplicate(chunk) for chunk in chunks]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:num_examples], *outputs)


class _Counted:
    """An iterator of batches that knows the step number of the next batch."""

    def __init__(self, batches: Iterator[PyTree], first_step: int):
        self._batches, self.next_step = batches, first_step

    def __next__(self) -> PyTree:
        self.next_step += 1
        return next(self._batches)


@dataclasses.dataclass(frozen=True)
class _Share:
    """This process's rows of each step. It holds plain numbers, so that it can be sent to worker processes."""

    order: Callable[[int], np.ndarray]
    processes: int = dataclasses.field(default_factory=lambda: parallel.process_count())
    process: int = dataclasses.field(default_factory=lambda: parallel.process_index())

    def __call__(self, step: int) -> np.ndarray:
        return self.order(step).reshape(self.processes, -1)[self.process]


def _put_ahead(batches: Iterator[Raw], depth: int = 2) -> Iterator[PyTree]:
    """Copies batches to the devices while earlier ones are being computed."""
    queue = collections.deque()
    for batch in batches:
        queue.append(parallel.put(parallel.split(batch)))
        if len(queue) > depth:
            yield queue.popleft()
