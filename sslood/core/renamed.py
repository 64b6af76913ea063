"""Settings that have another name now: one table, for every message about a key that is not known."""

from fnmatch import fnmatchcase

# pattern of a key of the params, in full -> what has become of it
RENAMED = {
    "architecture": "it is now `backbone` (resnet), with its sizes under `backbones` (depth: 8, width: 16)",
    "posthoc.search": "it was removed; a setting that is `auto` is chosen on validation images",
    "runs.architectures": "it is now called `runs.leaveout_backbones`",
}
# the same for environment variables
VARIABLES = {
    "SSLOOD_PRECISION": "results depend on it, so it is now the key `precision` of sections of the params",
}


def renamed(key: str, full: bool = False) -> str:
    """Return ": " and what has become of a key of the params, or nothing if its name has not changed.

    key: in full, like "posthoc.search", or its last part where the section is not known (full=False).
    """
    for pattern, what in RENAMED.items():
        last = not full and "." not in key and key == pattern.rpartition(".")[2]
        if last or fnmatchcase(key, pattern):
            return f": {what}"
    return ""
