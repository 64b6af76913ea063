"""The detectors of the `posthoc` stage: to add one, write its file and add its line here."""

from stages.ood.detectors.ash import Ash
from stages.ood.detectors.dice import Dice
from stages.ood.detectors.energy import Energy
from stages.ood.detectors.entropy import Entropy
from stages.ood.detectors.fdbd import Fdbd
from stages.ood.detectors.gen import Gen
from stages.ood.detectors.gmm import Gmm
from stages.ood.detectors.kl_matching import KlMatching
from stages.ood.detectors.knn import Knn
from stages.ood.detectors.mahalanobis import Mahalanobis
from stages.ood.detectors.max_logit import MaxLogit
from stages.ood.detectors.msp import Msp
from stages.ood.detectors.neco import Neco
from stages.ood.detectors.nnguide import Nnguide
from stages.ood.detectors.react import React
from stages.ood.detectors.residual import Residual
from stages.ood.detectors.rmds import Rmds
from stages.ood.detectors.scale import Scale
from stages.ood.detectors.she import She
from stages.ood.detectors.temperature_scaling import TemperatureScaling
from stages.ood.detectors.vim import Vim

DETECTORS = {
    "msp": Msp,
    "max_logit": MaxLogit,
    "energy": Energy,
    "entropy": Entropy,
    "gen": Gen,
    "knn": Knn,
    "mahalanobis": Mahalanobis,
    "rmds": Rmds,
    "temperature_scaling": TemperatureScaling,
    "kl_matching": KlMatching,
    "gmm": Gmm,
    "residual": Residual,
    "vim": Vim,
    "react": React,
    "ash": Ash,
    "scale": Scale,
    "dice": Dice,
    "fdbd": Fdbd,
    "nnguide": Nnguide,
    "neco": Neco,
    "she": She,
}
