"""Reads the files that a config's section `data` names, as far as is possible without the data set."""

from ml_collections import ConfigDict

from cmwnet_jax.data.bias_record import check_record
from cmwnet_jax.data.doctor import Readers
from cmwnet_jax.data.human_labels import check_human_labels
from cmwnet_jax.data.probabilities import HINTS, check_probabilities
from cmwnet_jax.errors import naming_field


def named_files(config: ConfigDict) -> Readers:
    """Readers of the saved bias, the class probabilities and the human labels that a config names.

    Whether they are of the data set, the run says, which has it.

    Args:
        config: a checked config.
    """

    def record() -> str:
        with naming_field("data.record"):
            found = check_record(config.data.record)
        return (
            f"a whole record of {found['dataset']!r}: bias {found['name']!r}, seed {found['seed']}, "
            f"{found['num_examples']:,} examples of {found['num_classes']:,} classes"
        )

    def probabilities(name: str) -> str:
        rows, classes = check_probabilities(f"data.{name}", config.data[name], HINTS[name])
        return f"a table of probabilities: {rows:,} examples, {classes:,} classes"

    def labels() -> str:
        with naming_field("data.human_labels"):
            count, annotators = check_human_labels(config.data.human_labels)
        return f"a file of human labels for {count:,} images: {', '.join(annotators)}"

    return {
        "data.record": record,
        "data.posterior": lambda: probabilities("posterior"),
        "data.confidences": lambda: probabilities("confidences"),
        "data.human_labels": labels,
    }
