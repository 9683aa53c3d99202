"""Sphinx: `make docs` builds the pages of this folder, and the API pages from the docstrings."""

import re

from mxd_mmplugin import __version__

project = 'mxd_mmplugin'
author = 'The mxd_mmplugin contributors'
copyright = f'2026, {author}'
release = __version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode']
myst_heading_anchors = 3
highlight_language = 'default'

add_module_names = False
autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # the docstrings name types and shapes
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_preserve_defaults = True
default_role = 'literal'  # docstrings write code in single backticks
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = 'furo'
html_title = f'mxd_mmplugin {release}'
html_static_path = ['_static']
html_css_files = ['wide.css']


def escape(app, what, name, obj, options, lines):
    """Docstrings are plain text with code in backticks: a star or a bar in them is no markup."""
    parts = '\n'.join(lines).split('`')
    parts[::2] = [re.sub(r'[*|]|(?<=\w)_(?!\w)', r'\\\g<0>', part) for part in parts[::2]]
    lines[:] = '`'.join(parts).split('\n')


def setup(app):
    """Sphinx calls it. The priority is before napoleon's, which adds markup of its own."""
    app.connect('autodoc-process-docstring', escape, priority=400)
