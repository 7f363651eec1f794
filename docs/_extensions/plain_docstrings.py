"""Docstrings are written to be read in a terminal; this makes the few changes that reStructuredText needs.

Indented formulas become literal blocks, a vertical bar stands for itself (an absolute value, not a substitution), and
what stands before a colon in the line about a property is not its type.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

# In these sections indented text belongs to the name above it.
_LISTS = {"Parameters", "Returns", "Raises", "Attributes", "Yields", "Warns", "Other Parameters"}
_UNDERLINE = re.compile(r"-{3,}$")
_CODE = re.compile(r"(``.*?``)")


def literal_formulas(lines: list[str]) -> list[str]:
    """Return the lines with indented blocks outside of lists as literal blocks, and bars escaped elsewhere."""
    result: list[str] = []
    in_list = in_block = False
    for i, line in enumerate(lines):
        if i + 1 < len(lines) and _UNDERLINE.match(lines[i + 1]):
            in_list = line.strip() in _LISTS
        indented = line.startswith("    ")
        if line.strip() and not indented:
            in_block = False
        elif indented and not in_list and not in_block and result and not result[-1].strip():
            result += ["::", ""]
            in_block = True
        result.append(line if in_block else _escaped(line))
    return result


def _escaped(line: str) -> str:
    return "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in _CODE.split(line))


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = literal_formulas(lines)
    if what in {"property", "attribute"} and lines:
        lines[0] = lines[0].replace(": ", " \N{EN DASH} ")


def setup(app: Sphinx) -> dict[str, object]:
    # Before napoleon (priority 500), which rewrites the sections.
    app.connect("autodoc-process-docstring", _process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
