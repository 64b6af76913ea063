"""The templates of the pages and tables; all text that they are given is escaped in HTML."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sslood.report.cells import Figure, markdown, percent

ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=lambda name: name is not None and ".html" in name,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.filters.update(percent=percent, markdown=markdown)
ENVIRONMENT.tests["figure"] = lambda cell: isinstance(cell, Figure)


def render(template: str, **values: Any) -> str:
    """Return the text of a template of the folder `templates`; only those named *.html.j2 escape."""
    return ENVIRONMENT.get_template(template).render(**values)
