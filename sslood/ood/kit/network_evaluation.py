"""What the stage network does with one model: choose, fit, score the test images.

Apart from `evaluation`, so that stages that read embeddings do not depend on how images are prepared.
"""

from collections.abc import Mapping

import numpy as np

from sslood.core.errors import LeftOut
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress, score_together
from sslood.ood.kit.results import Results

NO_TUNING = LeftOut("chooses its settings on a set with role tuning, and there is none")


def evaluate_network(
    model: str,
    network: Network,
    detectors: Mapping[str, NetworkDetector],
    images: Mapping[str, np.ndarray],
    tests: Mapping[str, np.ndarray],
    results: Results,
    progress: Progress,
) -> None:
    """Fit detectors that suit a network, and add their settings, metrics and scores to `results`.

    images: uint8 [N, C, H, W] of each split to fit and choose on ("train", "validation", "tuning"); tests:
    of each test set, the ID set first. Without "tuning" images, detectors that choose on them are left out,
    and so are those whose needs ID train misses, or whose scores are not all finite. `progress` is called
    with the size of each batch.
    """
    fitted: dict[str, NetworkDetector] = {}
    for name, detector in detectors.items():
        try:
            if "tuning" in set(detector.fitted_on) - set(images):
                raise NO_TUNING
            fitted[name] = detector.fit(network, images, progress)
        except LeftOut as reason:
            results.leave_out(reason, model, name)
    scores = {key: score_together(fitted, network, part, progress) for key, part in tests.items()}
    for name, detector in fitted.items():
        try:
            own = {key: found[name] for key, found in scores.items()}
            results.add(model, name, own, on_validation="validation" in detector.learns_from)
        except LeftOut as reason:
            results.leave_out(reason, model, name)
            continue
        results.record_settings(detector.settings, name)
        results.chosen |= {f"{name}.{key}": value for key, value in detector.chosen.items()}
