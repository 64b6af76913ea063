"""Tables in LaTeX, with the rules of the package booktabs."""

from sslood.report.cells import Figure, Table

_SIGNS = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "·": r"$\cdot$",
    "−": "$-$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "→": r"$\to$",
}


def escaped(text: str) -> str:
    """Return a text that LaTeX prints as it stands."""
    return "".join(_SIGNS.get(sign, sign) for sign in text)


def latex(table: Table) -> str:
    """Return a tabular; the first column, and those of `left`, are aligned left, all others right."""
    words = {table.header[0], *table.left}
    columns = "".join("l" if name in words else "r" for name in table.header)
    lines = [" & ".join(_cell(cell) for cell in row) + r" \\" for row in (table.header, *table.rows)]
    lines = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *lines, r"\end{tabular}"])


def _cell(cell: str | Figure) -> str:
    return escaped(str(cell))
