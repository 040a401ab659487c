"""The pages as a site: ``make site``. Sphinx reads the Markdown where it lies: links work in both places."""

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

project = "recbole-sigma"
author = copyright = "the recbole-sigma contributors"  # noqa: A001  Sphinx's name
release = version = importlib.import_module("recbole_sigma").__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "results/README.md"]
root_doc = "docs/index"
html_theme = "furo"
html_title = f"recbole-sigma {version}"
html_copy_source = False
html_show_sourcelink = False

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
# the Markdown of the repository links to files and folders that are no pages; a page shows their names
suppress_warnings = ["myst.xref_missing", "misc.highlighting_failure"]
