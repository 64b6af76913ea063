"""The service under load, beside the server that one writes by hand: one picture a request, one at a time.

    python -m benchmarks.serving

CLIENTS send JPEG pictures of 256 px at the same time, one a request, over real connections in this process.
Both servers have the same network (EfficientNet-lite0 at 224 px) and detector (kNN), and read pictures by the
same chain. The peer is FastAPI with a plain function, which runs in its pool of threads, each picture by
itself. Rounds alternate. Takes two minutes on two cores.
"""

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
from fastapi import FastAPI, UploadFile
from PIL import Image
from sklearn.datasets import load_sample_images

from sslood.core.batches import batches
from sslood.data.sets.convert import converted
from sslood.deploy.calibrated import calibrate, make_detector
from sslood.deploy.inputs import Inputs
from sslood.deploy.pictures import chain_of
from sslood.deploy.scorer import Deployed
from sslood.deploy.serving.app import application
from sslood.deploy.serving.limits import Limits
from sslood.deploy.serving.running import address, listen, server
from sslood.nets.adopting.pretrained import default_name, open_pretrained
from sslood.nets.inference.extract import extract
from sslood.nets.networks.files import restore_model
from sslood.ood.kit.outputs import Outputs
from sslood.ood.posthoc.knn import KNN

CLIENTS, COUNT, SIDE, ROUNDS = 16, 128, 256, 5
LIMITS = Limits()


def pictures() -> list[bytes]:
    """Return COUNT patches of scikit-learn's two photographs as JPEG files."""
    photographs, rng, found = load_sample_images().images, np.random.default_rng(0), []
    for number in range(COUNT):
        photograph = photographs[number % 2]
        top, left = (rng.integers(length - SIDE) for length in photograph.shape[:2])
        patch = np.ascontiguousarray(photograph[top : top + SIDE, left : left + SIDE])
        file = io.BytesIO()
        Image.fromarray(patch).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def deployed(contents: list[bytes]) -> Deployed:
    """Return kNN on the packaged network, fitted on half of the pictures and calibrated on the other half."""
    arrays, card = open_pretrained(default_name(), set_name="patches", classes=["patch"])
    metadata = card.metadata()
    model = restore_model(arrays, metadata, "benchmark")
    images = np.stack([converted("patch", chain_of(metadata), [], content) for content in contents])
    found = extract(model, batches(images, 64), mean=metadata["mean"], std=metadata["std"])
    parts = [Inputs(Outputs("patches", features=found["features"][start::2])) for start in (0, 1)]
    knn = {"knn": make_detector("knn", KNN.Settings(k=5), seed=0, device="cpu")}
    return Deployed(model, metadata, calibrate(knn, *parts, alpha=0.05))


def by_hand(scorer: Deployed) -> FastAPI:
    """Return the usual service: a function for one picture."""
    app, chain = FastAPI(), chain_of(scorer.metadata)

    @app.post("/score")
    def score(images: UploadFile) -> dict[str, object]:
        image = converted("upload", chain, [], images.file.read())
        found = scorer.decide(image[None])
        return {"score": float(found.scores[0]), "p_value": float(found.p_values[0])}

    return app


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Yield the address of a server in a thread."""
    serving, listener = server(app, LIMITS), listen("127.0.0.1", 0)
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield address(listener)
    finally:
        serving.should_exit = True
        thread.join()
        listener.close()


def load(place: str, contents: list[bytes]) -> tuple[tuple[float, float], list[float]]:
    """Return seconds for all pictures, by the clock and of CPU time, and of each request."""
    with httpx.Client(base_url=place, timeout=120) as client, ThreadPoolExecutor(CLIENTS) as pool:

        def send(content: bytes) -> float:
            begin = time.perf_counter()
            client.post("/score", files={"images": ("a.jpg", content)}).raise_for_status()
            return time.perf_counter() - begin

        begin, used = time.perf_counter(), time.process_time()
        waits = list(pool.map(send, contents))
        return (time.perf_counter() - begin, time.process_time() - used), waits


def main() -> None:
    contents = pictures()
    scorer = deployed(contents)
    took: dict[str, list[tuple[float, float]]] = {"ours": [], "by hand": []}
    waited: dict[str, list[float]] = {"ours": [], "by hand": []}
    with running(application(scorer)) as ours, running(by_hand(scorer)) as peer:
        for round_ in range(ROUNDS + 1):  # the first warms up
            for name, place in (("ours", ours), ("by hand", peer)):
                seconds, waits = load(place, contents)
                if round_:
                    took[name].append(seconds)
                    waited[name] += waits
    for name, seconds in took.items():
        clock, used = np.median(seconds, axis=0)
        middle, late = np.percentile(waited[name], [50, 95])
        rates = f"median {COUNT / clock:6.1f} pictures/s, CPU {1e3 * used / COUNT:.1f} ms a picture"
        waits = f"a request takes {middle:.2f} s, 95 % at most {late:.2f} s"
        print(f"{name:8} {rates} (n = {ROUNDS} of {COUNT}, {CLIENTS} clients); {waits}")
    ratios = np.array(took["by hand"]) / np.array(took["ours"])
    for place, name in enumerate(("the clock", "CPU time")):
        few, most = ratios[:, place].min(), ratios[:, place].max()
        print(f"ratio by {name} median {np.median(ratios[:, place]):.2f}, {few:.2f} to {most:.2f}")


if __name__ == "__main__":
    main()
