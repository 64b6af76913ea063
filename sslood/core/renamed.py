"""Settings of earlier versions: one table, for every message about a key or an option that is not known."""

from fnmatch import fnmatchcase

_STEPS = "it is fixed: `schedule: steps` is a tenth of lr after 1/2 of the run, a hundredth after 3/4"
_GONE = "it was removed with schedules that no profile used; take it out"
# pattern of a key of the params, in full -> what to write now
RENAMED = {
    "architecture": "write `backbone: resnet`, and its sizes under `backbones` (`depth: 8`, `width: 16`)",
    "runs.architectures": "write `runs.leaveout_backbones`, and their sizes under `backbones`",
    "leaveout.milestones": _STEPS,
    "leaveout.gamma": _STEPS,
    "pretrain.milestones": _STEPS,
    "pretrain.gamma": _STEPS,
    "pretrain.cycle_epochs": _GONE,
    "pretrain.growth": _GONE,
    "pretrain.final_weight_decay": _GONE,
    "pretrain.keep": "the last epoch is kept",
    "posthoc.search": "write `auto` for each setting that is to be chosen, and a value for the others",
    "ensemble.temperature": "write `ensemble.temperatures`, a list of candidates",
    "network.odin.epsilons": "write `network.odin.epsilon`, a number or `auto`",
    "ssd.select": "write `auto` for clusters, covariance or ridge to choose them by ID validation",
}
# the same for environment variables
VARIABLES = {
    "SSLOOD_PRECISION": "results depend on it, so write `precision` in the sections of the params",
}


def renamed(key: str) -> str:
    """Return what to write instead of a key of an earlier version's params, or "" if there is no such key.

    key: in full, like "posthoc.search".
    """
    return next((now for pattern, now in RENAMED.items() if fnmatchcase(key, pattern)), "")
