"""Every command and flag in deploy/ and in the README and docs is one of the real command line."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from wastetune.cli.main import main

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "deploy").iterdir()), *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(text):
    """Every `wastetune ...`, as words: of a shell line, of code in a sentence, of a list in YAML."""
    for line in text.replace("\\\n", " ").splitlines():
        if found := re.search(r"\[(wastetune(?:, [^\],]+)+)\]", line):
            yield [word.strip().strip('"') for word in found[1].split(",")]
        for found in re.finditer(r"(?:^[#\s$]*|`|command: |exec srun |&& )(wastetune (?:[a-z]|--)[^`#;|&]*)", line):
            yield shlex.split(re.sub(r"\$\{\w+[^}]*\}", "X", found[1]), posix=True)


def unknown_in(words):
    """What the command line does not know of these words."""
    command, words = main, words[1:]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            return words[0]
        command, words = found, words[1:]
    known = {"-h", "--help", "--version"} | {name for param in command.params for name in param.opts}
    return next((word for word in words if word.startswith("--") and word.split("=")[0] not in known), None)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_commands_and_flags_exist(file):
    text = file.read_text(encoding="utf-8")
    assert {" ".join(words): unknown for words in commands_of(text) if (unknown := unknown_in(words))} == {}


def test_what_is_looked_for_is_found():
    found = [
        " ".join(words[:2]) for file in FILES if file.parent.name == "deploy" for words in commands_of(file.read_text())
    ]
    assert sorted(found) == ["wastetune run"] * 3 + ["wastetune worker"] * 3
    assert unknown_in(["wastetune", "work"]) == "work"
    assert unknown_in(["wastetune", "run", "--worker", "3"]) == "--worker"
    assert unknown_in(["wastetune", "data", "fetch", "--al"]) == "--al"


def test_the_files_are_whole():
    yaml = pytest.importorskip("yaml")
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert set(compose["services"]) == {"db", "mlflow", "dashboard", "study", "worker"}
    jobs = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))
    assert [job["kind"] for job in jobs] == ["Job", "Job"]
    for job in jobs:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert all("value" in each or "secretKeyRef" in each["valueFrom"] for each in container["env"])
        assert "password" not in str(job).lower()


def beyond(extra):
    """The modules that would not be there if only what this extra of ours lists were installed."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    wanted, installed = [Requirement(line) for line in listed], set()
    while wanted:
        one = wanted.pop()
        name = canonicalize_name(one.name)
        if name not in installed:
            installed.add(name)
            found = map(Requirement, metadata.requires(name) or ())
            wanted += [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]
    return sorted(
        module
        for module, names in metadata.packages_distributions().items()
        if not installed & set(map(canonicalize_name, names))
        and module not in sys.stdlib_module_names
        and "wastetune" not in module
    )


def test_the_container_of_the_service_starts_from_its_extra_alone_and_knows_how_it_is(brightness):
    """Its command and its health check are run, at another port and with another model."""
    text = (ROOT / "deploy" / "serve.Dockerfile").read_text()
    entry, command, check = (
        json.loads(re.search(rf"^{line} (\[.+\])$", text, re.MULTILINE)[1]) for line in ("ENTRYPOINT", "CMD", " +CMD")
    )
    assert shlex.join(entry + command) == "wastetune serve --bundle /model --host 0.0.0.0 --port 8000"
    assert unknown_in(entry + command) is None
    assert "EXPOSE 8000" in text
    assert re.search(r"^USER (?!root$)\w+$", text, re.MULTILINE)

    absent = beyond("serve")
    assert {"tensorflow", "keras", "optuna", "mlflow", "pandas", "rich"} <= set(absent)
    alone = f"import sys; sys.modules.update(dict.fromkeys({absent})); from wastetune.cli.main import main; main()"
    here = {"/model": str(brightness.parent), "8000": "0"}
    words = [sys.executable, "-c", alone, *(here.get(word, word) for word in command)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            port = re.search(r":(\d+)/predict", line)[1]
            check = [sys.executable, *(word.replace("8000", port) for word in check[1:])]
            assert subprocess.run(check, capture_output=True).returncode == 0
            process.terminate()
            assert process.wait(30) == 0
            assert subprocess.run(check, capture_output=True).returncode != 0
        finally:
            process.kill()
