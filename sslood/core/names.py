"""Names of files as text that gives no orders: to a terminal, a spreadsheet or a reader of lines.

A name may hold line ends, escape sequences and bytes that are not UTF-8 (Python keeps these as lone
surrogates). They are written in percent form, as in addresses; `original` gives the name back.
"""

import re
from urllib.parse import unquote

# controls, marks that reverse the direction of text, line separators, lone surrogates, what is never seen
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
# a spreadsheet runs a cell that begins so; some take ; as the end of a cell
_ORDER = re.compile("(?:^|(?<=[,;]))[=+\\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def shown(text: str) -> str:
    """Return `text` for a terminal or a page: whatever is not to be seen becomes %XX."""
    return _UNSAFE.sub(_percent, text)


def cell(text: str) -> str:
    """Return `text` for a cell of a table, which no spreadsheet runs."""
    return text if _NUMBER.fullmatch(text) else _ORDER.sub(_percent, shown(text))


def path_cell(path: str) -> str:
    """Return a path for a cell of a table; `original` is the inverse."""
    return cell(re.sub("%(?=[0-9A-Fa-f]{2})", "%25", path))


def original(text: str) -> str:
    """Return the path that `path_cell` was given."""
    return unquote(text, errors="surrogateescape")


def _percent(match: re.Match[str]) -> str:
    try:
        content = match[0].encode(errors="surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte: no file has such a name
        content = match[0].encode(errors="surrogatepass")
    return "".join(f"%{byte:02X}" for byte in content)
