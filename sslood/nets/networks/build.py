"""From a backbone's name and sizes to a network, initialised from a seed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from importlib import import_module

import torch

from sslood.core.discovery import class_named, names_in
from sslood.core.errors import InputError
from sslood.core.seeding import stream_seed
from sslood.core.settings import Settings, checked, read_section
from sslood.nets.networks.backbone import Backbone

BACKBONES = "sslood.nets.backbones"  # named, not imported: a stage depends on the one file that it loads


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """Draw initial weights from the stream ("init", *names) of run `seed`, not from the global generator.

    Networks are built on the CPU, so the weights are the same on every device.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, "init", *names))
        yield


def find_backbone(name: str) -> type[Backbone]:
    """Return the class of the backbone `name`; InputError lists the known ones."""
    return class_named(BACKBONES, name, Backbone, "backbone")


def read_architecture(name: str, where: str) -> str:
    """Return the full name of the backbone `name` with the sizes of the section `where` (FILE:KEY).

    Raises InputError for an unknown backbone or a wrong size.
    """
    return full_name(name, checked(find_backbone(name).Settings, read_section(where), where))


def make_backbone(name: str, settings: Settings, *, channels: int) -> Backbone:
    """Return the backbone `name` with these sizes for images of 1 (grey) or 3 (colour) channels.

    Its weights are drawn from torch's default generator (see `seeded` and `Backbone.initialise`).
    """
    if channels not in (1, 3):
        raise InputError(f"images of {channels} channels; use 1 (grey) or 3 (colour)")
    network = find_backbone(name)(settings, channels)
    network.initialise()
    return network


def full_name(name: str, settings: Settings) -> str:
    """Return the name with its sizes in the order of the fields, e.g. "resnet-8-16".

    Trailing settings that have their default value are left out.
    """
    values = [(field.default, getattr(settings, field.name)) for field in fields(settings)]
    while values and values[-1][0] == values[-1][1]:
        values.pop()
    return "-".join([name, *(str(value) for _, value in values)])


def parse_name(arch: str) -> tuple[str, Settings]:
    """Return (name, settings) of a full name; "resnet18-imagenet" stands for torchvision_resnet-18-imagenet.

    Raises InputError that lists the forms, or says which size is wrong.
    """
    name, *words = re.sub(r"^resnet(\d+)", r"torchvision_resnet-\1", arch).split("-")
    if name not in _known():
        raise InputError(f"unknown architecture {arch!r}; the forms are: {'; '.join(map(_form, _known()))}")
    kind = find_backbone(name).Settings
    if len(words) > len(fields(kind)):
        raise InputError(f"unknown architecture {arch!r}; the form is: {_form(name)}")
    values = {
        field.name: int(word) if word.isdecimal() else word
        for field, word in zip(fields(kind), words, strict=False)
    }
    return name, checked(kind, values, f"architecture {arch!r}")


def build_backbone(arch: str, *, channels: int) -> Backbone:
    """Return the backbone of a full name such as "resnet-8-16"; see `parse_name` and `make_backbone`."""
    name, settings = parse_name(arch)
    return make_backbone(name, settings, channels=channels)


def _known() -> list[str]:
    return names_in(import_module(BACKBONES))


def _form(name: str) -> str:
    kind = find_backbone(name).Settings
    words = [
        f"-<{field.name}>" if field.default is MISSING else f"[-<{field.name}>]" for field in fields(kind)
    ]
    return "".join([name, *words])
