"""What a backbone is: a file of sslood/nets/backbones, found by its name."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn

from sslood.core.settings import Settings as SettingsBase
from sslood.nets.networks.initialise import he_normal_

PREPARED = 100  # images at a time that `prepare` is given


class Backbone(nn.Module):
    """A network without classifier: normalised images [N, channels, H, W] -> features [N, feature_dim].

    The file sslood/nets/backbones/<name>.py is the backbone <name>. It defines one subclass with a
    constructor `(settings, channels)`, where `settings` are of its class `Settings`: positive integers, or
    words, in the order in which a full name such as "resnet-8-16" lists them. Weights come from torch's
    default generator, which `sslood.nets.networks.build` seeds; that also calls `initialise`. In eval mode no
    layer may mix the images of a batch. Its last spatial map [N, D, h, w] may pass through an nn.Identity
    called `patches`, where `sslood.nets.inference.patches` then reads it.
    """

    Settings: ClassVar[type[SettingsBase]]
    feature_dim: int

    def initialise(self) -> None:
        """Draw the convolutions' weights from a normal distribution of variance 2 / fan-out.

        He et al. 2015, "Delving deep into rectifiers", arXiv:1502.01852.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                he_normal_(module.weight, "fan_out")

    def prepare(self, images: Iterator[Tensor]) -> None:
        """Set what a network that starts from scratch takes from training images, as a rule nothing.

        images: batches of normalised ones [B, C, H, W], which are read as they are taken.
        """
