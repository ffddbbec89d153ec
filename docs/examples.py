"""An extension of mkdocstrings: it shows our `Example:` sections, which doctest runs, as code."""

import re

import griffe


class Examples(griffe.Extension):
    """Renames the section to the name that the Google style has for code."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Called for each module, class, function and attribute that is read."""
        del kwargs
        if obj.docstring:
            obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M)
