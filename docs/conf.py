"""How the documentation is made: `tools/hatch run docs:build`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Kitae"
author = "The Kitae authors"
copyright = "The Kitae authors"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "kitae_docs",
]
exclude_patterns = ["_build"]
nitpicky = True

# Markdown
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

# Docstrings: Google's style, with `names` in single backticks
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has the types
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 72
add_module_names = False

# Nothing is asked of the network: names of other projects are not looked up. Private
# ones have no page.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!kitae\.).*|kitae\..*\._.*"),
    # What the rooms of kitae.base pass to each other: see docs/design.md.
    (r"py:.*", r"kitae\.base\.(algorithm|training)\..*"),
]

# The site
html_theme = "furo"
html_title = "Kitae"
html_static_path = ["_static"]
html_css_files = ["kitae.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

# For `docs:links`, which needs the network
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors = False
