"""What the launcher asks of a method.

A method is one file in this folder. Its `Spec` says what must be known before anything is built: the name,
the checks of its config fields, the classifier's head. `Spec.build` turns `Parts`, the run's pieces, into a
`Method`: the streams of examples that its steps read, the phases of training, and what happens between epochs
and at the end. The launcher knows no method by name and has no `if` for any.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from cmwnet_jax.core import losses, objectives
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.types import MetaState, ObjectiveFn, PyTree, VirtualFilter
from cmwnet_jax.data.augment import Augmentation
from cmwnet_jax.data.batches import Selection
from cmwnet_jax.data.load import Data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods.fields import Fields
from cmwnet_jax.methods.measure import Measure, measure_classifier
from cmwnet_jax.methods.steps import Step
from cmwnet_jax.models.heads import Head, linear_head

Variables = Mapping[str, PyTree]
"""What Linen's `apply` takes first: `params`, and the collections of `model_state`."""

FileContents = np.ndarray | Mapping[str, np.ndarray]
"""An `.npy` file's array, or an `.npz` file's arrays by name."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """A sequence of batches, one per step: which examples, how many, and how their images are shown.

    A step reads `batch[name]`, a dictionary of `label` ([n] int32, or [n, C] float32 where a plan says so),
    `row` ([n] int32, places in the split) and, for each view, [n, height, width, channels] float32.

    Attributes:
        split: `train`, `test` or `held_out`.
        batch_size: examples of each batch, over all devices; of a planned stream, at most.
        field: the config field that says so, for errors.
        planned: whether `Method.plan_epoch` chooses its examples; else they are all of the split.
        least_planned: how many examples a plan will choose at least, where that is known before the run.
        planned_by: what decides that, for errors.
        views: what happens to its images, by name of the view.
    """

    batch_size: int
    field: str
    split: str = "train"
    planned: bool = False
    least_planned: int | None = None
    planned_by: str = ""
    views: Mapping[str, Augmentation] = dataclasses.field(default_factory=lambda: {"image": Augmentation()})


@dataclasses.dataclass(frozen=True)
class Phase:
    """The steps from one epoch on, until the next phase begins.

    Attributes:
        step: what a step does: (state, batch) -> (state, metrics), `batch` by stream.
        streams: names of the streams that it reads.
        first_epoch: where it begins, from 0.
        weighs: whether its `metrics["weights"]` mean something, so that the run's numbers describe them.
        learns: numbers of steps [n] -> [n] bool, in which of them weights are learned.
    """

    step: Step
    streams: tuple[str, ...] = ("train",)
    first_epoch: int = 0
    weighs: bool = False
    learns: Callable[[np.ndarray], np.ndarray] = lambda numbers: np.zeros(len(numbers), bool)


@dataclasses.dataclass(frozen=True, eq=False)
class EpochStart:
    """What a plan can look at.

    Attributes:
        number: of the epoch, from 0.
        state: before its first step; its arrays are replicated over the devices, with a leading axis.
        measure: (split, variables of `state`) -> the method's `Measure` of the split's examples, in their
            order, in evaluation mode and without augmentation: a pass over the split.
    """

    number: int
    state: MetaState
    measure: Callable[[str, Variables], NamedTuple]


class Plan(NamedTuple):
    """What an epoch is given at its start.

    Attributes:
        selections: examples and their labels, by planned stream.
        state: fields of the state that change, by name; replicated, as they are in `EpochStart.state`.
    """

    selections: Mapping[str, Selection] = {}
    state: Mapping[str, PyTree] = {}


@dataclasses.dataclass(frozen=True, eq=False)
class WeightNetRole:
    """A weight net's part in a run.

    Attributes:
        functions: (weight_params, losses [g] float) -> weights [K, g], for pictures.
        save: (weight_params, loss range, epochs done) -> what a checkpoint keeps of it, to be used elsewhere.
        known_range: the losses that it had learned from before this run; None for a net that starts at random.
        learns: whether it learns here; where a frozen one has a `known_range`, losses outside of it are told.
        content: its file, which the run's folder keeps a copy of; None for one that starts at random.
    """

    functions: Callable[[PyTree, jax.Array], jax.Array]
    save: Callable[[PyTree, tuple[float, float], int], Any]
    known_range: tuple[float, float] | None = None
    learns: bool = True
    content: bytes | None = None


def one_classifier(
    make_variables: Callable[[jax.Array], Variables], model_rng: jax.Array, weight_rng: jax.Array
) -> dict[str, PyTree]:
    """A state that holds one classifier and nothing besides: `Method.initial` of plain training.

    Args:
        make_variables: key -> a new classifier's variables, or the pretrained ones.
        model_rng: key of the classifier.
        weight_rng: key of whatever weighs examples.
    """
    del weight_rng
    variables = make_variables(model_rng)
    model_state = {name: value for name, value in variables.items() if name != "params"}
    return {"params": variables["params"], "model_state": model_state}


def the_classifier(state: MetaState) -> dict[str, Variables]:
    """`Method.classifiers` of a state with one classifier; its name is empty."""
    return {"": {"params": state.params, **state.model_state}}


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """What a run does, from its first step to what it leaves.

    Attributes:
        streams: what its steps read, by name.
        phases: in the order of their first epochs, the first from epoch 0.
        meta_classes: what examples' classes count as, for the weight net and for numbers by meta-class.
        warmup_epochs: how many epochs of warm-up its numbers leave out.
        main_stream: the stream whose examples `metrics["losses"]` and `metrics["weights"]` are of; an epoch is
            as many of its batches as the split has.
        weight_optimizer: of `weight_params`, where they are learned.
        initial: (key -> variables, key, key) -> arguments of `MetaState.create`; traced.
        memory: a `Table` at the start, on the host; `()` for none.
        weight_net: what its weight net is, where it has one.
        may_weigh_nothing: whether all weights of a batch may rightly be 0.
        plan_epoch: what an epoch is given at its start; called again by nobody: the checkpoint has it.
        describe_plan: selections by stream -> numbers for the epoch's line of metrics.
        classifiers: state -> variables by name, of all that is tested. The one without a name is the run's.
        measure: (variables, batch) -> a NamedTuple of arrays [n]; see `Measure`.
        test_numbers: what `measure` gave of the test split -> more numbers for the epoch's line of metrics.
        leave: state at the end, whole and on the host -> contents by file name, `.npy` or `.npz`.
        summarize: the run's folder -> numbers for result.json, from what it has left.
    """

    streams: Mapping[str, Stream]
    phases: tuple[Phase, ...]
    meta_classes: MetaClasses
    measure: Measure
    warmup_epochs: int = 0
    main_stream: str = "train"
    weight_optimizer: optax.GradientTransformation | None = None
    initial: Callable[..., Mapping[str, PyTree]] = one_classifier
    memory: PyTree = ()
    weight_net: WeightNetRole | None = None
    may_weigh_nothing: bool = False
    plan_epoch: Callable[[EpochStart], Plan] = lambda start: Plan()
    describe_plan: Callable[[Mapping[str, Selection]], dict[str, float]] = lambda selections: {}
    classifiers: Callable[[MetaState], Mapping[str, Variables]] = the_classifier
    test_numbers: Callable[[NamedTuple], Mapping[str, float]] = lambda measured: {}
    leave: Callable[[MetaState], Mapping[str, FileContents]] = lambda state: {}
    summarize: Callable[[Path], Mapping[str, Any]] = lambda folder: {}

    def phase(self, epoch: int) -> Phase:
        """The phase of an epoch, from 0."""
        return [phase for phase in self.phases if phase.first_epoch <= epoch][-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """The pieces of a run that a method is built from.

    Attributes:
        config: the run's.
        data: the run's.
        model: the classifier.
        optimizer: the classifier's.
        learning_rate: of the virtual step (Eq. 7), by step.
        num_steps: of the whole run.
        virtual_filter: which parameters the optimiser, and so the virtual step, moves; None for all.
        meta_classes: by the number that the method's `Spec` asks for.
        axis_name: the axis over the devices; None where there is one device.
        compile: for steps of several programs: (function, donate_argnums=()) -> mapped over the devices.
    """

    config: ConfigDict
    data: Data
    model: nn.Module
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    num_steps: int
    meta_classes: MetaClasses
    axis_name: str | None = None
    virtual_filter: VirtualFilter | None = None
    compile: Callable[..., Callable] = jax.jit

    @property
    def num_classes(self) -> int:
        """C."""
        return self.data.source.num_classes

    @property
    def num_examples(self) -> int:
        """N, the training examples."""
        return len(self.data.biased.ids)

    @property
    def train_stream(self) -> Stream:
        """All training examples, augmented as the config says."""
        view = Augmentation(**self.config.augment)
        return Stream(self.config.batch_size, "batch_size", views={"image": view})

    def objective(self, loss: losses.LossFn = losses.cross_entropy) -> ObjectiveFn:
        """The classification objective with this loss (logits [n, C], labels) -> [n]."""
        return objectives.classification_objective(self.model.apply, self.meta_classes, loss)

    def at_step(self, percent: float) -> int:
        """The step at this share of the run."""
        return round(self.num_steps * percent / 100)

    def method(self, phases: tuple[Phase, ...], **fields) -> Method:
        """A `Method` of one classifier on the stream `train`, but for what the fields say otherwise."""
        usual = {
            "streams": {"train": self.train_stream},
            "meta_classes": self.meta_classes,
            "measure": measure_classifier(self.model),
            "warmup_epochs": phases[-1].first_epoch,
        }
        return Method(phases=phases, **(usual | fields))


def single_labels_only(config: ConfigDict, data: Data) -> None:
    """`Spec.check_data` of methods that take one label per example.

    Raises:
        UsageError: the bias gives sets of candidates.
    """
    if data.biased.candidates is not None:
        raise UsageError(
            f"method is {config.method!r}, which takes one label per example, but {data.record.name!r} gives "
            f"candidate sets: train with method 'proden' first, then with data.bias 'confidences' and "
            f"data.confidences, that run's confidences.npy"
        )


@dataclasses.dataclass(frozen=True)
class Spec:
    """A method before it is built.

    Attributes:
        name: in configs.
        build: from the run's pieces.
        check: raises a UsageError for what its config fields say only together, before any data are read.
        check_data: raises a UsageError for data that it cannot learn from.
        head: config -> the classifier's head.
        num_meta_classes: config -> K; methods that do not look at the class have 1.
        follows_warmup: config -> whether it is another thing than the warm-up, so that epochs must follow that.
        fields: config fields that it reads, by name; other methods may read them, too.
        options: config fields that some methods read and others do not, of those that this one reads.
    """

    name: str
    build: Callable[[Parts], Method]
    check: Callable[[ConfigDict], None] = lambda config: None
    check_data: Callable[[ConfigDict, Data], None] = single_labels_only
    head: Callable[[ConfigDict], Head] = lambda config: linear_head
    num_meta_classes: Callable[[ConfigDict], int] = lambda config: 1
    follows_warmup: Callable[[ConfigDict], bool] = lambda config: True
    fields: Fields = dataclasses.field(default_factory=dict)
    options: tuple[str, ...] = ()
