"""Sphinx configuration. Nothing here, and nothing in the pages that come out, needs a network."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "mkvlasov"
author = "the mkvlasov developers"
copyright = author
release = installed_version("mkvlasov")
version = ".".join(release.split(".")[:2])

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "plain_docstrings",
]
exclude_patterns = ["_build"]

# Markdown: dollar math, headings that can be linked to, and text in angle brackets and quotes left as it is.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False
html_math_renderer = "mathml"

# Docstrings follow numpydoc; single backticks are names of Python objects.
default_role = "py:obj"
napoleon_google_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]  # part of the text of a class, not objects of their own
napoleon_use_rtype = False
add_module_names = False
highlight_language = "none"  # formulas in docstrings are not Python
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the numpydoc sections say it, with shapes
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"

html_theme = "furo"
html_title = f"mkvlasov {version}"
html_static_path = ["_static"]
html_css_files = ["mkvlasov.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
