"""The detectors of the `posthoc` stage: to add one, write its file and add its line here."""

from stages.ood.detectors.energy import Energy
from stages.ood.detectors.entropy import Entropy
from stages.ood.detectors.gen import Gen
from stages.ood.detectors.knn import Knn
from stages.ood.detectors.mahalanobis import Mahalanobis
from stages.ood.detectors.max_logit import MaxLogit
from stages.ood.detectors.msp import Msp
from stages.ood.detectors.rmds import Rmds

DETECTORS = {
    "msp": Msp,
    "max_logit": MaxLogit,
    "energy": Energy,
    "entropy": Entropy,
    "gen": Gen,
    "knn": Knn,
    "mahalanobis": Mahalanobis,
    "rmds": Rmds,
}
