"""The documentation as a site: made without a warning and without the network, and needing none to be read."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("site")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("furo")
    folder = tmp_path_factory.mktemp("site")
    alone = ("unshare", "--net") if os.geteuid() == 0 and shutil.which("unshare") else ()
    argv = (sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-b", "html")
    made = subprocess.run(
        (*alone, *argv, "-d", folder / "doctrees", "-c", "docs", ".", folder / "html"),
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return folder / "html"


def test_every_page_is_there(site):
    for page in (*ROOT.glob("docs/**/*.md"), *(ROOT / name for name in ("README.md", "HACKING.md", "CHANGELOG.md"))):
        assert (site / page.relative_to(ROOT).with_suffix(".html")).is_file()
    assert "docs/index.html" in (site / "index.html").read_text()


def test_every_page_is_in_the_menu(site):
    menu = (site / "docs/index.html").read_text()
    for page in (*ROOT.glob("docs/*.md"), *ROOT.glob("docs/rules/*.md")):
        assert f'href="{page.relative_to(ROOT / "docs").with_suffix(".html")}"' in menu or page.stem == "index"


def test_it_needs_no_network_to_be_read(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.findall(r"<(?:script|img|iframe)[^>]*(?:https?:)?//[^>]*>", text)
        assert not re.findall(r"<link[^>]*rel=.(?:stylesheet|preload|preconnect)[^>]*https?:[^>]*>", text)
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*.?(?:https?:)?//", style.read_text())
