"""Formulas as MathML, which browsers draw by themselves: no script, no font, no network.

A formula that cannot be translated is a warning, and so fails a strict build.
"""

from __future__ import annotations

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
_converter = LatexToMathML(fancy_error=False)


def _mathml(node: nodes.Element, *, display: bool) -> str:
    latex = node.astext()
    try:
        return _converter.convert_with_local_state(latex, displaystyle=display)
    except LatexError as error:
        logger.warning("formula %r: %s", latex, error, location=node)
        return ""


def visit_math(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append(self.starttag(node, "span", "", CLASS="math") + _mathml(node, display=False) + "</span>")
    raise nodes.SkipNode  # or the LaTeX text would follow


def visit_displaymath(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append(self.starttag(node, "div", "", CLASS="math") + _mathml(node, display=True) + "</div>\n")
    raise nodes.SkipNode  # or the LaTeX text would follow


def setup(app: Sphinx) -> dict[str, object]:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
