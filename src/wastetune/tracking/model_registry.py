"""Registers a study's model in MLflow, one version per model, and keeps the alias `champion`.

The registered model of a data set is `wastetune-<data set>`; of another data set with the same name, it is that with a
digest of its pictures. The alias moves to a version with a higher score than the champion's on validation pictures, by
the same metric: the test set only reports, because the best of several test scores is no honest one. Scores on other
pictures cannot be compared: a version with another test set gets the alias only where there is no champion yet. A
version that is worse than its study's default, or whose split leaks, never does.
"""

import hashlib
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wastetune.data.splits import read_split_table
from wastetune.datasets.identity import content_digest, content_sketch
from wastetune.evaluation.metrics import METRICS
from wastetune.models.bundle import load_description, model_file
from wastetune.report.results import Report
from wastetune.tracking.mlflow_runs import find_final
from wastetune.tracking.mlflow_store import DATA, Mirror, choose_name, is_name_of, render_clash, search_all
from wastetune.tracking.model_code.save import save_mlflow_model

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
_WORSE = "not the champion: it is worse than its study's default configuration, beyond chance"
_LEAKS = "not the champion: its split leaks, so its scores are too high"
_MODEL = "wastetune.model"  # the sha256 of its file
_LOGGED = "wastetune.logged_model"  # its id in MLflow, which a version does not show
_VALIDATION = "wastetune.validation_score"  # of the final model; earlier versions of wastetune did not keep it
_TEST = "wastetune.test_split"  # the sha256 of its test pictures and their classes


def register_model(mirror: Mirror, report: Report, folder: Path) -> str | None:
    """Registers the model in the results folder; a sentence on its version and the champion.

    None where there is no model, or it is registered already. Raises what a database, a server or a network may raise.
    """
    file = model_file(folder / "bundle")
    if not file.is_file() or not (folder / "split.csv").is_file():
        return None
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if not mirror.data.sketch:  # of an earlier version
        pixels = [row.pixels_sha256 for row in read_split_table(folder / "split.csv")]
        data = replace(mirror.data, content=content_digest(pixels), sketch=content_sketch(pixels))
        mirror = replace(mirror, data=data)
    with mirror.lock:
        base, name = model_name(report.dataset), _choose_model(mirror, report)
        if not (version := _find_version(mirror, name, digest)):
            version = _add_version(mirror, name, report, folder, digest)
            if (first := _find_version(mirror, name, digest)) and first.version != version.version:
                mirror.client.delete_model_version(name, version.version)  # another process was faster
                version = first
            else:
                if report.leaked:
                    comparison = _LEAKS
                elif report.is_worse(METRICS[report.metric][1]):
                    comparison = _WORSE
                else:
                    comparison = _update_champion(mirror, name, version, looks=len(report.openings))
                _link_final(mirror, version)
                said = f"{name} version {version.version} is registered in MLflow; {comparison}"
                return said if name == base else f"{said}\n{render_clash('model', base, name)}"
        _link_final(mirror, version)
    return None


def model_name(dataset: str) -> str:
    """The registered name for models of a data set; / and : have a meaning in the registry, quotes in its searches."""
    return "wastetune-" + re.sub(r"""[/:'"`]""", "-", dataset)


def _choose_model(mirror: Mirror, report: Report) -> str:
    """The name of the registered model of this data set; the model need not exist yet."""
    base, taken = model_name(report.dataset), {}
    for model in search_all(mirror.client.search_registered_models):
        if is_name_of(model.name, base):
            taken[model.name] = model.tags.get(DATA) or _sketch_of_other(mirror, model.name, report)
    return choose_name(base, mirror.data, taken)


def _sketch_of_other(mirror: Mirror, name: str, report: Report) -> str:
    """For a model of an earlier version, which has no sketch: one that fits no data set, if its classes are others."""
    classes = {version.tags.get("classes") for version in mirror.client.search_model_versions(f"name = '{name}'")}
    return "" if not classes or _render_classes(report) in classes else "other"


def _render_classes(report: Report) -> str:
    return json.dumps(report.classes)[:5000]


def test_digest(split_table: Path) -> str:
    """The sha256 of the test pictures' pixels and classes, from the results folder's split.csv."""
    table = read_split_table(split_table)
    rows = sorted((row.pixels_sha256, row.class_name) for row in table if row.split == "test")
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _find_version(mirror: Mirror, name: str, digest: str) -> "ModelVersion | None":
    """The earliest version with this very model."""
    found = mirror.client.search_model_versions(f"name = '{name}'")
    same = [version for version in found if version.tags.get(_MODEL) == digest]
    return min(same, key=lambda version: int(version.version), default=None)


def _add_version(mirror: Mirror, name: str, report: Report, folder: Path, digest: str) -> "ModelVersion":
    client, metric = mirror.client, report.metric
    tags = {
        "study": report.study,
        "backbone": report.backbone,
        "metric": metric,
        "score": repr(float(getattr(report.test, METRICS[metric][1]))),
        "classes": _render_classes(report),
        "input_size": str(load_description(folder / "bundle").input_size),
        _TEST: test_digest(folder / "split.csv"),
        _MODEL: digest,
    }
    if report.final:
        tags[_VALIDATION] = repr(report.final.score)
    # The parent run is the source, because a `final` run is replaced whenever the report changes.
    model = client.create_logged_model(mirror.experiment, report.study, source_run_id=mirror.parent, tags=tags)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            save_mlflow_model(
                Path(temporary) / "model", folder, report, model.model_id, pictures=Path(mirror.data.folder)
            )
            client.log_model_artifacts(model.model_id, str(Path(temporary) / "model"))
        client.finalize_logged_model(model.model_id, "READY")
        return _register(mirror, name, report, tags, model)
    except Exception:
        client.delete_logged_model(model.model_id)  # the next attempt makes another one
        raise


def _register(mirror: Mirror, name: str, report: Report, tags: dict[str, str], model: "LoggedModel") -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    client = mirror.client
    try:
        client.create_registered_model(name, description=f"What wastetune's studies of {report.dataset} came to.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    client.set_registered_model_tag(name, DATA, mirror.data.sketch)
    version = client.create_model_version(
        name,
        source=model.artifact_location,  # by its id, MLflow would look for it in the store that is the default
        run_id=model.source_run_id,
        tags=tags | {_LOGGED: model.model_id},
        description=f"{report.question or report.study}\n\n{_usage(report, int(tags['input_size']))}",
        model_id=model.model_id,
    )
    versions = json.dumps([{"name": name, "version": str(version.version)}])
    client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": versions})  # as MLflow's server does
    return version


def _usage(report: Report, size: int) -> str:
    return (
        f"Pictures of any size in: arrays (height, width, 3) of 0 to 255, paths, bytes, or base64. They are resized to "
        f"{size} x {size} pixels as in training. Probabilities of {', '.join(report.classes)} out."
    )


def _update_champion(mirror: Mirror, name: str, version: "ModelVersion", *, looks: int) -> str:
    """Moves the alias to the version if its score is higher; why or why not, as text."""
    client, tags = mirror.client, version.tags
    metric = tags["metric"]
    champion = client.get_registered_model(name).aliases.get(CHAMPION)
    if champion is None:
        client.set_registered_model_alias(name, CHAMPION, version.version)
        return "it is the champion, as the first"
    other = client.get_model_version(name, champion).tags
    if (other.get(_TEST), other.get("metric")) != (tags[_TEST], metric):
        return f"not compared with the champion, version {champion}: that has another test set or metric"
    key, where = (_VALIDATION, "validation") if {_VALIDATION} <= tags.keys() & other.keys() else ("score", "test")
    score, before = float(tags[key]), float(other[key])
    compared = f"{metric} on {where} pictures {score:.4f}, of version {champion} {before:.4f}"
    if where == "test":
        compared += ", which keeps no other score, so expect a little less"
    else:
        compared += f"; on the test pictures {float(tags['score']):.4f} and {float(other['score']):.4f}"
    if looks > 1:
        compared += f", evaluated {looks} times"
    if score <= before:
        return f"version {champion} stays champion: {compared}"
    client.set_registered_model_alias(name, CHAMPION, version.version)
    return f"it is the champion now: {compared}"


def _link_final(mirror: Mirror, version: "ModelVersion") -> None:
    """Makes the model an output of the `final` run."""
    from mlflow.entities import LoggedModelOutput

    run = find_final(mirror)
    model = version.tags[_LOGGED]
    if run and not (run.outputs and any(each.model_id == model for each in run.outputs.model_outputs)):
        mirror.client.log_outputs(run.info.run_id, [LoggedModelOutput(model, 0)])
