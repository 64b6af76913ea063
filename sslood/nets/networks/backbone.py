"""What a backbone is: a file of sslood/nets/backbones, found by its name."""

from typing import ClassVar

from torch import nn

from sslood.core.settings import Settings as SettingsBase


class Backbone(nn.Module):
    """A network without classifier: normalised images [N, channels, H, W] -> features [N, feature_dim].

    The file sslood/nets/backbones/<name>.py is the backbone <name>. It defines one subclass with a
    constructor `(settings, channels)`, where `settings` are of its class `Settings`: positive integers, or
    words, in the order in which a full name such as "resnet-8-16" lists them. Weights come from torch's
    default generator, which `sslood.nets.networks.build` seeds; that also initialises the convolutions. In
    eval mode no layer may mix the images of a batch. Its last spatial map [N, D, h, w] may pass through an
    nn.Identity called `patches`, where `sslood.nets.inference.patches` then reads it.
    """

    Settings: ClassVar[type[SettingsBase]]
    feature_dim: int
