"""Made-up results with known answers, and a call of the stage `summarize` on them."""

import numpy as np
from click.testing import CliRunner

from sslood.core.files import save_json, save_tensors, save_text
from stages.summarize import main

SETS = {"digits": "id", "held": "near", "noise": "far", "blobs": "far", "corruptions": "tuning"}
SETS |= {"dusk": "shifted"}
CLASSES = [*"01234"]
LABELS = np.arange(50) % 5
OTHERS = "backbones: {resnet: {depth: 8, width: 16}}\nmodels: {}\npublished: {}"
OOD = [name for name, role in SETS.items() if role in ("near", "far")]


def metrics(auroc):
    return {
        "auroc": auroc,
        "fpr95_id": 1 - auroc,
        "fpr95_ood": 1 - auroc,
        "aupr_in": auroc,
        "aupr_out": auroc,
        "aupr_in_balanced": auroc,
        "aupr_out_balanced": auroc,
        "detection_error": (1 - auroc) / 2,
        "n_id": 50,
        "n_ood": 40,
    }


def write_scores(path, names):
    generator = np.random.default_rng(0)
    scores = {
        f"{name}.{s}": generator.normal(size=50) + (s != "digits") for name in names for s in ["digits", *OOD]
    }
    kept = np.random.default_rng(1)
    for name in names if "ssdk" not in str(path) else []:
        scores[f"{name}.dusk"] = kept.normal(size=50) + 0.5
        if "ensemble" not in str(path):
            scores[f"{name}.digits.validation"] = kept.normal(size=40)
    if "posthoc" in str(path):  # one image in ten is misclassified
        scores["simclr.predicted.digits"] = np.where(np.arange(50) % 10 == 3, 0, LABELS)
    for name in names if "ssdk" in str(path) else []:  # 5 known images have left each test set
        for s in OOD:
            scores[f"{name}.{s}"] = generator.normal(size=45) + 1
            scores[f"{name}.{s}.index"] = np.setdiff1d(np.arange(50), [1, 2, 11, 30, 49])
            scores[f"{name}.digits.{s}"] = generator.normal(size=50)
    save_tensors(path, scores, kind="scores", metadata={})


def write_audit(path, *, left_out=(), controls=(0.5, 0.05, 0.9)):
    """Write an audit of 50 images per set; `left_out` maps sets to positions."""
    left_out = {name: np.array(dict(left_out).get(name, []), np.int64) for name in ("digits", *OOD)}
    sets = {
        name: {"role": SETS[name], "n": 50, "left_out": len(rows), "exact": 0, "near": len(rows), "class": 0}
        for name, rows in left_out.items()
    }
    for name, value in zip(OOD, controls, strict=True):
        sets[name]["control_auroc"] = value
    tensors = {f"{name}.left_out": rows for name, rows in left_out.items()}
    save_tensors(path, tensors, kind="audit", metadata={"id": "digits", "sets": sets})


def written(tmp_path):
    """Write results of two models, two seeds and one ensemble; return a function that summarises them."""
    values = {
        ("simclr", "knn"): 0.9,
        ("simclr", "ssd"): 0.8,
        ("scratch", "knn"): 0.6,
        ("scratch", "ssd"): 0.4,
    }
    for seed in (0, 1):
        for stage, detector in (("posthoc", "knn"), ("ssd", "ssd"), ("ssdk", "ssdk")):
            models = {
                model: {
                    detector: {
                        s: metrics(values.get((model, detector), 0.7) + 0.02 * seed + 0.01 * (s == "blobs"))
                        for s in OOD
                    }
                }
                for model in ("simclr", "scratch")
            }
            save_json(tmp_path / f"results/{stage}/{seed}.json", {"models": models, "chosen": {}})
            write_scores(tmp_path / f"scores/{stage}/{seed}.safetensors", [f"{m}.{detector}" for m in models])
        probes = {"knn": {"accuracy": 0.9 + 0.02 * seed, "k": 5}, "linear": {"accuracy": 0.5}}
        save_json(tmp_path / f"results/probe/{seed}.json", {"models": {"simclr": probes, "scratch": probes}})
    ensemble = {"leaveout_wrn": {"eloc": {s: metrics(0.99) for s in OOD}}}
    save_json(
        tmp_path / "results/ensemble/wrn-margin.json",
        {"models": ensemble, "accuracy": {"leaveout_wrn": 0.97}},
    )
    write_scores(tmp_path / "scores/ensemble/wrn-margin.safetensors", ["leaveout_wrn.eloc"])
    save_text(tmp_path / "curves/simclr-0.csv", "epoch,loss,knn\n1,2.0,\n2,1.5,0.5\n3,1.2,\n4,1.0,0.9\n")
    lines = [f"  {name}: {{role: {role}}}" for name, role in SETS.items()]
    empty = "objectives: [], inits: [], energy_inits: [], energy_modes: [], stochastic_seeds: []"
    empty += ", network_models: []"
    runs = f"runs: {{seeds: [0, 1], leaveout_backbones: [wrn], leaveout_losses: [margin], {empty}}}"
    save_text(tmp_path / "params.yaml", "sets:\n" + "\n".join(lines) + f"\n{runs}\n{OTHERS}\n")

    write_audit(tmp_path / "audit.safetensors")
    for name in ("digits", *OOD, "dusk"):  # image number n is of grey n
        images = np.broadcast_to(np.arange(50, dtype=np.uint8)[:, None, None, None], (50, 1, 4, 4))
        tensors, about = {"test.images": images, "test.labels": LABELS}, {"classes": CLASSES, "size": 4}
        about["splits"] = {"train": 1200, "validation": 40, "test": 50}
        save_tensors(tmp_path / f"sets/{name}.safetensors", tensors, kind="set", metadata=about)

    def summarise(
        *,
        out="metrics",
        id_name="digits",
        models=("simclr", "scratch"),
        margin="0.02",
        alpha="0.1",
        sources=(),
        headline=("simclr", "scratch", "absent"),
        detectors=("ssd", "knn", "msp"),
    ):
        options = {
            "id": id_name,
            "sets": f"{tmp_path}/params.yaml:sets",
            "runs": f"{tmp_path}/params.yaml:runs",
            "models": models,
            "results": f"{tmp_path}/results",
            "scores": f"{tmp_path}/scores",
            "folder": f"{tmp_path}/sets",
            "curves": f"{tmp_path}/curves",
            "audit": f"{tmp_path}/audit.safetensors",
            "margin": margin,
            "alpha": alpha,
            "published": f"{tmp_path}/params.yaml:published",
            "backbone": "resnet",
            "backbones": f"{tmp_path}/params.yaml:backbones",
            "adopted": f"{tmp_path}/params.yaml:models",
            "sources": sources,
            "headline.models": headline,
            "headline.detectors": detectors,
            "out_metrics": f"{tmp_path}/{out}",
            "out_report": f"{tmp_path}/{out}_report",
        }
        arguments: list[str] = []
        for name, value in options.items():
            for part in (value,) if isinstance(value, str) else value:
                arguments += [f"--{name}", part]
        return CliRunner().invoke(main, arguments)

    return summarise
