"""The default config, a comment above every field, and what a config's argument string says."""

import json
from typing import Any

from ml_collections import ConfigDict, config_dict

from cmwnet_jax.errors import UsageError, unknown_name


def default_config() -> ConfigDict:
    """CMW-Net on the bundled digits, unbiased; experiments start from it and change fields."""
    config = ConfigDict()
    # cmwnet (a weighting function a meta-class), cmwnet_sl (and pseudo-labels), mwnet (one function), erm
    # (plain training), or a baseline: focal, class_balanced, ldam, l2rw, mcw, forward, gce, mixup, elr;
    # proden for candidate sets (partial labels).
    config.method = "cmwnet"
    # Seed of the bias, the initial parameters and the order of the batches.
    config.seed = 0
    # Passes over the training set.
    config.num_epochs = 100
    # Of these, the first so many are plain cross-entropy, for every method alike (Q9).
    config.warmup_epochs = 10
    # Training examples a step, over all devices.
    config.batch_size = 100
    # The weight net learns on every so many-th step, and is applied on all (Algorithm 1: 1).
    config.meta_every_steps = 1
    # Mixup's Beta(alpha, alpha) of training batches, for mixup and cmwnet_sl; 0: cmwnet_sl without mixup.
    config.mixup_alpha = 1.0
    # Steps that run at a stretch; the last stretch of an epoch may be shorter. Between stretches numbers are
    # checked, checkpoints written and SIGTERM obeyed: they should be shorter than the grace before a SIGKILL.
    # On the device path a stretch is one compiled program, and a shorter one another.
    config.chunk_steps = 600

    # For models that fill the memory, with mwnet and cmwnet: the meta step in four programs, at about plain
    # training's peak, for some 30% more time (`make_low_memory_step`).
    config.low_memory = False
    # low_memory only: into how many parts each batch is cut. BatchNorm then takes each part's statistics.
    config.micro_batches = 1

    config.data = ConfigDict()
    # A data set's name.
    config.data.name = "digits"
    # Where prepared data sets are kept; empty: TFDS_DATA_DIR, else ~/tensorflow_datasets.
    config.data.dir = ""
    # Files that were fetched by hand: a folder or archive, for the sets that are made from such.
    config.data.raw_dir = ""
    # For local files: the published set that they are (e.g. cifar10), whose map of similar classes applies; by
    # the names of the classes, or their numbers.
    config.data.known_as = ""
    # Whether the set's own labels are right, so that it can be said which are wrong after the bias: known,
    # unknown, or auto (known for published benchmarks, by name or known_as; not for sets from the web and
    # files of your own). Where it is unknown, metrics that need it are null.
    config.data.truth = "auto"
    # The bias, e.g. long_tail_100, symmetric_40, long_tail_10+asymmetric_40 (rates in per cent).
    config.data.bias = "none"
    # A folder with bias.json and bias.npz, e.g. another run's: its bias is used instead of `bias`.
    config.data.record = ""
    # For pmd biases: an .npy of class probabilities, [training split, C].
    config.data.posterior = ""
    # For the bias `confidences`: an .npy [training split, C], whose rows' most likely classes are given, e.g.
    # the confidences.npy of a proden run.
    config.data.confidences = ""
    # For human biases: an .npz of human labels; empty: the data set's own.
    config.data.human_labels = ""
    # For open_set biases: the data set that images are taken from.
    config.data.open_set_from = "cifar100"
    # Its `raw_dir`.
    config.data.open_set_raw_dir = ""
    # device (the set lives on the devices), stream (read as needed), auto (stream beyond 2 GiB).
    config.data.path = "auto"
    # Streaming only: the shorter side after resizing; 0: images keep their size.
    config.data.resize_pixels = 0
    # Streaming only: the square that is cut out then; 0: nothing is.
    config.data.crop_pixels = 0
    # Streaming only: processes that read and decode; 0: threads of this one.
    config.data.workers = 0
    # Streaming only: batches that each of them reads ahead.
    config.data.prefetch_batches = 4

    config.augment = ConfigDict()
    # Border added on each side of a training image before a random crop of the original size.
    config.augment.pad_pixels = 0
    # What the border shows: reflect or constant (black).
    config.augment.pad_mode = "reflect"
    # Whether training images are mirrored left to right at random.
    config.augment.flip = False
    # RandAugment's ops a training image, after crop and flip, from FixMatch's pool, magnitudes drawn; 0: none.
    config.augment.rand_ops = 0

    config.meta_set = ConfigDict()
    # lowest_loss (each epoch, per class, the examples of lowest loss: no clean data needed, Sec. 4.2),
    # balanced (each epoch, per class, random training examples, B.1), held_out (clean, set apart).
    config.meta_set.kind = "lowest_loss"
    # Examples of each class, at most.
    config.meta_set.per_class_examples = 10
    # Whether the meta loss compares with the classifier's own classes instead of the given labels (Q20).
    config.meta_set.pseudo_labels = False
    # Whether each meta batch is mixed up with itself, Beta(1, 1) (Sec. 4.2).
    config.meta_set.mixup = False
    # Meta examples a step, over all devices; a smaller meta set is used whole.
    config.meta_set.batch_size = 100

    config.model = ConfigDict()
    # The classifier's architecture.
    config.model.name = "mlp"
    # mlp only: units of its hidden layers.
    config.model.hidden = (256, 256)
    # mlp only: whether it normalises over the batch.
    config.model.batch_norm = True
    # What that batch is: all devices' (N devices then compute what one does) or each device's own (local).
    config.model.batch_norm_over = "all"
    # ImageNet's weights to start from: a .safetensors or .npz with torchvision's names; empty: random ones.
    config.model.pretrained = ""
    # What it computes in: float32 or bfloat16; parameters are float32 either way.
    config.model.dtype = "float32"

    config.optimizer = ConfigDict()
    # SGD's learning rate at the start; the virtual step (Eq. 7) uses the current one.
    config.optimizer.learning_rate = 0.1
    # steps (it falls at given steps) or warm_restarts (constant in the warm-up, then cosines that start anew,
    # each twice as long as the one before, SGDR).
    config.optimizer.schedule = "steps"
    # steps only: the learning rate is multiplied by `decay_factor` at each of these shares of the steps.
    config.optimizer.decay_at_percent = (60.0, 85.0)
    # The factor.
    config.optimizer.decay_factor = 0.1
    # warm_restarts only: epochs of the first cosine.
    config.optimizer.first_cycle_epochs = 5
    # warm_restarts only: where each cosine ends.
    config.optimizer.least_learning_rate = 1e-4
    # SGD's momentum.
    config.optimizer.momentum = 0.9
    # Whether it is Nesterov's.
    config.optimizer.nesterov = False
    # Coupled L2 on every parameter (Q32).
    config.optimizer.weight_decay = 5e-4

    config.weight_net = ConfigDict()
    # K, the number of meta-classes, for cmwnet and cmwnet_sl; all others have 1.
    config.weight_net.num_meta_classes = 3
    # Units of its hidden layer.
    config.weight_net.hidden = 100
    # Adam's learning rate for it.
    config.weight_net.learning_rate = 1e-3
    # Coupled L2 on its parameters.
    config.weight_net.weight_decay = 1e-4
    # What weights are divided by: sum (their own), mean (the batch size) or none (Q1), for mwnet and cmwnet.
    config.weight_net.normalize = "sum"
    # What cmwnet's meta-classes go by: size (of the class) or shuffled (dealt out at random: a control).
    config.weight_net.class_feature = "size"
    # A learned one to start from (Algorithm 2): a run, checkpoint, saved weight net or exported file of as
    # many meta-classes and hidden units; empty: a random one. The run's folder keeps a copy.
    config.weight_net.init = ""
    # Whether that one stays as it is: no meta steps, no meta set, the cost of plain training.
    config.weight_net.frozen = False

    config.loss = ConfigDict()
    # What erm, mwnet and cmwnet train on after the warm-up: cross_entropy, focal, gce or ldam (Q27).
    config.loss.name = "cross_entropy"
    # Focal loss's gamma.
    config.loss.focal_gamma = 1.0
    # GCE's q, in (0, 1].
    config.loss.gce_q = 0.7
    # LDAM's margin of the smallest class, between cosines.
    config.loss.ldam_margin = 0.5
    # What LDAM's classifier multiplies its cosines by.
    config.loss.ldam_scale = 30.0
    # ldam weighs its classes as class_balanced does from this share of the steps on (DRW: 80); 100: never.
    config.loss.reweight_at_percent = 100.0
    # Beta of the effective number of examples, for class_balanced, ldam and mcw.
    config.loss.class_balanced_beta = 0.9999
    # For forward: an .npy of class probabilities to estimate the matrix from; empty: the true matrix.
    config.loss.forward_posterior = ""
    # The learning rate of mcw's weights, whose gradients are divided by the batch size.
    config.loss.mcw_learning_rate = 100.0

    config.elr = ConfigDict()
    # What ELR's regulariser is multiplied by.
    config.elr.strength = 3.0
    # How much of an example's target stays at each visit.
    config.elr.momentum = 0.7

    config.soft_labels = ConfigDict()
    # cmwnet_sl: how much of an example's pseudo-label stays at each visit (Q11).
    config.soft_labels.momentum = 0.9
    # Where pseudo-labels start: prediction (the first of the teacher) or given (the given label).
    config.soft_labels.start_from = "prediction"
    # How much of the teacher stays at each step.
    config.soft_labels.teacher_momentum = 0.997
    # The teacher stays as it is from this share of the steps on; 100: never.
    config.soft_labels.freeze_teacher_at_percent = 100.0
    # What the teacher's BatchNorm uses: running (averages, as in a test) or batch (the batch's own, Q16).
    config.soft_labels.teacher_statistics = "running"
    # What a mixed-in label's weight is read from: own (its own loss, Algorithm 3) or partner (Q10).
    config.soft_labels.second_loss = "own"
    # How pseudo-labels are kept: float32 or bfloat16.
    config.soft_labels.dtype = "float32"

    config.checkpoint = ConfigDict()
    # A checkpoint every so many epochs, at the end, and when SIGTERM or SIGINT asks to stop.
    config.checkpoint.every_epochs = 20
    # And after the first chunk of steps that ends so many minutes after the last checkpoint, also inside an
    # epoch: what a SIGKILL costs, at most; 0: never. When it is written changes nothing of what is computed.
    config.checkpoint.every_minutes = 10.0
    # How many of the newest are kept.
    config.checkpoint.keep = 2

    config.watch = ConfigDict()
    # TensorBoard gets pictures (weighting functions, weights, confusion matrix) every so many epochs, and
    # at the end; 0: only then.
    config.watch.pictures_every_epochs = 20
    return config.lock()


def as_json(config: ConfigDict) -> str:
    """The config as config.json has it, which is what a restarted run is compared with.

    Args:
        config: any.
    """
    return json.dumps(json.loads(config.to_json_best_effort()), indent=2) + "\n"


def with_defaults(fields: dict) -> dict:
    """The fields of a config.json; those that are younger than it have their defaults, as it was run.

    Args:
        fields: the file's.
    """
    return _filled(fields, json.loads(as_json(default_config())))


def _filled(fields: Any, defaults: dict) -> Any:
    if not isinstance(fields, dict):  # a spoilt file's, which is no default's equal
        return fields
    filled = {
        name: _filled(fields.get(name, {}), value)
        for name, value in defaults.items()
        if isinstance(value, dict)
    }
    return {**defaults, **fields, **filled}


def parse_arg(arg: str, positional: tuple[str, ...], **defaults: str | int) -> config_dict.ConfigDict:
    """A config's argument string, e.g. `long_tail_10,erm,seed=3`.

    Args:
        arg: what follows the colon: values by position, then name=value.
        positional: the names that the positions stand for.
        **defaults: every name with its default, which gives its type.

    Raises:
        UsageError: too many values, an unknown name, or a value of the wrong type.
    """
    values = dict(defaults)
    tokens = [token.strip() for token in arg.split(",")] if arg else []
    for position, token in enumerate(tokens):
        name, has_name, text = token.partition("=")
        if not has_name:
            if position >= len(positional):
                raise UsageError(
                    f"the config's argument {arg!r} has {token!r} at place {position + 1}, expected at most "
                    f"{','.join(positional)}, then name=value"
                )
            name, text = positional[position], token
        if name not in defaults:
            raise unknown_name("a name in the config's argument", name, defaults)
        if text:
            values[name] = _typed(name, text, type(defaults[name]))
    return ConfigDict(values)


def _typed(name: str, text: str, kind: type) -> str | int | float:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{name} is {text!r} in the config's argument, expected {kind.__name__}") from None
