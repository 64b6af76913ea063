"""results/NAME/: what the parts of a study that are done have measured, and where it comes from.

    README.md, index.html    the table over the parts, and what became of each
    table.csv                every model, detector and group of sets of every part
    PART/                    tables and numbers as `summarize` wrote them, params.yaml, training curves,
                             origin.json (revision, hardware, hours, sets that could not be had);
                             stages.csv, seconds and threads of each stage, with the digest by which another
                             part names the same one; sweeps/NAME/, tables and figures of each sweep

A part that is not done leaves the results of an earlier run, which name their own revision, as they are.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sslood.core.files import save_json, save_text
from studies.done import STAGES, SWEEPS, finished, read_json
from studies.page import write_pages
from studies.parts import BROUGHT, OUTPUT, STATE
from studies.plan import Study
from studies.runner import Store

LEAVE = ("summary.json", "headline.md")  # that the other files hold
DIGEST = 12  # letters that tell stages apart
MOST = 1 << 24  # bytes of a file that is gathered


def gather(study: Study, folder: Path, results: Path, store: Store) -> None:
    """Copy what is done from the work folder to `results`, and write the pages anew."""
    states = {part.name: read_json(folder / part.name / STATE) for part in study.parts}
    for part in study.parts:
        if states[part.name].get("state") == "done" and not (folder / part.name / BROUGHT).is_file():
            state, stages = states[part.name], stages_of(states[part.name], store)
            origin, sweeps = _origin(state, store), _sweeps(state, store)
            _copy(folder / part.name, results / part.name, origin, stages, sweeps)
    done = [found for part in study.parts if (found := finished(part, results / part.name))]
    if done:
        write_pages(study, states, done, results)


def _origin(state: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """Return revision, hardware and hours of all stages of a part, the sets that it lacks, if it is tiny."""
    found = [store.record[key] for key in dict.fromkeys(state["keys"]) if key in store.record]
    seconds = sum(one["seconds"] for one in found)
    return {
        "revision": sorted({one["revision"] for one in found}),
        "hardware": sorted({one["hardware"] for one in found}),
        "hours": round(seconds / 3600, 2),
        "core_hours": round(sum(one["seconds"] * one["threads"] for one in found) / 3600, 2),
        "stages": state["total"],
        "absent": state["absent"],
        **({"tiny": True} if state.get("tiny") else {}),
    }


def stages_of(state: Mapping[str, Any], store: Store) -> str:
    """Return the stages of a part as CSV text, in the order in which they ran."""
    lines = ["stage,seconds,threads,digest"]
    for key in dict.fromkeys(state["keys"]):
        if one := store.record.get(key):
            digest = hashlib.sha256(key.encode()).hexdigest()[:DIGEST]
            lines.append(f"{one['stage']},{one['seconds']},{one['threads']},{digest}")
    return "\n".join([*lines, ""])


def _sweeps(state: Mapping[str, Any], store: Store) -> list[Path]:
    """Return the folders of the sweeps that stages of a part made; the part's own may hold older ones too."""
    tops = [store.made / key / "metrics" / SWEEPS for key in dict.fromkeys(state["keys"])]
    return [path for top in tops if top.is_dir() for path in sorted(top.iterdir())]


def _copy(place: Path, target: Path, origin: Mapping[str, Any], stages: str, sweeps: Sequence[Path]) -> None:
    """Copy the results of one part."""
    fresh = target.with_name(f"{target.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    sources = [place / "params.yaml", *sorted((place / "metrics").glob("*.*")), place / OUTPUT]
    for source in sources:
        if source.is_file() and source.name not in LEAVE and source.stat().st_size <= MOST:
            shutil.copyfile(source, fresh / source.name)
    curves = sorted((place / "data/curves").glob("*.csv")) if (fresh / "results.csv").is_file() else []
    for source in curves:
        (fresh / "curves").mkdir(exist_ok=True)
        shutil.copyfile(source, fresh / "curves" / source.name)
    if accuracy := _accuracies(place / "metrics/accuracy"):
        save_text(fresh / "accuracy.csv", accuracy)
    for source in [file for sweep in sweeps for file in sorted(sweep.glob("*.*"))]:
        if source.stat().st_size <= MOST:
            (fresh / SWEEPS / source.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, fresh / SWEEPS / source.parent.name / source.name)
    names = {path.name for path in fresh.iterdir()}
    if names & {"results.csv", OUTPUT, SWEEPS}:
        save_json(fresh / "origin.json", dict(origin))
        save_text(fresh / STAGES, stages)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    else:  # a part that only prepares
        shutil.rmtree(fresh)


def _accuracies(folder: Path) -> str:
    """Return the accuracies of all models as CSV text, "" if there are none."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    columns = list(dict.fromkeys(key for values in found.values() for key in values))
    lines = [
        ",".join([model, *(str(values.get(key, "")) for key in columns)]) for model, values in found.items()
    ]
    return "\n".join([",".join(["model", *columns]), *lines, ""]) if lines else ""
