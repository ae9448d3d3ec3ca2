"""Finds and reads TOML files of studies and search spaces; every mistake is one sentence."""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel, ValidationError

from wastetune.errors import UserError, suggest
from wastetune.formatting import shortened

_SHOWN = 60  # characters of a key
NOUNS = {"studies": "study", "search_spaces": "search space"}


def shipped(kind: str) -> Path:
    """The folder of "studies" or "search_spaces" that comes with wastetune, installed or in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / kind
    return installed if installed.is_dir() else package.parents[1] / kind


def find_file(kind: str, name_or_path: str) -> Path:
    """The TOML file of a name or a path. UserError, with similar names, where there is none."""
    noun = NOUNS[kind]
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise UserError(f"There is no {noun} file {name_or_path}; give the path of one, or a name without '.toml'.")
        return path
    files = named_files(kind)
    if name_or_path not in files:
        raise UserError(
            f"There is no {noun} named '{name_or_path}'; {suggest(name_or_path, sorted(files))} "
            f"Add {kind}/<name>.toml or give the path of a .toml file for one of your own."
        )
    return files[name_or_path]


def read_toml(path: Path) -> dict[str, Any]:
    """The keys and values of a file. UserError, with file and line, where it is not TOML."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        _check_numbers(path, values)
        return values
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {_in_words(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid TOML: it is not UTF-8 text; save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except RecursionError:
        raise UserError(f"{path} is not a file of wastetune: its brackets or tables are nested too deep.") from None
    except ValueError:  # of Python, which reads 4,300 digits at most
        raise UserError(_TOO_LARGE.format(path)) from None


_TOO_LARGE = "{} is not valid TOML: a whole number in it needs more than 64 bits; write a smaller one."


def _check_numbers(path: Path, value: object) -> None:
    """Raises UserError for a whole number beyond those of TOML, which could not even be printed."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UserError(_TOO_LARGE.format(path))
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_numbers(path, each)


def check_keys(source: str, values: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError for the first unknown key, with similar known keys."""
    allowed = list(known)
    for key in values:
        if key not in allowed:
            shown = shortened(json.dumps(key, ensure_ascii=False)[1:-1], _SHOWN)
            raise UserError(f"{source}: unknown key '{shown}'; {suggest(key, allowed)}")


def explain(model: type[BaseModel], source: str, error: ValidationError) -> str:
    """One sentence about the first error that pydantic found: file, key, value, and what is allowed."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:  # an error of a validator of the whole model, whose message is already a sentence
        return f"{source}: {first['msg'].removeprefix('Value error, ')}"
    key = str(first["loc"][0])
    if first["type"] == "missing":
        return f"{source}: the key '{key}' is missing; it must be {allowed_values(model, key)}."
    return f"{source}: {key} = {in_toml(first['input'])}, but it must be {allowed_values(model, key)}."


def allowed_values(model: type[BaseModel], key: str) -> str:
    """The values that a field accepts, in words: "a whole number, at least 1 and at most 16"."""
    field = model.model_fields[key]
    kind: Any = field.annotation
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    words = " or ".join(_kind_in_words(member) for member in kinds if member is not NoneType)
    limits = [limit for limit in map(_limit, field.metadata) if limit]
    return f"{words}, {' and '.join(limits)}" if limits else words


def _kind_in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        options = [in_toml(option) for option in get_args(kind)]
        return options[0] if len(options) == 1 else "one of " + ", ".join(options)
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text in quotes",
        tuple[str, ...]: "a list of texts in quotes",
    }
    return words[kind]


def in_toml(value: object) -> str:
    """The value as TOML writes it: "text", 3, true, [1, 2]."""
    return json.dumps(value, default=str, ensure_ascii=False)


def _limit(rule: object) -> str:
    match rule:
        case at.Ge(ge=low):
            return f"at least {low}"
        case at.Gt(gt=low):
            return f"above {low}"
        case at.Le(le=high):
            return f"at most {high}"
        case at.Lt(lt=high):
            return f"below {high}"
        case at.MinLen():
            return "not empty"
        case _:
            return ""


def named_files(kind: str) -> Mapping[str, Path]:
    """Name -> file; files in the working directory replace those of wastetune."""
    folders = (shipped(kind), Path(kind))
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def _in_words(error: tomllib.TOMLDecodeError) -> str:
    """The message with its place first: "line 3, column 9: invalid value."."""
    what, _, place = str(error).partition(" (at ")
    what = what[0].lower() + what[1:]
    return f"{place.removesuffix(')')}: {what}." if place else f"{what}."
