"""`python -m cmwnet_jax.transfer show|card|export|import PATH`.

show PATH     prints facts about a weight net and draws it: --picture=FILE.png
card PATH     prints its card, Markdown with the code to use it, or writes it: --output=FILE.md
export PATH   writes it to one small file: --output=FILE.safetensors; --about=NAME=TEXT, which may be repeated,
              adds to what the file says of its origin, and --about=measured=TEXT what was measured with it.
import FILE   writes the weight net of a file to a folder: --output=FOLDER. FILE is an exported file, or an .npz
              with the names in the authors' published file; --heads=1,2,0 gives the order of its heads.

PATH is a run, a checkpoint, a folder written by cmw.save_weight_net, an exported file, or zoo:NAME.
"""

from cmwnet_jax.errors import need

if __name__ == "__main__":
    need("launch", "absl", "matplotlib", "ml_collections", "rich")

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.table import Column, Table

from cmwnet_jax import command
from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.files import file_to_write, replace_file
from cmwnet_jax.report.figures import save_weighting_functions
from cmwnet_jax.screen import console
from cmwnet_jax.transfer import SavedWeightNet, load_weight_net, save_weight_net, zoo
from cmwnet_jax.transfer.card import MEASURED, card, facts, measured, weight_rows
from cmwnet_jax.transfer.portable import PUBLISHED_HEADS, SUFFIX, read_file, write_file

_PICTURE = flags.DEFINE_string("picture", "weight_net.png", "where show draws the weighting functions")
_OUTPUT = flags.DEFINE_string("output", None, "the file or, for import, the folder to write")
_ABOUT = flags.DEFINE_multi_string("about", [], "NAME=TEXT: what an exported file says of the origin, too")
_HEADS = flags.DEFINE_list(
    "heads", [str(head) for head in PUBLISHED_HEADS], "an imported .npz's heads, that of small classes first"
)


def show(path: str) -> None:
    """Prints facts and the weights at some losses, and draws the weighting functions.

    Args:
        path: as in `load_weight_net`.
    """
    picture = file_to_write("--picture", _PICTURE.value, ".png")
    saved = load_weight_net(path)
    screen = console()
    screen.print(f"weight net of {path}", soft_wrap=True)
    known = Table("", Column(overflow="fold"), show_header=False)
    for row in facts(saved).items():
        known.add_row(*row)
    screen.print(known)
    heads, rows = weight_rows(saved)
    weights = Table(title="weights (in brackets: at losses that it has not learned from)")
    for head in heads:
        weights.add_column(head, justify="right")
    for row in rows:
        weights.add_row(*row)
    screen.print(weights)
    grid = np.linspace(0, saved.loss_range[1], 200)
    functions = np.where(saved.has_class[:, None], saved.functions(grid), np.nan)
    save_weighting_functions(
        {"grid": grid, "functions": functions, "centers": saved.centers},
        _learned_on(saved),
        picture,
    )
    screen.print(f"picture: {picture}", soft_wrap=True)


def _learned_on(saved: SavedWeightNet) -> str:
    found = [saved.provenance[name] for name in ("dataset", "bias") if saved.provenance.get(name)]
    return f"learned on {', '.join(map(str, found))}" if found else "weighting functions"


def write_card(path: str) -> None:
    """Prints the card of a weight net, or writes it to a file.

    Args:
        path: as in `load_weight_net`.
    """
    output = file_to_write("--output", _OUTPUT.value, ".md") if _OUTPUT.value else None
    saved, own = load_weight_net(path), zoo.file_of(path)
    given = path if own is None else f"{zoo.PREFIX}{own.stem}"
    file = own.name if own else path if path.endswith(SUFFIX) else f"weight_net{SUFFIX}"
    text = card(saved, (own or Path(path)).stem, given, file)
    if output is None:
        print(text, end="")
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(output, text)
    print(f"written to {output}")


def export(path: str) -> None:
    """Writes a weight net to one small file.

    Args:
        path: as in `load_weight_net`.
    """
    output = command.required(_OUTPUT.value, "output", "a file to write, e.g. --output=weight_net.safetensors")
    saved = load_weight_net(path)
    write_file(output, dataclasses.replace(saved, provenance=_with(saved, _ABOUT.value)))
    print(f"written to {output}")


def _with(saved: SavedWeightNet, about: Sequence[str]) -> dict[str, Any]:
    """The origin with what --about adds to it or has in another's place; what was measured is a list."""
    provenance, found = dict(saved.provenance), list(measured(saved))
    for entry in about:
        name, equals, text = entry.partition("=")
        if not (name and equals and text):
            raise UsageError(f"--about is {entry!r}, expected NAME=TEXT, e.g. --about=dataset=my_photos")
        if name == MEASURED:
            found.append(text)
        else:
            provenance[name] = text
    return {**provenance, **({MEASURED: found} if found else {})}


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
    verbs = {"show": show, "card": write_card, "export": export, "import": import_}
    if len(argv) != 3:
        raise UsageError(f"got the arguments {argv[1:]}, expected one of {', '.join(verbs)}, then a path")
    if argv[1] not in verbs:
        raise unknown_name("the first argument", argv[1], verbs)
    verbs[argv[1]](argv[2])


if __name__ == "__main__":
    command.run(main)
