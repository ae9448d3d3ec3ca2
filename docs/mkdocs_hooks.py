"""Adds to the site what does not lie in docs/: the pages and files of the repository's root, and the API reference.

Nothing is copied into the repository. A link in docs/ that leaves the folder (`../README.md`) and a link from the root
into it (`docs/faq.md`) are right on GitHub; on the site both kinds of page lie in one folder, so the prefix is removed.
A link to the source of a room leads to the room's API page.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import wastetune

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINKED = ("LICENSE", "examples/from_photos_to_service.ipynb", "examples/keras_tuner.ipynb")
PACKAGE = ROOT / "src" / "wastetune"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of the root, one API page for the public names and one for each room."""
    for name in (*PAGES, *LINKED):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, "api/wastetune.md", content=_render_front_page()))
    for init in sorted(PACKAGE.glob("*/__init__.py")):
        files.append(File.generated(config, f"api/{init.parent.name}.md", content=_render_room(init.parent)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links as they are on the site, where the root and docs/ are one folder."""
    if page.file.src_uri == "README.md":
        page.meta["hide"] = ["navigation"]  # the start page has nothing beside it
    if page.file.src_uri.startswith("api/"):
        return markdown
    markdown = re.sub(r"\]\(\.\./src/wastetune/(\w+)(?:/__init__\.py)?\)", r"](api/\1.md)", markdown)
    return re.sub(r"\]\((?:\.\./|docs/)", "](", markdown)


def _render_front_page() -> str:
    """The public names: functions, then classes."""
    names = sorted({*wastetune.__all__} - {"__version__"}, key=str.swapcase)
    intro = "# wastetune\n\nThe Python API; [the guide](../python.md) has examples.\n"
    return "\n".join([intro, *(f"::: wastetune.{name}" for name in names), ""])


def _render_room(folder: Path) -> str:
    """The room's own docstring, then one section for each of its modules."""
    room = folder.name
    modules = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    options = "{members: [], show_root_heading: false, show_root_toc_entry: false}"
    head = f"# wastetune.{room}\n\n::: wastetune.{room}\n    options: {options}\n"
    return "\n".join([head, *(f"::: wastetune.{room}.{module}" for module in modules), ""])
