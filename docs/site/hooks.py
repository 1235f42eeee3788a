"""Hooks of MkDocs: README, notebooks and the reference become pages next to those of docs/, in two languages.

Links lead to the repository's files in the sources. Where the file is a page of the site, they lead there; other links
become plain text.
"""

import ast
import posixpath
import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
# Pages outside docs/: {file of the repository: page of the site}.
PAGES = {"README.md": "index.md", "README_CN.md": "index_cn.md", "CHANGELOG.md": "CHANGELOG.md",
         "CONTRIBUTING.md": "CONTRIBUTING.md", "SECURITY.md": "SECURITY.md", "CODE_OF_CONDUCT.md": "CODE_OF_CONDUCT.md",
         "ckpt/README.md": "ckpt.md",
         **{f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}}
REPOSITORY = {page: path for path, page in PAGES.items()}
LANGUAGES = (("en", "English"), ("zh", "中文"))
# A line's end between Chinese characters would become a space.
CHINESE_LINE_END = re.compile("(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[\u4e00-\u9fff\uff08\u201c\u300a])")
# Names in tables stay whole; the table scrolls.
STYLE = ".md-typeset td code {white-space: nowrap}\n"
FENCED = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files, config):
    """Add the pages that are not in docs/, and the notebooks' pictures."""
    for path, page in PAGES.items():
        if path.endswith(".ipynb"):
            text, pictures = notebook_page(ROOT / path)
            files.append(File.generated(config, page, content=text))
            for name, data in pictures.items():
                files.append(File.generated(config, f"notebooks/{name}", content=data))
        else:
            files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    files.append(File.generated(config, "reference.md", content=reference_page()))
    files.append(File.generated(config, "tables.css", content=STYLE))
    return files


def on_page_markdown(markdown, page, config, files):
    """Lead links to pages of the site; the text of other links to the repository stays; Chinese lines are joined."""
    parts = FENCED.split(markdown)
    if page.file.src_uri.endswith("_cn.md"):
        parts[::2] = [CHINESE_LINE_END.sub("", part) for part in parts[::2]]
    parts[::2] = [LINK.sub(lambda match: site_link(match, page.file.src_uri), part) for part in parts[::2]]
    return "".join(parts)


def on_page_context(context, page, config, nav):
    """Set the language of the page's frame, and where the language switch leads: to the same page if it is there."""
    uri = page.file.src_uri
    chinese = uri.endswith("_cn.md")
    stem = uri.removesuffix(".md").removesuffix("_cn")
    pages = {one.file.src_uri: one.url for one in nav.pages}
    links = (pages.get(f"{stem}.md", pages["index.md"]), pages.get(f"{stem}_cn.md", pages["index_cn.md"]))
    config.theme["language"] = "zh" if chinese else "en"
    config.extra["alternate"] = [{"name": name, "lang": code, "link": link}
                                 for (code, name), link in zip(LANGUAGES, links)]
    return context


def site_link(match, page):
    """The replacement of a Markdown link on a page."""
    mark, text, target = match.groups()
    path, hash_sign, anchor = target.partition("#")
    if not path or "://" in target or target.startswith("mailto:"):
        return match.group()
    source = REPOSITORY.get(page, f"docs/{page}")
    found = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if found in PAGES:
        found = PAGES[found]
    elif found.startswith("docs/") and (ROOT / found).is_file():
        found = found.removeprefix("docs/")
    elif page.startswith("notebooks/") and path.startswith(f"{Path(page).stem}_files/"):
        return match.group()
    else:
        return text
    return f"{mark}[{text}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{hash_sign}{anchor})"


def notebook_page(path):
    """(Markdown of a notebook with its results, {file name: bytes} of its pictures); formulas become MathML."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts = FENCED.split(cell.source)
            parts[::2] = [FORMULA.sub(formula, part) for part in parts[::2]]
            cell.source = "".join(parts)
    resources = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    text, resources = MarkdownExporter().from_notebook_node(notebook, resources)
    return text, resources["outputs"]


def formula(match):
    """A formula in TeX as MathML, which browsers draw without a script."""
    display, inline = match.groups()
    return convert(display or inline, display="block" if display else "inline")


def reference_page():
    """The public names, in the order of the package's stub."""
    stub = ast.parse((ROOT / "src" / "mindfcn" / "__init__.pyi").read_text(encoding="utf-8"))
    names = [alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    return "\n\n".join(["# Reference", "What `import mindfcn` has.", *(f"::: mindfcn.{name}" for name in names)])
