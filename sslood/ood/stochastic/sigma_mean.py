"""Mean standard deviation of an image's Gaussian."""

from torch import Tensor

from sslood.ood.kit.detector import Detector, Tensors


class SigmaMean(Detector):
    """mean_d sigma_d: the less certain the embedding, the more OOD.

    Studies of stochastic embeddings have also used the opposite sign. This one is fixed in advance, as the
    usual reading of a variance: an AUROC below 0.5 shows a model that is more certain outside its data.
    """

    reads = ("mu", "log_variance")

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return (0.5 * parts["log_variance"]).exp().mean(1)
