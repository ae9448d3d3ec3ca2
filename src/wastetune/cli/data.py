"""`wastetune data`: list, fetch, check and audit data sets, draw a sample."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wastetune.cli.lookup import find_pictures
from wastetune.cli.options import data_option, results_option, storage_option, weights_option

if TYPE_CHECKING:
    from wastetune.data.index import Picture

_LISTED = 10  # of each kind


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
    """List the known data sets, and whether they are here.

    Each comes with its source and its licence.

    \b
    Example:
      wastetune data list
    """
    from wastetune.datasets.catalog import KNOWN_DATASETS

    for source in KNOWN_DATASETS:
        here = "here" if (folder / source.name).is_dir() else "fetch" if source.url or source.kaggle else "by hand"
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
@storage_option
@results_option
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write everything that was found to a CSV file.",
)
def check(dataset: str, folder: Path, storage: str, results: Path, output: Path | None) -> None:
    """Show what a data set contains, and what is wrong with it.

    DATASET is a known name, a folder, or a study, whose pictures are meant. What `wastetune run` would refuse is
    refused here, with exit status 2.

    \b
    Example:
      wastetune data check data/trashnet
      wastetune data check my_photos --output found.csv
    """
    from wastetune.data.index import contradictions, duplicate_groups, index_folder, look_alike_groups
    from wastetune.data.splits import split_index
    from wastetune.files import write_csv

    index = index_folder(find_pictures(dataset, storage, folder, results))
    click.echo(f"{index.folder}: {len(index.pictures):,} pictures in {len(index.classes)} classes")
    for label, name in enumerate(index.classes):
        click.echo(f"  {sum(picture.label == label for picture in index.pictures):7,}  {name}")
    kinds: dict[str, list[tuple[str, ...]]] = {
        "left out": [(problem.path, problem.what) for problem in index.problems],
        "the same picture twice": [_paths(group) for group in duplicate_groups(index)],
        "nearly the same picture": [_paths(group) for group in look_alike_groups(index)],
        "the same picture in two classes": [_paths(group) for group in contradictions(index)],
    }
    for kind, found in kinds.items():
        click.echo(f"{kind}: {len(found):,}" if found else f"{kind}: none")
        for each in found[:_LISTED]:
            click.echo(f"  {(': ' if kind == 'left out' else ' = ').join(each)}")
        if len(found) > _LISTED:
            click.echo(f"  and {len(found) - _LISTED:,} more" + ("" if output else "; --output FILE writes all"))
    if output is not None:
        write_csv(output, ((kind, *each) for kind, found in kinds.items() for each in found))
        click.echo(f"Written to {output}")
    split_index(index, seed=0)  # what it refuses, a study does


@data.command()
@click.argument("dataset")
@data_option
@storage_option
@results_option
@click.option(
    "--backbone",
    default="mobilenet_v3_small_075",
    show_default=True,
    metavar="NAME",
    help="What the label check sees with.",
)
@weights_option
@click.option(
    "--corrections",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The file of your decisions, which are kept and carried out.  [default: corrections.csv in --output]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="The folder of the page.  [default: audit/<name of the data set>]",
)
@click.option("--image-size", type=click.IntRange(32, 1024), help="Pixels per side.  [default: the backbone's]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seeds the label check.")
def audit(
    dataset: str,
    folder: Path,
    storage: str,
    results: Path,
    backbone: str,
    weights: str | None,
    corrections: Path | None,
    output: Path | None,
    image_size: int | None,
    seed: int,
) -> None:
    """Find wrong labels, look-alikes and poor pictures.

    DATASET is a known name, a folder, or a study, whose pictures are meant.

    It writes a page with the pictures, and a file for your decisions, with a line for each picture that was found. A
    study with the key `corrections` honours what you decide there. Auditing again keeps your decisions.

    \b
    Example:
      wastetune data audit trashnet
    """
    pictures = find_pictures(dataset, storage, folder, results)

    from wastetune.checks.audit import audit as audit_folder
    from wastetune.checks.audit import propose_corrections, render_audit
    from wastetune.checks.audit_page import FILE, write_page
    from wastetune.console import open_console
    from wastetune.data.corrections import FILE as CORRECTIONS
    from wastetune.data.corrections import merge_corrections, read_corrections, write_corrections
    from wastetune.datasets.identity import name_dataset
    from wastetune.tuning.spec import name_weights

    output = output or Path("audit") / name_dataset(pictures)
    corrections = corrections or output / CORRECTIONS
    named, weights_folder = name_weights(weights)
    found = audit_folder(
        pictures,
        backbone=backbone,
        weights=named or "imagenet",
        weights_folder=weights_folder,
        image_size=image_size,
        corrections=corrections if corrections.exists() else None,
        seed=seed,
        console=open_console(),
    )
    decided = read_corrections(corrections, found.index.classes) if corrections.exists() else ()
    write_corrections(merge_corrections(decided, propose_corrections(found)), corrections)
    write_page(found, corrections, output)
    click.echo("\n".join(render_audit(found)))
    click.echo(f"look at {output / FILE}, and write your decisions into {corrections}")


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


def _paths(group: "tuple[Picture, ...]") -> tuple[str, ...]:
    return tuple(picture.path for picture in group)
