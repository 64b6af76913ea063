"""Make an embeddings file of vectors that a model elsewhere, e.g. CLIP, gave for the images and class names.

    python -m sslood.commands.vectors --vectors FOLDER --params params.yaml --name clip
        --out data/embeddings/0/clip.safetensors

FOLDER holds SET.SPLIT.npy, .safetensors or .parquet, a vector for each image, for the sets of --params (their
role says which splits), with labels and logits where they are known: columns or tensors of that file, or
SET.SPLIT.labels.npy and SET.SPLIT.logits.npy. For MCM and NegLabel it also holds labels.npy and
negatives.npy, text vectors of the classes and of other words. Then `python -m stages.posthoc` gives the
model's rows: see docs/vectors.md. Takes seconds.
"""

from pathlib import Path

import click

from sslood.cli.command import ANEW, Command, done
from sslood.cli.output import OutputFile
from sslood.core.errors import InputError
from sslood.core.files import save_tensors
from sslood.core.settings import read_section
from sslood.data.sets.roles.roles import ROLES, names_of_roles, record_role
from sslood.deploy.tables.folder import read_folder
from sslood.nets.inference.embed import shot_pool

SHOTS = 10  # images per class of an OOD set among which SSD_k finds its known ones


@click.command(cls=Command, again=ANEW)
@click.option("--vectors", required=True, type=click.Path(path_type=Path), help="Folder of vectors.")
@click.option("--params", required=True, help="Params whose `sets` name the sets and their roles.")
@click.option("--name", required=True, help="Name of the model.")
@click.option("--seed", default=0, show_default=True, help="Seed in whose tables the model stands.")
@click.option("--column", help="Column or tensor of the vectors, if it is not clear; or a pattern: emb_*.")
@click.option("--labels", help="Column or tensor of the labels; by default labels or label.")
@click.option("--logits", help="Column or tensor of a classifier's outputs; by default logits.")
@click.option("--out", required=True, type=OutputFile(), help="Embeddings file: FOLDER/NAME.safetensors.")
def main(
    vectors: Path,
    params: str,
    name: str,
    seed: int,
    column: str | None,
    labels: str | None,
    logits: str | None,
    out: str,
) -> None:
    if Path(out).name != f"{name}.safetensors":
        raise InputError(f"--out {out!r} must end in {name}.safetensors: models are found by name")
    roles = names_of_roles(read_section(f"{params}:sets"), f"{params}:sets")
    id_names = [key for key, role in roles.items() if role == "id"]
    if len(id_names) != 1:
        raise InputError(f"{params}: {len(id_names)} sets have role id; one must")
    splits = {key: ROLES[role].embedded for key, role in roles.items() if ROLES[role].embedded}
    tensors, classes, counts = read_folder(
        vectors, splits, id_names[0], column=column, labels=labels, logits=logits
    )
    for key in splits:
        if ROLES[roles[key]].is_ood:  # a pool for SSD_k, without augmented copies
            index = shot_pool(tensors[f"{key}.test.labels"], SHOTS, seed, key)
            tensors |= {f"{key}.shots.features": tensors[f"{key}.test.features"][index][:, None]}
            tensors |= {f"{key}.shots.index": index}
    sets = {key: {"splits": counts[key], **record_role(roles[key])} for key in splits}
    head = list(range(len(classes))) if any(key.endswith(".logits") for key in tensors) else None
    card = {"name": name, "classes": classes, "head_classes": head}
    about = {"model": name, "seed": seed, "model_metadata": card, "id": id_names[0]}
    save_tensors(out, tensors, kind="embeddings", metadata={**about, "classes": classes, "sets": sets})
    if head is not None and "head.weight" not in tensors:
        click.echo(
            "Note: the logits are not linear in the vectors, so the classifier's weights are not known: "
            "leave out detectors that read them, such as react and vim, or give vectors of the layer before.",
            err=True,
        )
    images = sum(sum(of.values()) for of in counts.values())
    words = sum(len(tensors[key]) for key in tensors if key.startswith("concepts."))
    done(out, f"{images} images of {len(sets)} sets, {words} words, {len(classes)} classes")


if __name__ == "__main__":
    main()
