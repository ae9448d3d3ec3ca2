"""`wastetune data`: list, fetch and check data sets, draw a sample."""

from pathlib import Path

import click

from wastetune.cli.options import data_option


@click.group()
def data() -> None:
    """Known data sets and folders of pictures.

    \b
    Example:
      wastetune data check data/trashnet
    """


@data.command("list")
@data_option
def list_(folder: Path) -> None:
    """List the known data sets, with their source, and whether they are on this machine.

    \b
    Example:
      wastetune data list
    """
    from wastetune.datasets.catalog import KNOWN_DATASETS

    for source in KNOWN_DATASETS:
        here = "here" if (folder / source.name).is_dir() else "fetch" if source.url else "by hand"
        click.echo(
            f"{source.name:10} {here:8} {source.total:6,} pictures, {len(source.classes)} classes  {source.title}"
        )
        click.echo(f"{'':19} {source.licence}  {source.page}")


@data.command()
@click.argument("name")
@data_option
def fetch(name: str, folder: Path) -> None:
    """Download a known data set.

    \b
    Example:
      wastetune data fetch trashnet
    """
    from wastetune.datasets.catalog import fetch_dataset

    with click.progressbar(length=0, label=name) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        place = fetch_dataset(name, folder, progress=progress)
    click.echo(f"{name} is in {place}")


@data.command()
@click.argument("dataset")
@data_option
def check(dataset: str, folder: Path) -> None:
    """Show what a data set contains, and what is wrong with it: a known name or a folder.

    \b
    Example:
      wastetune data check data/trashnet
    """
    from wastetune.data.index import contradictions, duplicate_groups, index_folder, near_duplicate_groups
    from wastetune.datasets.catalog import find_dataset

    index = index_folder(find_dataset(dataset, folder))
    click.echo(f"{index.folder}: {len(index.pictures):,} pictures in {len(index.classes)} classes")
    for label, name in enumerate(index.classes):
        click.echo(f"  {sum(picture.label == label for picture in index.pictures):7,}  {name}")
    _list_all("left out", [f"{problem.path}: {problem.what}" for problem in index.problems])
    _list_all("the same picture twice", [_paths(group) for group in duplicate_groups(index)])
    _list_all("nearly the same picture", [_paths(group) for group in near_duplicate_groups(index)])
    _list_all("the same picture in two classes", [_paths(group) for group in contradictions(index)])


@data.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("demo/pictures"))
@click.option("--per-class", type=click.IntRange(min=5), default=60, show_default=True, help="Pictures of each class.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other pictures.")
def sample(folder: Path, per_class: int, seed: int) -> None:
    """Generate a small data set of drawn pictures, for demos and tests.

    \b
    Example:
      wastetune data sample demo/pictures
    """
    from wastetune.datasets.synthetic import write_sample

    click.echo(f"{write_sample(folder, per_class=per_class, seed=seed)}: a data set of drawn pictures")


def _list_all(what: str, lines: list[str]) -> None:
    click.echo(f"{what}: {len(lines) or 'none'}")
    for line in lines:
        click.echo(f"  {line}")


def _paths(pictures: tuple) -> str:  # type: ignore[type-arg]
    return " = ".join(picture.path for picture in pictures)
