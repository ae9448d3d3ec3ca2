"""HTML templates that lie in a package."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def load_templates(package: str, **filters: Callable[..., str]) -> "Environment":
    """The Jinja environment of a package's templates. It escapes all values, and an unknown name is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader(package, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters.update(filters)
    return templates
