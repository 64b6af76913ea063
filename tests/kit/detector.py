"""A small detector file, made as a user makes one."""

from pathlib import Path

from sslood.commands import deploy
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import save_model
from sslood.nets.networks.heads import build_head
from stages import embed
from tests.kit.small import call, model_card, write_params, write_sets


def write_detector(folder: Path) -> Path:
    """Write k nearest neighbours of an untrained network for grey digits of 8x8 pixels; return its file."""
    write_sets(folder)
    with seeded(0):
        modules = {"backbone": build_backbone("resnet-8-4", channels=1), "head": build_head(16, 8)}
    model, embeddings = folder / "digital-0.safetensors", folder / "e" / "digital.safetensors"
    save_model(model, modules, model_card(name="digital", head_classes=list(range(8))))
    params = write_params(folder / "params.yaml")
    status = call(
        embed.main, model=model, sets=f"{params}:sets", sets_dir=folder, id="digits",
        recipe=f"{params}:augment.shots", batch_size=64, precision="float32", shots=2, copies=2, seed=0,
        out=embeddings,
    )  # fmt: skip
    status += call(
        deploy.main, model=model, embeddings=embeddings, detector="knn", alpha=0.05, params=params,
        results=folder / "results", set=["knn.k=5"], out=folder / "d.safetensors",
    )  # fmt: skip
    assert status == 0
    return folder / "d.safetensors"
