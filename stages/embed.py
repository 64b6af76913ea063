"""Run a model once over every image set: features, logits and projections for all detectors and probes.

Writes one embeddings file. A quickstart model takes seconds on two CPU cores.
"""

import click

from sslood.cli.command import StageCommand, done
from sslood.core.files import read_metadata, save_tensors
from sslood.core.machine import machine
from sslood.core.settings import checked, read_section, strict
from sslood.data.images.augment import Recipe
from sslood.nets.inference.embed import EmbedOptions, embed_sets
from sslood.nets.networks.files import check_fits, load_model


@click.command(cls=StageCommand)
@click.option("--model", required=True, help="Model file.")
@click.option("--sets", required=True, help="FILE:KEY of the sets and their roles.")
@click.option("--sets_dir", required=True, help="Folder of the set files.")
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@click.option("--recipe", required=True, help="FILE:KEY of the augmentation of the shots.")
@click.option("--batch_size", required=True, type=int)
@click.option("--shots", required=True, type=int, help="Pool of shots per class, or in all without labels.")
@click.option("--copies", required=True, type=int, help="Augmented copies of a shot.")
@click.option("--seed", required=True, type=int, help="Seed of the choice and the copies of the shots.")
@click.option("--out", required=True, help="Embeddings file to write.")
def main(model, sets, sets_dir, id_name, recipe, seed, out, **section):
    options = strict(EmbedOptions, section, "embed")
    views = checked(Recipe, read_section(recipe), recipe)
    here = machine()
    network, meta = load_model(model, here.device)
    check_fits(meta, read_metadata(f"{sets_dir}/{id_name}.safetensors", kind="set"), model)
    tensors, described = embed_sets(
        network,
        meta,
        read_section(sets),
        sets_dir,
        id_name,
        options=options,
        recipe=views,
        seed=seed,
        what=model,
    )
    metadata = {"model": meta["name"], "seed": seed, "model_metadata": meta, "id": id_name}
    classes = {
        "classes": meta["classes"],
        "recipe": vars(views),
        "shots": options.shots,
        "copies": options.copies,
    }
    save_tensors(out, tensors, kind="embeddings", metadata={**metadata, **classes, "sets": described})
    images = sum(n for entry in described.values() for n in entry["splits"].values())
    done(out, f"{images} images of {len(described)} sets, {meta['feature_dim']} features each")


if __name__ == "__main__":
    main()
