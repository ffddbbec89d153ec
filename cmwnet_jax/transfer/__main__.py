"""`python -m cmwnet_jax.transfer show|export|import PATH`.

show PATH     prints facts about a weight net and draws it: --picture=FILE.png
export PATH   writes it to one small file: --output=FILE.safetensors
import FILE   writes the weight net of a file to a folder: --output=FOLDER. FILE is an exported file, or an .npz
              with the names in the authors' published file; --heads=1,2,0 gives the order of its heads.

PATH is a run, a checkpoint, a folder written by cmw.save_weight_net, or an exported file.
"""

from cmwnet_jax.errors import need

if __name__ == "__main__":
    need("launch", "absl", "matplotlib", "ml_collections", "rich")

import numpy as np
from absl import flags
from rich.table import Table

from cmwnet_jax import command
from cmwnet_jax.drawing import meta_class_names
from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.files import file_to_write
from cmwnet_jax.report.figures import save_weighting_functions
from cmwnet_jax.screen import console
from cmwnet_jax.transfer import SavedWeightNet, load_weight_net, save_weight_net
from cmwnet_jax.transfer.portable import PUBLISHED_HEADS, read_file, write_file

_PICTURE = flags.DEFINE_string("picture", "weight_net.png", "where show draws the weighting functions")
_OUTPUT = flags.DEFINE_string("output", None, "what export (a .safetensors) or import (a folder) writes")
_HEADS = flags.DEFINE_list(
    "heads", [str(head) for head in PUBLISHED_HEADS], "an imported .npz's heads, that of small classes first"
)

_LISTED = 20  # largest number of entries that are printed
_LOSSES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def show(path: str) -> None:
    """Prints facts and the weights at some losses, and draws the weighting functions.

    Args:
        path: as in `load_weight_net`.
    """
    picture = file_to_write("--picture", _PICTURE.value, ".png")
    saved = load_weight_net(path)
    screen = console()
    screen.print(f"weight net of {path}", soft_wrap=True)
    facts = Table(show_header=False)
    for name, value in _facts(saved).items():
        facts.add_row(name, str(value))
    screen.print(facts)
    screen.print(_weights(saved))
    save_weighting_functions(
        {"grid": (grid := np.linspace(0, saved.loss_range[1], 200)), "functions": saved.functions(grid)}
        | {"centers": saved.centers},
        picture,
    )
    screen.print(f"picture: {picture}", soft_wrap=True)


def _facts(saved: SavedWeightNet) -> dict:
    low, high = saved.loss_range
    about = dict(saved.provenance)
    return {
        "meta-classes (K)": saved.num_meta_classes,
        "hidden units": saved.hidden,
        "class sizes (centres)": ", ".join(
            "not known" if np.isnan(center) else f"{center:g}" for center in saved.centers
        ),
        "losses learned from (nats)": f"{low:g} to {high:g}",
        "weights divided by (Q1)": about.pop("normalize", "not known"),
        **{name.replace("_", " "): _short(value) for name, value in about.items()},
    }


def _short(value) -> str:
    """A value for printing; long lists, e.g. of a thousand classes, are shortened."""
    if isinstance(value, list) and len(value) > _LISTED:
        return f"{len(value)} numbers from {min(value)} to {max(value)}"
    return str(value)


def _weights(saved: SavedWeightNet) -> Table:
    table = Table(title="weights (in brackets: at losses that it has not learned from)")
    table.add_column("loss (nats)", justify="right")
    for name in meta_class_names(saved.centers):
        table.add_column(name, justify="right")
    low, high = saved.loss_range
    for loss, weights in zip(_LOSSES, saved.functions(np.array(_LOSSES)).T, strict=True):
        shape = "{:.3f}" if low <= loss <= high else "({:.3f})"
        table.add_row(f"{loss:g}", *(shape.format(weight) for weight in weights))
    return table


def export(path: str) -> None:
    """Writes a weight net to one small file.

    Args:
        path: as in `load_weight_net`.
    """
    output = command.required(_OUTPUT.value, "output", "a file to write, e.g. --output=weight_net.safetensors")
    write_file(output, load_weight_net(path))
    print(f"written to {output}")


def import_(path: str) -> None:
    """Writes the weight net of a file to a folder, as `save_weight_net` does.

    Args:
        path: an exported file, or an .npz with the published names.
    """
    output = command.required(_OUTPUT.value, "output", "a folder to write, e.g. --output=weight_net")
    if not all(head.isdigit() for head in _HEADS.value):
        raise UsageError(f"--heads is {','.join(_HEADS.value)}, expected the heads' numbers, e.g. 1,2,0")
    saved = read_file(path, [int(head) for head in _HEADS.value])
    save_weight_net(
        output,
        saved.weight_params,
        centers=saved.centers,
        loss_range=saved.loss_range,
        provenance=saved.provenance,
    )
    print(f"written to {output}")


def main(argv: list[str]) -> None:
    """Dispatches on the first argument."""
    verbs = {"show": show, "export": export, "import": import_}
    if len(argv) != 3:
        raise UsageError(f"got the arguments {argv[1:]}, expected one of {', '.join(verbs)}, then a path")
    if argv[1] not in verbs:
        raise unknown_name("the first argument", argv[1], verbs)
    verbs[argv[1]](argv[2])


if __name__ == "__main__":
    command.run(main)
