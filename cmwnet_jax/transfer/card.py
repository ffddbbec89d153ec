"""A weight net's card: what is known of it, as rows for the screen and as a page of Markdown."""

from collections.abc import Sequence

import numpy as np

from cmwnet_jax.drawing import meta_class_names
from cmwnet_jax.transfer.saved import SavedWeightNet

MEASURED = "measured"
"""Name in the provenance of a list of sentences: what was measured of the net on other data."""

_LISTED = 20  # largest number of entries that are shown
_LOSSES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_UNKNOWN, _NO_CLASS = "not known", "no class"
_DIVISORS = {"sum": "their sum", "mean": "the number of examples", "none": "1"}
_FIRST = ("dataset", "bias", "num_examples", "method", "model", "loss", "command", "accuracy")
_CODE = """\
## Use

In JAX, with `class_counts` [C] of the new data's given labels, `losses` [n] float32 and `labels` [n] int:

```python
import cmwnet_jax as cmw

saved = cmw.load_weight_net("{path}")
meta_classes = cmw.MetaClasses.fit(class_counts, num_meta_classes=saved.num_meta_classes)
weights = saved.weight_net.apply(saved.weight_params, losses, meta_classes.of_class[labels])
weights = weights / {divisor}
```

In PyTorch (`import torch, safetensors.torch`), from its file, with `losses` [n] float32 without gradient, and
`meta_class` [n] int64, 0 for the smallest classes:

```python
net = safetensors.torch.load_file("{file}")
hidden = torch.relu(losses[:, None] @ net["params/shared/kernel"] + net["params/shared/bias"])
logits = hidden @ net["params/heads/kernel"] + net["params/heads/bias"]
weights = torch.sigmoid(logits).gather(1, meta_class[:, None])[:, 0]
weights = weights / {divisor}
```
"""


def facts(saved: SavedWeightNet) -> dict[str, str]:
    """What is known of a weight net, by name.

    Args:
        saved: the weight net.
    """
    low, high = saved.loss_range
    apart = (MEASURED, "normalize", "meta_class_of_class", "has_class")
    about = {name: value for name, value in saved.provenance.items() if name not in apart and value != ""}
    names = [name for name in _FIRST if name in about] + [name for name in about if name not in _FIRST]
    return {
        **{_PLAIN.get(name, name.replace("_", " ")): _short(about[name]) for name in names},
        "meta-classes (K)": str(saved.num_meta_classes),
        "class sizes (centres)": ", ".join(
            _NO_CLASS if not has else _UNKNOWN if np.isnan(center) else f"{center:g}"
            for center, has in zip(saved.centers, saved.has_class, strict=True)
        ),
        "hidden units": str(saved.hidden),
        "losses learned from (nats)": f"{low:.4g} to {high:.4g}",
        "weights divided by (Q1)": _divisor(saved),
        "transfers to": "; ".join(map(str, measured(saved))) or "not measured",
    }


_PLAIN = {"dataset": "learned on", "num_examples": "examples", "accuracy": "the run it is from"}


def measured(saved: SavedWeightNet) -> list:
    """Sentences about what was measured with the weight net on other data; empty for none.

    Args:
        saved: the weight net.
    """
    found = saved.provenance.get(MEASURED, [])
    return found if isinstance(found, list) else [found]


def _divisor(saved: SavedWeightNet) -> str:
    given = saved.provenance.get("normalize", _UNKNOWN)
    return _DIVISORS.get(given, str(given)) if isinstance(given, str) else str(given)


def _short(value) -> str:
    """A value for printing; long lists, e.g. of a thousand classes, are shortened."""
    if isinstance(value, list) and len(value) > _LISTED:
        if all(isinstance(part, int | float) for part in value):
            return f"{len(value)} numbers from {min(value)} to {max(value)}"
        return f"{len(value)} entries, the first {_short(value[0])}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def weight_rows(saved: SavedWeightNet) -> tuple[list[str], list[list[str]]]:
    """The weights at some losses, in brackets where the head has not learned from such losses.

    Args:
        saved: the weight net.

    Returns:
        (the heads of the columns, the first for the loss; the rows).
    """
    (low, high), has_class = saved.loss_range, saved.has_class
    rows = [
        [
            f"{loss:g}",
            *(
                f"{weight:.3f}" if low <= loss <= high and has else f"({weight:.3f})"
                for weight, has in zip(weights, has_class, strict=True)
            ),
        ]
        for loss, weights in zip(_LOSSES, saved.functions(np.array(_LOSSES)).T, strict=True)
    ]
    names = meta_class_names(np.where(has_class, saved.centers, np.nan))
    heads = [name if has else f"{name} ({_NO_CLASS})" for name, has in zip(names, has_class, strict=True)]
    return ["loss (nats)", *heads], rows


def card(saved: SavedWeightNet, name: str, path: str, file: str) -> str:
    """The card as Markdown: facts, weighting functions as a table, and how to use the weight net.

    Args:
        saved: the weight net.
        name: the heading.
        path: what `load_weight_net` takes, for the code.
        file: path of the .safetensors, for the code.
    """
    heads, rows = weight_rows(saved)
    given = saved.provenance.get("normalize")
    divisor = {"mean": "len(weights)", "none": "1"}.get(str(given), "weights.sum()")
    return "\n".join(
        [
            f"# Weight net {name}\n",
            "Maps the loss of an example and the size of its class to a weight between 0 and 1.\n",
            _markdown(["", ""], [[name, value] for name, value in facts(saved).items()]),
            "## Weighting functions\n",
            "In brackets: at losses that it has not learned from.\n",
            _markdown(["loss (nats)", *(f"classes: {head}" for head in heads[1:])], rows),
            _CODE.format(path=path, file=file, divisor=divisor),
        ]
    )


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
