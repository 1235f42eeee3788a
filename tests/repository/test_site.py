"""The site: every page is there, links and anchors lead somewhere, nothing is loaded from elsewhere."""

import html.parser
import importlib.util
import posixpath
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]


class Links(html.parser.HTMLParser):
    """A page's links, what it loads, and its anchors."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.anchors, self.formulas = [], [], set(), 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes[name] for name in ("id", "name") if name in attributes}
        self.formulas += tag == "math"
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        elif tag in ("script", "img", "link", "iframe"):
            self.loads += [attributes[name] for name in ("src", "href") if name in attributes]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """{path in the site: its Links} of all pages, built by CONTRIBUTING.md's command."""
    for package in ("mkdocs", "material", "mkdocstrings", "nbconvert", "latex2mathml", "jieba"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed: pip install 'mindfcn[docs]'")
    assert "\nmkdocs build --strict " in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)], cwd=ROOT,
                           capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = {path.relative_to(folder).as_posix(): Links(path) for path in folder.rglob("*.html")}
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return pages, files


@pytest.mark.long
def test_every_page_and_notebook_is_in_the_site(site):
    pages, _ = site
    names = {path.stem for folder, kind in (("docs", "md"), ("notebooks", "ipynb"))
             for path in (ROOT / folder).glob(f"*.{kind}")}
    assert names | {"index", "index_cn", "reference", "CHANGELOG", "CONTRIBUTING"} <= {
        posixpath.basename(page).removesuffix(".html") for page in pages}


@pytest.mark.long
def test_every_link_and_anchor_leads_somewhere(site):
    pages, files = site
    checked = 0
    for page, found in pages.items():
        # The page of missing pages may be shown at any depth, so its links begin at the root.
        for link in () if page == "404.html" else found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parts.path))) \
                if parts.path else page
            target = target if target in files else posixpath.join(target, "index.html").removeprefix("./")
            assert target in files, f"{page}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{page}: {link}"
            checked += 1
    assert checked > 500


@pytest.mark.long
def test_the_site_loads_nothing_from_elsewhere(site):
    pages, _ = site
    for page, found in pages.items():
        assert [one for one in found.loads if "//" in one] == [], page
    assert pages["notebooks/fcn8s.html"].formulas > 5 and pages["notebooks/fcn8s_cn.html"].formulas > 5


@pytest.mark.long
def test_the_language_switch_leads_to_the_same_page(site):
    pages, _ = site
    for page, other in (("performance.html", "index_cn.html"), ("family.html", "family_cn.html"),
                        ("serve_cn.html", "serve.html"), ("zoo.html", "zoo_cn.html"), ("zoo_cn.html", "zoo.html"),
                        ("notebooks/fcn8s.html", "fcn8s_cn.html"), ("index_cn.html", "index.html")):
        assert other in pages[page].links, page


@pytest.mark.long
def test_the_reference_of_the_site_has_every_public_name(site):
    import mindfcn
    pages, _ = site
    names = [name for name in mindfcn.__all__ if not name.startswith("__")]
    assert [name for name in names if f"mindfcn.{name}" not in pages["reference.html"].anchors] == []
