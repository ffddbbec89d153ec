"""The interface between the launcher and a method.

A method is one file in this folder. Its `Spec` holds what is needed before anything is built: the name, the
checks of its config fields, the classifier's head. `Spec.build` takes the pieces of a run, `Parts`, and
returns a `Method`: the streams of examples that its steps read, the phases of training, and what happens
between epochs and at the end. The launcher treats all methods alike and knows none by name.
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
from cmwnet_jax.core.loss_history import LossHistory
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.types import MetaState, ObjectiveFn, PyTree, VirtualFilter
from cmwnet_jax.data.augment import Augmentation
from cmwnet_jax.data.batches import Selection
from cmwnet_jax.data.load import Data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods.fields import Fields
from cmwnet_jax.methods.measure import Measure, Predict, measure_classifier, predict_classes
from cmwnet_jax.methods.steps import Step
from cmwnet_jax.models.heads import Head, linear_head

Variables = Mapping[str, PyTree]
"""The first argument of Linen's `apply`: `params` and the collections of `model_state`."""

FileContents = np.ndarray | Mapping[str, Any]
"""The array of an `.npy` file, the arrays of an `.npz` file by name, or the fields of a `.json` file."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """A sequence of batches, one per step: its split, batch size and augmentation.

    A step reads `batch[name]`, a dictionary of `label` ([n] int32, -1 without a label, or [n, C] float32 if
    the plan gives distributions), `row` ([n] int32, rows of the split) and [n, height, width, channels]
    float32 per view.

    Attributes:
        split: `train`, `test` or, if the data have it, `held_out`, `calibration` or `labelled` (see `Data`).
        batch_size: examples per batch, over all devices; for a planned stream, the maximum.
        field: the config field that sets the batch size, for error messages.
        planned: whether `Method.plan_epoch` chooses the examples; otherwise the stream is the whole split.
        least_planned: the smallest number of examples that a plan will choose; None if not known before the
            run.
        planned_by: what determines `least_planned`, for error messages.
        views: name of the view -> augmentation of its images.
        balanced_from: first epoch in which every class of given labels is drawn equally often, examples of
            small classes more often than others; None for never. Not of planned streams.
    """

    batch_size: int
    field: str
    split: str = "train"
    planned: bool = False
    least_planned: int | None = None
    planned_by: str = ""
    views: Mapping[str, Augmentation] = dataclasses.field(default_factory=lambda: {"image": Augmentation()})
    balanced_from: int | None = None


@dataclasses.dataclass(frozen=True)
class Phase:
    """A period of training with one kind of step; it lasts until the next phase begins.

    Attributes:
        step: (state, batch) -> (state, metrics); `batch` maps stream names to batches.
        streams: names of the streams that the step reads.
        first_epoch: the phase's first epoch, counted from 0.
        weighs: whether `metrics["weights"]` are meaningful, so that the run reports on them.
        learns: step numbers [n] -> [n] bool, true for the steps that learn weights.
    """

    step: Step
    streams: tuple[str, ...] = ("train",)
    first_epoch: int = 0
    weighs: bool = False
    learns: Callable[[np.ndarray], np.ndarray] = lambda numbers: np.zeros(len(numbers), bool)


@dataclasses.dataclass(frozen=True, eq=False)
class EpochStart:
    """The input of `Method.plan_epoch`.

    Attributes:
        number: the epoch's number, from 0.
        state: the state before the epoch's first step, replicated: its arrays have a leading device axis.
        measure: (split, variables of `state`) -> the method's `Measure` of all examples of the split, in
            order, in evaluation mode and without augmentation. Costs one pass over the split.
        loss_history: the losses of the N training examples in all steps of the run so far, the warm-up
            included: NumPy `mean` [N] float64 (NaN without a visit) and `count` [N] int32. Needs no pass.
        read: part of `state` -> the same on one device, readable by the host.
        replicate: part of a state, on the host -> the same as in `state`.
        map: (split, function, variables of `state`) -> the results of (variables, batch) -> [n, ...] for all
            examples of the split, [N, ...], as `measure` otherwise. Compiled anew at each call.
    """

    number: int
    state: MetaState
    measure: Callable[[str, Variables], NamedTuple]
    loss_history: LossHistory
    read: Callable[[PyTree], PyTree]
    replicate: Callable[[PyTree], PyTree]
    map: Callable[[str, Callable, Variables], PyTree] | None = None


class Plan(NamedTuple):
    """The result of `Method.plan_epoch`.

    Attributes:
        selections: planned stream -> its examples and their labels.
        state: the fields of the state to replace, by name; replicated as in `EpochStart.state`.
    """

    selections: Mapping[str, Selection] = {}
    state: Mapping[str, PyTree] = {}


@dataclasses.dataclass(frozen=True, eq=False)
class WeightNetRole:
    """How a run uses its weight net.

    Attributes:
        functions: (weight_params, losses [g] float) -> weights [K, g], for plots.
        save: (state, unreplicated, loss range, epochs done) -> the weight net as a checkpoint stores it, for
            use in other runs.
        known_range: the range of losses that it was trained on before this run; None for a random start.
        learns: whether this run trains it. If not, the run warns about losses outside `known_range`.
        content: the bytes of its file, which the run's folder keeps a copy of; None for a random start.
    """

    functions: Callable[[PyTree, jax.Array], jax.Array]
    save: Callable[[MetaState, tuple[float, float], int], Any]
    known_range: tuple[float, float] | None = None
    learns: bool = True
    content: bytes | None = None


def one_classifier(
    make_variables: Callable[[jax.Array], Variables], model_rng: jax.Array, weight_rng: jax.Array
) -> dict[str, PyTree]:
    """The initial state of plain training, a single classifier; the default of `Method.initial`.

    Args:
        make_variables: key -> variables of a new classifier, or the pretrained ones.
        model_rng: key for the classifier.
        weight_rng: key for the weight parameters; unused.
    """
    del weight_rng
    variables = make_variables(model_rng)
    model_state = {name: value for name, value in variables.items() if name != "params"}
    return {"params": variables["params"], "model_state": model_state}


def the_classifier(state: MetaState) -> dict[str, Variables]:
    """The default of `Method.classifiers`: one classifier, whose name is empty."""
    return {"": {"params": state.params, **state.model_state}}


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """A built method: everything that a run does between its first step and its output files.

    Attributes:
        streams: the streams that its steps read, by name.
        phases: sorted by first epoch; the first phase starts at epoch 0.
        meta_classes: class -> meta-class, for the weight net and for metrics per meta-class.
        warmup_epochs: the number of warm-up epochs, which the run's averages leave out.
        refitted: state, unreplicated -> its meta-classes, if they change between epochs; None if they do not.
        main_stream: the stream whose examples the steps' metrics `PER_EXAMPLE` describe; its split is `train`.
            The losses must be those of the examples' own given labels, also where images are mixed, since the
            loss history averages them; or those of the labels that the steps choose and report.
        weight_optimizer: the optimiser of `weight_params`; None if they are not learned.
        initial: (key -> variables, key, key) -> arguments of `MetaState.create`; traced.
        memory: the initial `MetaState.memory`, on the host; `()` for none.
        weight_net: the role of its weight net; None if it has none.
        may_weigh_nothing: whether it is normal that all weights of a batch are 0.
        plan_epoch: chooses the examples of an epoch at its start. Called once per epoch: a resumed epoch takes
            its plan from the checkpoint.
        describe_plan: selections by stream -> numbers for the epoch's metrics.
        classifiers: state -> variables, by name, of every classifier to test. The run's own has an empty name.
        measure: (variables, batch) -> a NamedTuple of arrays [n]; see `Measure`.
        coverages_percent: coverages at which the selective error is reported, where the run's data have a
            calibration split; by default those of Table 15.
        predict: (variables, batch) -> class probabilities [n, C], which a run leaves of its training examples
            for the audit; None for none. A method with its own `measure` has none unless it says so.
        test_numbers: `measure`'s result on the test split -> more numbers for the epoch's metrics.
        leave: final state, unreplicated and on the host -> contents of output files by name, `.npy` or `.npz`.
        summarize: the run's folder -> numbers for result.json, read from the files of `leave`.
    """

    streams: Mapping[str, Stream]
    phases: tuple[Phase, ...]
    meta_classes: MetaClasses
    measure: Measure
    warmup_epochs: int = 0
    refitted: Callable[[MetaState], MetaClasses] | None = None
    main_stream: str = "train"
    weight_optimizer: optax.GradientTransformation | None = None
    initial: Callable[..., Mapping[str, PyTree]] = one_classifier
    memory: PyTree = ()
    weight_net: WeightNetRole | None = None
    may_weigh_nothing: bool = False
    plan_epoch: Callable[[EpochStart], Plan] = lambda start: Plan()
    describe_plan: Callable[[Mapping[str, Selection]], dict[str, float]] = lambda selections: {}
    classifiers: Callable[[MetaState], Mapping[str, Variables]] = the_classifier
    coverages_percent: tuple[float, ...] = (100.0, 95.0, 90.0, 85.0, 80.0, 75.0, 70.0)
    predict: Predict | None = None
    test_numbers: Callable[[NamedTuple], Mapping[str, float]] = lambda measured: {}
    leave: Callable[[MetaState], Mapping[str, FileContents]] = lambda state: {}
    summarize: Callable[[Path], Mapping[str, Any]] = lambda folder: {}

    def phase(self, epoch: int) -> Phase:
        """Returns the phase of an epoch, counted from 0."""
        return [phase for phase in self.phases if phase.first_epoch <= epoch][-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """The pieces of a run that a method is built from.

    Attributes:
        config: the run's config.
        data: the run's data.
        model: the classifier.
        optimizer: the classifier's optimiser.
        learning_rate: step -> learning rate of the virtual step (Eq. 7).
        num_steps: steps of the whole run.
        virtual_filter: selects the parameters that the optimiser and the virtual step change; None for all.
        meta_classes: as many meta-classes as the method's `Spec` asks for.
        axis_name: the device axis; None on one device.
        compile: (function, donate_argnums=()) -> the function mapped over the devices, for steps that consist
            of several programs.
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
        """C, the number of classes."""
        return self.data.source.num_classes

    @property
    def num_examples(self) -> int:
        """N, the number of training examples."""
        return len(self.data.biased.ids)

    @property
    def train_stream(self) -> Stream:
        """The whole training split, with the config's augmentation."""
        view = Augmentation(**self.config.augment)
        return Stream(self.config.batch_size, "batch_size", views={"image": view})

    def objective(self, loss: losses.LossFn = losses.cross_entropy) -> ObjectiveFn:
        """Makes the classification objective for a loss: (logits [n, C], labels) -> [n]."""
        return objectives.classification_objective(self.model.apply, self.meta_classes, loss)

    def at_step(self, percent: float) -> int:
        """Returns the number of the step at this percentage of the run."""
        return round(self.num_steps * percent / 100)

    def method(self, phases: tuple[Phase, ...], **fields) -> Method:
        """Makes a `Method` with one classifier on the stream `train`; `fields` override these defaults."""
        usual = {
            "streams": {"train": self.train_stream},
            "meta_classes": self.meta_classes,
            "measure": measure_classifier(self.model),
            "predict": None if "measure" in fields else predict_classes(self.model),
            "warmup_epochs": phases[-1].first_epoch,
        }
        return Method(phases=phases, **(usual | fields))


def single_labels_only(config: ConfigDict, data: Data) -> None:
    """The default of `Spec.check_data`, for methods that take one label per example.

    Raises:
        UsageError: the bias gives sets of candidate labels, or some examples have no label.
    """
    if not data.biased.is_labelled.all():
        raise UsageError(
            f"method is {config.method!r}, which takes one label per example, but {data.record.name!r} gives "
            f"labels to {data.biased.is_labelled.sum()} of the {len(data.biased.ids)} examples: take method "
            f"'fixmatch', or data.bias 'balanced_subset_N' for the labelled examples alone"
        )
    if data.biased.candidates is not None:
        raise UsageError(
            f"method is {config.method!r}, which takes one label per example, but {data.record.name!r} gives "
            f"candidate sets: train with method 'proden' first, then with data.bias 'confidences' and "
            f"data.confidences, that run's confidences.npy"
        )


@dataclasses.dataclass(frozen=True)
class Spec:
    """The declaration of a method, before it is built.

    Attributes:
        name: the method's name in configs.
        build: makes the method from the pieces of a run.
        check: checks combinations of its config fields before any data are read; raises a UsageError.
        check_data: raises a UsageError for data that it cannot learn from.
        head: config -> the classifier's head.
        starts_from: config -> the head of the runs that `model.init` may name, if it is another. Its parameters
            must be among those of `head`; the others then start at random.
        num_meta_classes: config -> K of its weight net; 1 for methods that ignore the class.
        clusters_labels: whether the meta-classes are clusters of the sizes of the given classes; otherwise the
            method makes them itself.
        follows_warmup: config -> whether training differs from the warm-up, so that the run must have epochs
            after the warm-up.
        fields: the config fields that it reads, by name; methods may share fields.
        options: those of its fields that not all methods read. Setting one is an error with a method that does
            not read it.
        classifier_field: the field of the state whose `params` and `model_state` are the classifier that is
            tested, e.g. `teacher`; empty for the state itself. Runs with `model.init` start from it.
    """

    name: str
    build: Callable[[Parts], Method]
    check: Callable[[ConfigDict], None] = lambda config: None
    check_data: Callable[[ConfigDict, Data], None] = single_labels_only
    head: Callable[[ConfigDict], Head] = lambda config: linear_head
    starts_from: Callable[[ConfigDict], Head] | None = None
    num_meta_classes: Callable[[ConfigDict], int] = lambda config: 1
    clusters_labels: bool = True
    follows_warmup: Callable[[ConfigDict], bool] = lambda config: True
    fields: Fields = dataclasses.field(default_factory=dict)
    options: tuple[str, ...] = ()
    classifier_field: str = ""
