"""Run a model once over every image set: features, projections and logits for all detectors and probes.

Writes one embeddings file. A quickstart model takes seconds on two CPU cores.
"""

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, setting_options
from sslood.core.files import read_metadata, save_tensors
from sslood.core.machine import machine
from sslood.core.needs import may_be_left_out
from sslood.core.settings import checked, read_section
from sslood.data.images.augment import AugmentSettings
from sslood.nets.inference.embed import EmbedSettings, embed_sets
from sslood.nets.networks.card import check_fits
from sslood.nets.networks.files import load_model


@click.command(cls=StageCommand)
@click.option("--model", required=True, help="Model file.")
@click.option("--sets", required=True, help="FILE:KEY of the sets and their roles.")
@click.option("--sets_dir", required=True, help="Folder of the set files.")
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@click.option("--recipe", required=True, help="FILE:KEY of the augmentation of the shots.")
@click.option("--seed", required=True, type=int, help="Seed of the choice and the copies of the shots.")
@click.option("--out", required=True, help="Embeddings file to write.")
@setting_options(EmbedSettings)
@may_be_left_out("embeddings")
def main(model, sets, sets_dir, id_name, recipe, seed, out, **values):
    settings = read_settings(EmbedSettings, values, where="embed")
    views = checked(AugmentSettings, read_section(recipe), recipe)
    network, card = load_model(model, machine(settings.precision).device)
    check_fits(card, read_metadata(f"{sets_dir}/{id_name}.safetensors", kind="set"), model)
    plan = {"settings": settings, "recipe": views, "seed": seed, "where": model}
    tensors, contents = embed_sets(network, card, read_section(sets), sets_dir, id_name, **plan)
    metadata = {
        "model": card.name, "seed": seed, "model_metadata": read_metadata(model), "id": id_name,
        "classes": card.classes, "recipe": vars(views), "shots": settings.shots, "copies": settings.copies,
        "sets": contents,
    }  # fmt: skip
    save_tensors(out, tensors, kind="embeddings", metadata=metadata)
    images = sum(count for entry in contents.values() for count in entry["splits"].values())
    done(out, f"{images} images of {len(contents)} sets, {card.feature_dim} features each")


if __name__ == "__main__":
    main()
