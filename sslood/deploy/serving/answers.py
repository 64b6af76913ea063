"""What clients send besides pictures, and what they get: also the source of /openapi.json."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sslood.data.sets.images import Remark
from sslood.deploy.scorer import Decisions, Deployed
from sslood.deploy.serving.limits import Refused
from sslood.deploy.thresholds import check_rate

_PICTURE = {
    "type": "object",
    "required": ["data"],
    "properties": {"name": {"type": "string"}, "data": {"type": "string", "format": "byte"}},
}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_ROWS = _list(_list({"type": "number"}))
_VECTORS = {"vectors": _ROWS, "logits": _ROWS, "ids": _list({"type": "string"})}
_ONE = {"schema": {"type": "string", "format": "binary"}}
BODY = {  # of POST /score, for /openapi.json: a body is read as it comes, not by what is written here
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"images": _list(_ONE["schema"])},
            }
        },
        "application/json": {
            "schema": {
                "oneOf": [
                    {"type": "object", "required": ["images"], "properties": {"images": _list(_PICTURE)}},
                    {"type": "object", "required": ["vectors"], "properties": _VECTORS},
                ]
            }
        },
        "image/*": _ONE,
    },
}


class Options(BaseModel):
    """What may stand behind the question mark."""

    model_config = ConfigDict(extra="forbid")
    alpha: Annotated[float | None, Field(description="Share of ID pictures that may be called OOD.")] = None
    fdr: Annotated[
        float | None,
        Field(description="Judge the pictures of the request together: highest share of ID among those OOD."),
    ] = None
    skip_unreadable: Annotated[
        bool, Field(description="Give pictures that cannot be read an `error`, and decide about the others.")
    ] = False


class Decision(BaseModel):
    """What is decided about one picture; nothing but `error` if it cannot be read."""

    name: str
    score: Annotated[float | None, Field(description="Larger = more OOD.")] = None
    p_value: Annotated[float | None, Field(description="Conformal; small = OOD.")] = None
    is_ood: bool | None = None
    predicted_class: Annotated[str | None, Field(description="Null without a classifier.")] = None
    warnings: Annotated[list[str], Field(description="What is odd about the picture.")] = []
    error: str | None = None


class Answer(BaseModel):
    """Decisions in the order of the pictures, the rule for `is_ood`, and why not to trust the detector."""

    results: list[Decision]
    alpha: float | None
    fdr: float | None
    warnings: list[str]


class Failure(BaseModel):
    """Why there is no answer, and what to do."""

    error: str


class Judge:
    """The rule of one request for what is OOD: the file's rate or another, or all pictures together."""

    def __init__(self, scorer: Deployed, options: Options):
        if options.alpha is not None and options.fdr is not None:
            raise Refused(422, "alpha and fdr are two rules for what is OOD; give one of them")
        self.fdr, calibrated = options.fdr, scorer.calibrated
        self.calibrated = calibrated if options.alpha is None else calibrated.at(options.alpha)
        self.images = self.calibrated.fewest
        if self.fdr is not None:
            if not 0 < self.fdr < 1:
                raise Refused(422, f"fdr must be above 0 and below 1, found {self.fdr}")
            check_rate(self.fdr, self.images)

    def __call__(self, found: Decisions) -> Decisions:
        if self.fdr is not None:
            return found.judge_together(self.fdr, self.images)
        return replace(found, is_ood=found.p_values <= self.calibrated.threshold.alpha)

    def answer(self, results: list[Decision]) -> Answer:
        """Return what the client gets."""
        alpha = self.calibrated.threshold.alpha if self.fdr is None else None
        return Answer(results=results, alpha=alpha, fdr=self.fdr, warnings=self.calibrated.warnings())


def rows(
    names: Sequence[str],
    read: Sequence[tuple[np.ndarray | str, Sequence[Remark]]],
    decided: Decisions | None,
) -> list[Decision]:
    """Return a row for each picture or vector: its decision, or why there is none (the text in `read`)."""
    found: list[Decision] = []
    place = 0
    for name, (image, remarks) in zip(names, read, strict=True):
        warnings = [f"{kind} ({detail})" for kind, detail in remarks]
        if isinstance(image, str) or decided is None:
            found.append(Decision(name=name, error=str(image), warnings=warnings))
            continue
        found.append(
            Decision(
                name=name,
                score=float(decided.scores[place]),
                p_value=float(decided.p_values[place]),
                is_ood=bool(decided.is_ood[place]),
                predicted_class=decided.predicted[place] or None,
                warnings=warnings,
            )
        )
        place += 1
    return found
