"""Run a model once over every image set: features, projections and logits for all detectors and probes.

Writes one embeddings file. A quickstart model takes seconds on two CPU cores.
"""

import click

from sslood.cli.command import StageCommand, done
from sslood.cli.options import read_settings, section_option, setting_options
from sslood.core.files import save_tensors
from sslood.core.needs import may_be_left_out
from sslood.core.settings import read_section
from sslood.data.images.augment import read_recipe
from sslood.nets.inference.embed import EmbedSettings, embed_model


@click.command(cls=StageCommand)
@click.option("--name", help="Name of the model, which its file must hold, with the seed.")
@click.option("--model", required=True, help="Model file.")
@click.option("--sets", required=True, help="FILE:KEY of the sets and their roles.")
@click.option("--sets_dir", required=True, help="Folder of the set files.")
@click.option("--id", "id_name", required=True, help="Name of the ID set.")
@section_option("recipe", "the augmentation of the shots", lambda where, _: read_recipe(where))
@click.option("--seed", required=True, type=int, help="Seed of the choice and the copies of the shots.")
@click.option("--out", required=True, help="Embeddings file to write.")
@setting_options(EmbedSettings, optional=["mirror", "shift"])
@may_be_left_out("embeddings")
def main(name, model, sets, sets_dir, id_name, recipe, seed, out, **values):
    settings = read_settings(EmbedSettings, values, where="embed")
    plan = {"settings": settings, "recipe": read_recipe(recipe), "seed": seed, "name": name}
    tensors, metadata = embed_model(model, read_section(sets), sets_dir, id_name, **plan)
    save_tensors(out, tensors, kind="embeddings", metadata=metadata)
    images = sum(count for entry in metadata["sets"].values() for count in entry["splits"].values())
    width = metadata["model_metadata"]["feature_dim"]
    done(out, f"{images} images of {len(metadata['sets'])} sets, {width} features each")


if __name__ == "__main__":
    main()
