"""The detectors of the `network` stage: to add one, write its file and add its line here."""

from stages.ood.network.gram import Gram
from stages.ood.network.odin import Odin
from stages.ood.network.rotation import Rotation
from stages.ood.network.rotation_uniform import RotationUniform
from stages.ood.network.rotpred import RotPred

NETWORK = {
    "odin": Odin,
    "gram": Gram,
    "rotation": Rotation,
    "rotation_uniform": RotationUniform,
    "rotpred": RotPred,
}
