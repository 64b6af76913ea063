"""A small scorer of digits in a file, pictures of a folder, and a real server in a thread."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from PIL import Image

from sslood.core.batches import batches
from sslood.core.files import load_tensors
from sslood.deploy.calibrated import calibrate, make_detector
from sslood.deploy.inputs import Inputs
from sslood.deploy.scorer import load_deployed, save_deployed
from sslood.deploy.serving.app import application
from sslood.deploy.serving.limits import Limits
from sslood.deploy.serving.running import address, listen, server
from sslood.nets.inference.extract import extract
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import restore_model, save_model
from sslood.nets.networks.heads import build_head
from sslood.ood.kit.outputs import Outputs
from sslood.ood.posthoc.knn import KNN
from tests.kit.small import digit_images, model_card


@pytest.fixture(scope="package")
def detector(tmp_path_factory):
    """The file of kNN on an untrained network, calibrated on 100 digits."""
    folder = tmp_path_factory.mktemp("serving")
    with seeded(0):
        modules = {"backbone": build_backbone("resnet-8-4", channels=1), "head": build_head(16, 8)}
    save_model(folder / "m.safetensors", modules, model_card(name="digital", head_classes=list(range(8))))
    arrays, metadata = load_tensors(folder / "m.safetensors", kind="model")
    model, statistics = (
        restore_model(arrays, metadata, "m"),
        {"mean": metadata["mean"], "std": metadata["std"]},
    )
    images, labels = digit_images()
    known = labels < 8
    parts = []
    for rows in (slice(0, 600), slice(600, 700)):
        found = extract(model, batches(images[known][rows], 256), **statistics)
        parts.append(Inputs(Outputs("digits", labels=labels[known][rows], classes=8, **found)))
    knn = {"knn": make_detector("knn", KNN.Settings(k=5), seed=0, device="cpu")}
    calibrated = calibrate(knn, *parts, alpha=0.05)
    about = {key: value for key, value in metadata.items() if key not in ("kind", "format")}
    save_deployed(folder / "d.safetensors", arrays, about, calibrated)
    return folder / "d.safetensors"


@pytest.fixture(scope="package")
def scorer(detector):
    return load_deployed(detector)


@pytest.fixture(scope="package")
def pictures(tmp_path_factory):
    """A folder of digits, noise, and photographs of odd sizes and kinds."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for place, image in enumerate(digit_images()[0][1000:1030]):
        Image.fromarray(image[0]).save(folder / f"digit{place:02}.png")
    for place in range(10):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"noise{place}.png")
    Image.fromarray(rng.integers(0, 256, (40, 90, 3), np.uint8)).save(folder / "photo.jpg")
    Image.fromarray(rng.integers(0, 256, (20, 20, 4), np.uint8)).save(folder / "soft.webp")
    return folder


@contextmanager
def serving(scorer, **changes) -> Iterator[tuple[httpx.Client, threading.Thread]]:
    """Run a real server in a thread; yield a client of it, and what stops it."""
    limits = Limits(**changes.pop("limits", {}))
    app = application(scorer, limits=limits, **changes)
    running, listener = server(app, limits), listen("127.0.0.1", 0)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.005)
        with httpx.Client(base_url=address(listener), timeout=20) as client:
            client.stop = lambda: setattr(running, "should_exit", True)
            yield client
    finally:
        running.should_exit = True
        thread.join(20)
        listener.close()
    assert not thread.is_alive()


@pytest.fixture(scope="package")
def client(scorer):
    with serving(scorer) as client:
        yield client
