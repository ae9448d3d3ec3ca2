"""Every command and flag in deploy/ and in the README and docs is one of the real command line."""

import re
import shlex
from pathlib import Path

import click
import pytest

from wastetune.cli import main

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
        if words[0] not in command.commands:
            return words[0]
        command, words = command.commands[words[0]], words[1:]
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
