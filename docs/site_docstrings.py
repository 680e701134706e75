"""Examples in docstrings as code on the site: an extension of griffe, which mkdocs.yml names.

The docstrings are Google's, with doctests as paragraphs of their own, which Markdown would read as quotations.
"""

from __future__ import annotations

import re

from griffe import Extension, Object

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class ExamplesAsCode(Extension):
    """Puts each doctest of a docstring into a block of code."""

    def on_object(self, *, obj: Object, **kwargs: object) -> None:
        """Change the docstring of an object that was read; griffe calls this."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = with_code(obj.docstring.value)


def with_code(docstring: str) -> str:
    """Return a docstring with its doctests in blocks of code.

    >>> print(with_code("Add.\\n\\n" + ">>" + "> 1 + 1\\n2").replace("`", "'"))
    Add.
    <BLANKLINE>
    '''pycon
    >>> 1 + 1
    2
    '''
    """
    return EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", docstring)
