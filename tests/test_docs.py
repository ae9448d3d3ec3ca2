"""What is written about wastetune is true of it."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

import wastetune
from wastetune.backbones.catalog import BACKBONES
from wastetune.datasets.catalog import KNOWN_DATASETS
from wastetune.training.config import BACKBONE, OWN_HEAD, TrialConfig
from wastetune.tuning.spec import StudySpec

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
# The log and the changelog name files as they were called at the time.
PACKAGE = Path(wastetune.__file__).parent
# What a reader makes, and what wastetune writes.
MADE = {
    "my_study.toml",
    "studies/NAME.toml",
    "results/my_study/bundle/",
    "bundle/",
    "saved_model/",
    "wastetune.db.artifacts/",
}
PRESENT = [page for page in PAGES if page.name not in ("log.md", "CHANGELOG.md")]


def test_the_command_reference_is_that_of_the_command_line():
    page = runpy.run_path(str(DOCS / "write_commands.py"))["render_commands"]()
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == page, "run `make docs`"


def test_every_command_has_an_example():
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    sections = [section for section in page.split("\n## ") if section.startswith("wastetune")]
    assert len(sections) >= 8
    assert [section.splitlines()[0] for section in sections if "Example:" not in section] == []


@pytest.mark.parametrize(
    ("heading", "model", "keys"),
    [
        ("A study", StudySpec, set(StudySpec.model_fields) - {"name", "source", "question"}),
        ("A space", TrialConfig, set(TrialConfig.model_fields) - {*OWN_HEAD, BACKBONE}),
    ],
    ids=["studies", "spaces"],
)
def test_every_key_of_a_file_is_explained_with_its_default(heading, model, keys):
    rows = table(section("studies.md", heading))
    names = [re.findall(r"`(\w+)`", row[0]) for row in rows]
    assert {name for group in names for name in group} == keys
    for group, row in zip(names, rows, strict=True):
        assert row[-1], f"{group} has no explanation"
        told = [word.strip() for word in row[1].split(",")] if row[1] else [None] * len(group)
        for name, value in zip(group, told, strict=True):
            field = model.model_fields[name]
            if field.is_required() or field.default is None:
                assert value in (None, "the backbone's"), name
            else:
                assert tomllib.loads(f"told = {value.strip('`')}")["told"] == field.default, name


def test_every_backbone_and_known_data_set_is_named():
    studies, datasets = (read(DOCS / name) for name in ("studies.md", "datasets.md"))
    assert [name for name in BACKBONES if f"`{name}`" not in studies] == []
    for source in KNOWN_DATASETS:
        (row,) = [row for row in table(datasets) if row[0] == f"`{source.name}`"]
        assert row[2] == f"{source.total:,}, {len(source.classes)}"


def test_every_name_that_python_gets_is_explained():
    rows = table(read(DOCS / "python.md"))
    assert {re.match(r"`(\w+)", row[0])[1] for row in rows} == set(wastetune.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(page))
    for link in links:
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


def test_every_page_is_linked_from_another():
    linked = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)#\s]+)", without_code(page))
        if not re.match(r"\w+:", link)
    }
    unlinked = [page.name for page in PAGES[1:] if page.resolve() not in linked]
    assert unlinked == []


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page):
    named = set(re.findall(r"`([\w/*.-]+\.(?:py|toml|svg|css|yaml|sh|Dockerfile)|[\w/]+/)`", read(page)))
    places = (ROOT, DOCS, PACKAGE, ROOT / "deploy", ROOT / "tests")
    inside = (PACKAGE, ROOT / "tests")
    missing = [
        name
        for name in sorted(named - MADE)
        if not any(next(place.glob(name), None) for place in places)
        and not any(next(place.rglob(name), None) for place in inside)
    ]
    assert missing == []


def test_the_architecture_lists_every_module_of_every_room():
    listed = {
        re.match(r"\W*(\w+)", row[0])[1]: set(re.findall(r"`(\w+\.py)`", row[2]))
        for row in table(section("architecture.md", "The rooms"))
        if row[0] != "room"
    }
    there = {folder.name: modules_in(folder) for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    assert listed == there | {"root": modules_in(PACKAGE)}


def test_every_room_has_an_api_page_in_the_navigation():
    pages = re.findall(r"api/(\w+)\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(pages) == sorted(["wastetune", *(folder.parent.name for folder in PACKAGE.glob("*/__init__.py"))])


def modules_in(folder):
    return {path.name for path in folder.glob("*.py") if not path.name.startswith("__")}


def read(page):
    return page.read_text(encoding="utf-8")


def without_code(page):
    return re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE)


def section(page, heading):
    return read(DOCS / page).split(f"\n## {heading}\n")[1].split("\n## ")[0]


def table(text):
    """The cells of all rows of all tables, without their headers."""
    rows = re.findall(r"^\|(.*)\|$(?!\n\| ---)", text, flags=re.MULTILINE)
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows]
    return [row for row in cells if not set("".join(row)) <= set("-: ")]


def anchors(page):
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
