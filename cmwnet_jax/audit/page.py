"""The gallery: one static HTML page that needs no other file and no network."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cmwnet_jax.audit.examples import Table
from cmwnet_jax.audit.inputs import Inputs
from cmwnet_jax.files import replace_file

_SIDE = 112  # CSS pixels of the longer side of a shown image
_KEPT_PIXELS = 224  # larger images are reduced
_MOST_CHARACTERS = 600  # shown of a text
_MOST_CLASSES = 20  # of more classes, no confusion table is shown

_STYLE = f"""
body {{ font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff;
  margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.05rem; margin: 2rem 0 .5rem; }}
.given {{ color: #b00000; font-weight: 600; }} .suggested {{ color: #0050b0; font-weight: 600; }}
.note {{ color: #555; }}
.items {{ display: flex; flex-wrap: wrap; gap: .8rem; }}
figure {{ margin: 0; width: {_SIDE + 16}px; }}
figure img {{ width: {_SIDE}px; height: {_SIDE}px; object-fit: contain; background: #f2f2f2; }}
img.small {{ image-rendering: pixelated; }}
figcaption {{ font-size: 12px; color: #555; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .2rem .55rem; text-align: right; border-bottom: 1px solid #ddd; }}
th {{ font-weight: 600; }} th.name, td.name {{ text-align: left; overflow-wrap: anywhere; }}
td.id {{ min-width: 5rem; }}
"""


def write_page(
    path: Path,
    title: str,
    summary: Mapping,
    groups: Sequence[tuple[str, str, int, Table]],
    inputs: Inputs,
    listed: int = 0,
) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        title: its heading.
        summary: from `summarize`.
        groups: (given, suggested, number of suspects of this pair, table of those to show) per pair of classes.
        inputs: what to show of the examples. Of those that are no images, the path is shown, which may be a
            text (of a long one the beginning), or else the words or numbers; of an example without an input,
            its name alone.
        listed: number of suspects in suspects.csv, which may be more.
    """
    lines, shown_here = list(summary["sentences"]), sum(len(shown["rank"]) for *_, shown in groups)
    if shown_here < listed:
        lines.append(f"Shown here are {shown_here:,} of the {listed:,} suspects that suspects.csv lists.")
    parts = [_head(title), "".join(f"<p>{_text(line)}</p>" for line in lines)]
    if summary["is_sure"]:
        parts += [_by_class(summary), _confusion(summary)]
    for given, suggested, count, shown in groups:
        parts.append(_heading(given, suggested, count, len(shown["rank"])))
        if not summary["is_sure"]:
            shown = {**shown, "wrong_probability": np.full(len(shown["rank"]), np.nan)}
        parts.append(_images(shown, inputs) if inputs.images else _rows(shown, inputs))
    replace_file(path, "\n".join([*parts, "</body></html>\n"]).encode(errors="xmlcharrefreplace"))


def _head(title: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body><h1>{_text(title)}</h1>"
    )


def _by_class(summary: Mapping) -> str:
    rows = "".join(
        f'<tr><td class="name">{_text(line["class"])}</td><td>{line["examples"]:,}</td>'
        f"<td>{line['estimated_wrong']:,.1f}</td>"
        f"<td>{_percent(line['estimated_wrong'], line['examples'])}</td></tr>"
        for line in summary["classes"]
    )
    return (
        f'<h2>Estimated wrong labels by given class</h2><table><tr><th class="name">given class</th>'
        f"<th>examples</th><th>wrong, estimated</th><th>share</th></tr>{rows}</table>"
    )


def _confusion(summary: Mapping) -> str:
    """The estimated numbers of wrong labels by given class (row) and suggested class (column)."""
    names = [line["class"] for line in summary["classes"]]
    if len(names) > _MOST_CLASSES:
        return ""
    numbers = {(pair["given"], pair["suggested"]): pair["estimated_wrong"] for pair in summary["pairs"]}
    most = max(numbers.values(), default=1)
    head = "".join(f"<th>{_text(name)}</th>" for name in names)
    rows = "".join(
        f'<tr><th class="name">{_text(given)}</th>'
        f"{''.join(_cell(numbers.get((given, suggested), 0), most) for suggested in names)}</tr>"
        for given in names
    )
    return (
        "<h2>Estimated wrong labels by given class (row) and suggested class (column)</h2>"
        f"<table><tr><th></th>{head}</tr>{rows}</table>"
    )


def _cell(value: float, most: float) -> str:
    shade = f' style="background: rgba(213, 94, 0, {0.6 * value / most:.2f})"' if value >= 0.5 else ""
    return f"<td{shade}>{value:.0f}</td>" if value >= 0.5 else '<td class="note">·</td>'


def _heading(given: str, suggested: str, count: int, shown: int) -> str:
    suspects = "1 suspect" if count == 1 else f"{count:,} suspects"
    more = f"the first {shown} of {suspects}" if shown < count else suspects
    return (
        f'<h2>given <span class="given">{_text(given)}</span>, suggested '
        f'<span class="suggested">{_text(suggested)}</span><span class="note">: {more}</span></h2>'
    )


def _images(shown: Table, inputs: Inputs) -> str:
    figures = []
    for place, row in enumerate(shown["row"].tolist()):
        image = inputs.images.get(row)
        picture = _text(inputs.texts.get(row, "no image")) if image is None else _picture(image)
        caption = f"#{shown['rank'][place]} {shown['id'][place]}"
        caption = f"{_text(caption)}<br>{_numbers(shown, place)}"
        figures.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="items">{"".join(figures)}</div>'


def _numbers(shown: Table, place: int) -> str:
    return f"wrong: {_chance(shown['wrong_probability'][place])}"


def _chance(probability: float) -> str:
    """Per cent, without the certainty that an estimate has not; a question mark for NaN."""
    if np.isnan(probability):
        return "?"
    return "&gt;99%" if probability > 0.99 else "&lt;1%" if probability < 0.01 else f"{100 * probability:.0f}%"


def _rows(shown: Table, inputs: Inputs) -> str:
    lines = [
        f'<tr><td>{rank}</td><td class="name id">{_text(name)}</td><td>{_chance(chance)}</td>'
        f'<td class="name">{_text(_beginning(path or inputs.texts.get(row, "")))}</td></tr>'
        for rank, name, path, chance, row in zip(
            *(shown[name].tolist() for name in ("rank", "id", "path", "wrong_probability", "row")), strict=True
        )
    ]
    head = '<tr><th>rank</th><th class="name">id</th><th>wrong</th><th class="name">example</th></tr>'
    return f"<table>{head}{''.join(lines)}</table>"


def _beginning(text: str) -> str:
    """The text, or as much of it as is enough to judge its label by."""
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"


def _picture(image: np.ndarray) -> str:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((_KEPT_PIXELS, _KEPT_PIXELS))
    content = io.BytesIO()
    picture.save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode()
    kind = ' class="small"' if max(image.shape[:2]) < _SIDE else ""
    return f'<img{kind} alt="" src="data:image/png;base64,{data}">'


def _percent(part: float, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


def _text(text: str) -> str:
    return html.escape(str(text))
