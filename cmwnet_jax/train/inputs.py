"""The two input paths, with one interface: data that lives on the devices, and data that streams.

Both hand the same batches, in the same order and with the same augmentation, to the same step.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cmwnet_jax.data.augment import Augmentation, augment, standardize
from cmwnet_jax.data.batches import PassOrder, Raw, TrainOrder
from cmwnet_jax.data.meta_set import MetaSet
from cmwnet_jax.data.stream import Stream
from cmwnet_jax.data.streams import Purpose
from cmwnet_jax.train import parallel
from cmwnet_jax.train.programs import InPasses, Prepare, Program, by_number, with_input
from cmwnet_jax.types import MetaState, Metrics, PyTree, StepFn

_STEPS_AHEAD = 4
_CHUNK = 1000  # examples a device a call in evaluation, at most
_CHUNK_BYTES = 64 << 20  # of their pixels as float32

RunSteps = Callable[[MetaState, np.ndarray, Raw, np.ndarray], tuple[MetaState, Metrics]]
"""(replicated state, rows [steps, n], meta set on devices, its rows [steps, m]) -> (state, metrics).

Metrics are stacked over the steps, and alike on all D devices.
"""


class Input(Protocol):
    """What the loop asks of an input path; splits have the names `train`, `test` and, maybe, `held_out`."""

    def load_meta(self, split: str, meta_set: MetaSet, epoch: int) -> Raw:
        """An epoch's meta set on every device."""

    def make_run_steps(self, step: StepFn | InPasses) -> RunSteps:
        """Some steps on end; nothing is compiled before its first call."""

    def map_split(self, split: str, function: Callable) -> Callable[..., list[np.ndarray]]:
        """(*replicated arguments) -> the outputs of function(*arguments, batch), each [N, ...]."""


def make_prepare(augmentation: Augmentation, mean: np.ndarray, std: np.ndarray) -> Prepare:
    """(raw batch, key) -> batch with `image` float32, `label` and `row`; not augmented where the key is None.

    Args:
        augmentation: what happens to training images.
        mean: [channels] float32, of pixels scaled to [0, 1].
        std: [channels] float32, of the same.
    """

    def prepare(raw: Raw, key: jax.Array | None) -> dict[str, jax.Array]:
        image = raw.image if key is None else augment(raw.image, raw.row, key, augmentation)
        return {"image": standardize(image, mean, std), "label": raw.label, "row": raw.row}

    return prepare


class DeviceInput:
    """Splits on every device as uint8; batches are gathered inside the compiled program."""

    def __init__(self, splits: Mapping[str, Raw], prepare: Prepare, one_step_a_call: bool):
        """Copies the splits to the devices.

        Args:
            splits: whole splits by name.
            prepare: from raw batches to the step's.
            one_step_a_call: whether to call the step from Python; else steps on end are one program.
        """
        self._splits = {name: parallel.replicate(split) for name, split in splits.items()}
        self._sizes = {name: len(split) for name, split in splits.items()}
        self._prepare, self._one_step_a_call = prepare, one_step_a_call
        self._take = parallel.pmap(lambda table, rows, label: table.take(rows).replace(label=label))

    def load_meta(self, split: str, meta_set: MetaSet, epoch: int) -> Raw:
        """As `Input` says."""
        del epoch  # what is random about these images happens inside the step
        rows, labels = parallel.replicate(
            (np.asarray(meta_set.rows, np.int32), _device_labels(meta_set.labels))
        )
        return self._take(self._splits[split], rows, labels)

    def make_run_steps(self, step: StepFn | InPasses) -> RunSteps:
        """As `Input` says."""
        table = self._splits["train"]

        def fetch(table, meta, rows, meta_rows):
            return table.take(rows), meta.take(meta_rows)

        if self._one_step_a_call:
            programs = by_number(step, self._prepare, fetch)

            def one_by_one(state, rows, meta, meta_rows):
                rows, places = parallel.share_steps(rows), parallel.share_steps(meta_rows)
                steps = ((table, meta, rows[:, i], places[:, i]) for i in range(len(meta_rows)))
                return _each_step(programs, state, steps)

            return one_by_one
        one = with_input(step, self._prepare, fetch)

        def scanned(state, table, meta, rows, meta_rows):
            return jax.lax.scan(lambda s, r: one(s, table, meta, *r), state, (rows, meta_rows))

        program = parallel.pmap(scanned, donate_argnums=(0,))
        return lambda state, rows, meta, meta_rows: program(
            state, table, meta, parallel.share_steps(rows), parallel.share_steps(meta_rows)
        )

    def map_split(self, split: str, function: Callable) -> Callable[..., list[np.ndarray]]:
        """As `Input` says."""
        program = parallel.pmap(
            lambda table, rows, *args: parallel.gather(function(*args, self._prepare(table.take(rows), None)))
        )
        order = _pass_order(self._sizes[split], self._splits[split].image[0, 0])

        def run(*args):
            chunks = (parallel.share(order(i)) for i in range(len(order)))
            return _joined((program(self._splits[split], rows, *args) for rows in chunks), order.num_examples)

        return run


class StreamInput:
    """Splits that are read as they are needed; an epoch's meta set lives on the devices."""

    def __init__(self, splits: Mapping[str, Stream], prepare: Prepare, order: TrainOrder, first_step: int):
        """Opens the streams; workers start with the first batch.

        Args:
            splits: whole splits by name.
            prepare: from raw batches to the step's.
            order: rows of each step.
            first_step: where the training stream begins; steps must follow without a gap from there.
        """
        self._splits, self._prepare, self._order = splits, prepare, order
        self._train = _put_ahead(splits["train"].batches(_Share(order), start=first_step, seed=order.seed))

    def load_meta(self, split: str, meta_set: MetaSet, epoch: int) -> Raw:
        """As `Input` says."""
        raw = self._splits[split].read(meta_set.rows, (self._order.seed, Purpose.META_CROP, epoch))
        return parallel.replicate(raw.replace(label=_device_labels(meta_set.labels)))

    def make_run_steps(self, step: StepFn | InPasses) -> RunSteps:
        """As `Input` says."""
        programs = by_number(step, self._prepare, lambda raw, meta, meta_rows: (raw, meta.take(meta_rows)))

        def run_steps(state, rows, meta, meta_rows):
            del rows  # the stream is where the steps before have left it
            places = parallel.share_steps(meta_rows)
            steps = ((next(self._train), meta, places[:, i]) for i in range(len(meta_rows)))
            return _each_step(programs, state, steps)

        return run_steps

    def map_split(self, split: str, function: Callable) -> Callable[..., list[np.ndarray]]:
        """As `Input` says."""
        program = parallel.pmap(lambda raw, *args: parallel.gather(function(*args, self._prepare(raw, None))))
        stream = self._splits[split]
        order = _pass_order(len(stream), stream.read(np.zeros(1, np.int32)).image)
        chunks = _put_ahead(stream.batches(_Share(order)))

        def run(*args):
            return _joined((program(next(chunks), *args) for _ in range(len(order))), order.num_examples)

        return run


def _device_labels(labels: np.ndarray) -> np.ndarray:
    """int32 class indices or float32 distributions."""
    return labels.astype(np.int32 if np.issubdtype(labels.dtype, np.integer) else np.float32)


def _each_step(
    programs: Callable[[int], Program], state: MetaState, steps: Iterator[tuple]
) -> tuple[MetaState, Metrics]:
    """Calls a program a step, a few steps ahead of the devices; metrics stacked as a scan would."""
    collected, first = [], int(parallel.unreplicate(state.step))
    for number, arguments in enumerate(steps, first):
        state, metrics = programs(number)(state, *arguments)
        collected.append(metrics)
        if len(collected) > _STEPS_AHEAD:  # else all of the steps' batches could wait in the devices' memory
            jax.block_until_ready(collected[-1 - _STEPS_AHEAD])
    return state, jax.tree.map(lambda *values: jnp.stack(values, axis=1), *collected)


def _pass_order(num_examples: int, image: np.ndarray) -> PassOrder:
    """Chunks that the devices share evenly, and whose pixels they have room for."""
    devices = parallel.device_count()
    size = min(_CHUNK, max(1, _CHUNK_BYTES // (4 * image.size)), -(-num_examples // devices))
    return PassOrder(num_examples, devices * size)


def _joined(chunks: Iterator[tuple], num_examples: int) -> list[np.ndarray]:
    """Outputs of each chunk, alike on all devices, as one [num_examples, ...] each; the padding is cut off."""
    outputs = zip(*(parallel.unreplicate(chunk) for chunk in chunks), strict=True)
    return [np.concatenate(parts)[:num_examples] for parts in outputs]


@dataclasses.dataclass(frozen=True)
class _Share:
    """A process's own rows of each step. Numbers, not JAX's state, go to the workers of a stream."""

    order: Callable[[int], np.ndarray]
    processes: int = dataclasses.field(default_factory=lambda: parallel.process_count())
    process: int = dataclasses.field(default_factory=lambda: parallel.process_index())

    def __call__(self, step: int) -> np.ndarray:
        return self.order(step).reshape(self.processes, -1)[self.process]


def _put_ahead(batches: Iterator[Raw], depth: int = 2) -> Iterator[PyTree]:
    """Batches on the devices, copied while the ones before are computed with."""
    queue = collections.deque()
    for batch in batches:
        queue.append(parallel.put(parallel.split(batch)))
        if len(queue) > depth:
            yield queue.popleft()
