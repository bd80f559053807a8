"""How the pages beside this file become a site: ``make docs``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import mpi4py

from theanompi import __version__

# The modules are imported for their docstrings alone.
mpi4py.rc.initialize = False

project = "theanompi"
author = "The theanompi developers"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "numpydoc"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
exclude_patterns = ["results/lars_limit_rates", "results/sync_async_rates"]
# The reports are reached from the page of results.
suppress_warnings = ["toc.not_included"]
myst_heading_anchors = 3
# Notebooks are kept without what they print, and executed with each build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"

default_role = "py:obj"
# A block without a language is a command, or what one has printed.
highlight_language = "text"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"

html_theme = "furo"
html_title = f"theanompi {__version__}"
html_copy_source = False
