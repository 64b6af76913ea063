"""The templates of the pages and tables; all text that they are given is escaped in HTML."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sslood.report.columns import percent
from sslood.report.tables import Code, Figure, markdown

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=lambda name: name is not None and ".html" in name,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters.update(percent=percent, markdown=markdown)
_ENVIRONMENT.tests.update(figure=lambda cell: isinstance(cell, Figure), code=lambda cell: isinstance(cell, Code))


def render(template: str, **values: Any) -> str:
    """Return the text of a template of the folder `templates`; only those named *.html.j2 escape."""
    return _ENVIRONMENT.get_template(template).render(**values)
