"""A hook of MkDocs: shows the notebooks as pages, and leads links to a notebook to its page."""

import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each notebook."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        cells = json.loads(Path(notebook.abs_src_path).read_text())["cells"]
        content = "\n\n".join(part for cell in cells for part in _parts(cell))
        files.append(File.generated(config, notebook.src_uri.replace(".ipynb", ".md"), content=content))
    return files


def on_page_markdown(markdown: str, **kwargs: object) -> str:
    """Changes links to notebooks."""
    del kwargs
    return re.sub(r"\]\(([\w/.]+)\.ipynb\)", r"](\1.md)", markdown)


def _parts(cell: dict) -> list[str]:
    """A cell's text, or its code and what that printed and drew, as Markdown."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [f"```python\n{source}\n```", *map(_shown, cell["outputs"])]


def _shown(output: dict) -> str:
    picture = output.get("data", {}).get("image/png")
    if picture:
        return f"![What the code above draws](data:image/png;base64,{picture.strip()})"
    return f"``` {{.text .output}}\n{''.join(output['text'])}```"
