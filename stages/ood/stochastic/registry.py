"""The detectors of the `stochastic` stage: to add one, write its file and add its line here."""

from stages.ood.stochastic.bhattacharyya_knn import BhattacharyyaKnn
from stages.ood.stochastic.euclidean_knn import EuclideanKnn
from stages.ood.stochastic.kl_knn import KlKnn
from stages.ood.stochastic.kl_prior import KlPrior
from stages.ood.stochastic.log_prior import LogPrior
from stages.ood.stochastic.reverse_kl_knn import ReverseKlKnn
from stages.ood.stochastic.sigma_mean import SigmaMean
from stages.ood.stochastic.sigma_spread import SigmaSpread

STOCHASTIC = {
    "sigma_mean": SigmaMean,
    "sigma_spread": SigmaSpread,
    "log_prior": LogPrior,
    "kl_prior": KlPrior,
    "kl_knn": KlKnn,
    "reverse_kl_knn": ReverseKlKnn,
    "bhattacharyya_knn": BhattacharyyaKnn,
    "euclidean_knn": EuclideanKnn,
}
