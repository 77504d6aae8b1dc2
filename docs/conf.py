"""The site: these pages and those at the top of the repository, made by Sphinx with MyST and Furo (scripts/docs)."""

import os
import re

from sphinx.application import Sphinx

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
project = "forge"
copyright = ""  # noqa: A001  its name in Sphinx; LICENSE says it
html_show_copyright = False
extensions = ["myst_parser"]
myst_heading_anchors = 4
root_doc = "docs/index"
PAGES = ("docs", "README.md", "HACKING.md", "CHANGELOG.md")
exclude_patterns = [name for name in os.listdir(ROOT) if name not in PAGES]
html_theme = "furo"
html_title = "forge"
html_extra_path = ["site"]  # leads from the top to docs/
html_copy_source = False
nitpicky = True

LISTED = re.compile(r"^- \[[^]]*\]\((?!\w+:)([\w./-]+)\.md\)", re.MULTILINE)
"""A page in a list of pages: such a line, which is a link everywhere else, puts it into the site's menu as well."""


def listed(_app: Sphinx, page: str, source: list[str]) -> None:
    """Give the pages that list others a table of contents."""
    if page in ("docs/index", "docs/howto", "docs/reference", "docs/explanation", "docs/rules/index"):
        toctree = "\n".join(LISTED.findall(source[0]))
        source[0] += f"\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n"


def setup(app: Sphinx) -> None:
    """Be a part of the build."""
    app.connect("source-read", listed)
