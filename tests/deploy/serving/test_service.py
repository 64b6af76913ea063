"""A real client against a real server: the decisions of `score`, under load, with bad input, to the end."""

import base64
import csv
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import httpx
import numpy as np
import pytest
from PIL import Image
from scipy.stats import false_discovery_control

from sslood.commands import score
from sslood.core.batches import batches
from sslood.core.errors import InputError
from sslood.data.sets.convert import converted
from sslood.deploy.pictures import chain_of
from sslood.deploy.scorer import Deployed
from sslood.deploy.serving.running import IDLE
from sslood.nets.inference.extract import extract
from sslood.ood.measures.conformal import conformal_threshold
from tests.deploy.serving.conftest import serving
from tests.kit.small import call

COLUMNS = ("score", "p_value", "is_ood", "predicted_class")


@pytest.fixture(scope="module")
def table(detector, pictures, tmp_path_factory):
    """What `score` says of the folder: name -> row."""
    out = tmp_path_factory.mktemp("table") / "s.csv"
    assert call(score.main, detector=detector, images=pictures, out=out) == 0
    with open(out, newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def files(paths):
    return [("images", (path.name, path.read_bytes())) for path in paths]


def encoded(path):
    return base64.b64encode(path.read_bytes()).decode()


def agree(results, table, *, exactly):
    for found in results:
        row = table[found["name"]]
        assert found["is_ood"] == (row["is_ood"] == "true"), found
        assert found["predicted_class"] == row["predicted_class"] and found["error"] is None
        tolerance = {} if exactly else {"rel": 1e-5}
        assert found["score"] == pytest.approx(float(row["score"]), **(tolerance or {"rel": 0, "abs": 0}))
        assert found["p_value"] == float(row["p_value"])


def test_a_form_gives_what_score_gives_to_the_last_bit(client, pictures, table):
    paths = sorted(pictures.iterdir())
    answer = client.post("/score", files=files(paths))
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [found["name"] for found in results] == [path.name for path in paths]
    agree(results, table, exactly=True)
    assert 0 < sum(found["is_ood"] for found in results) < len(results)
    (photo,) = (found for found in results if found["name"] == "photo.jpg")
    assert "lost to the square crop" in photo["warnings"][0]
    assert answer.json()["alpha"] == 0.05 and answer.json()["fdr"] is None
    assert any("only 100 calibration images" in line for line in answer.json()["warnings"])


def test_base64_and_single_pictures_too(client, pictures, table):
    paths = sorted(pictures.iterdir())[:4]
    entries = [{"name": path.name, "data": encoded(path)} for path in paths]
    results = client.post("/score", json={"images": entries}).json()["results"]
    agree(results, table, exactly=False)
    plain = [encoded(paths[0]), f"data:image/png;base64,{encoded(paths[1])}"]
    bare = client.post("/score", json={"images": plain}).json()["results"]
    assert [found["name"] for found in bare] == ["images[0]", "images[1]"]
    assert [found["p_value"] for found in bare] == [found["p_value"] for found in results[:2]]
    photo = (pictures / "photo.jpg").read_bytes()
    (one,) = client.post("/score", content=photo, headers={"content-type": "image/jpeg"}).json()["results"]
    agree([one | {"name": "photo.jpg"}], table, exactly=False)


def test_a_request_may_have_its_own_rate(client, scorer, pictures):
    sent = files(sorted(pictures.iterdir()))

    def ask(**rates):
        answer = client.post("/score", files=sent, params=rates).json()
        return answer, *(np.array([one[key] for one in answer["results"]]) for key in COLUMNS[:3])

    calibration = scorer.calibrated.calibration
    for alpha in (0.01, 0.3):
        answer, scores, _, is_ood = ask(alpha=alpha)
        assert answer["alpha"] == alpha and "alpha 0.05 only" in " ".join(answer["warnings"])
        np.testing.assert_array_equal(is_ood, scores > conformal_threshold(calibration, alpha).value)
    answer, _, p, is_ood = ask(fdr=0.3)
    assert answer["fdr"] == 0.3 and answer["alpha"] is None and is_ood.any()
    np.testing.assert_array_equal(is_ood, false_discovery_control(p) <= 0.3)


def test_many_clients_at_once_and_each_gets_its_own(scorer, pictures, table):
    """200 pictures of 8 clients; how many share a batch is the machine's affair (see test_batching.py)."""
    paths = sorted(pictures.iterdir())
    jobs = [[paths[(7 * job + k) % len(paths)] for k in range(1 + job % 4)] for job in range(80)]
    images = sum(map(len, jobs))
    with serving(scorer, batch_size=16) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda job: client.post("/score", files=files(job)), jobs))
        health = client.get("/health").json()
    for job, answer in zip(jobs, answers, strict=True):
        results = answer.json()["results"]
        assert [found["name"] for found in results] == [path.name for path in job]
        agree(results, table, exactly=False)
    assert health == {"status": "ok", "images": images, "batches": health["batches"], "requests": 0}
    assert images / 16 <= health["batches"] <= len(jobs)


NOTHING = {"images": []}
BAD = {
    "no picture": (400, "holds no picture", {"json": NOTHING}),
    "an empty body": (400, "no picture", {"content": b"", "headers": {"content-type": "image/png"}}),
    "no JSON": (400, "is not valid JSON", {"content": b"{", "headers": {"content-type": "application/json"}}),
    "bytes": (
        400,
        "is not valid JSON",
        {"content": b"\xff\xfe{", "headers": {"content-type": "application/json"}},
    ),
    "lists": (
        413,
        "more lists or numbers than 64 vectors of the detector's model",
        {
            "content": b'{"vectors": [[]' + b",[]" * 99999 + b"]}",
            "headers": {"content-type": "application/json"},
        },
    ),
    "deep": (
        400,
        "is not valid JSON",
        {"content": b"[" * 49999, "headers": {"content-type": "application/json"}},
    ),
    "a list": (400, "other keys than it may, or no lists", {"json": ["x"]}),
    "another key": (400, "other keys than it may, or no lists", {"json": {"images": ["eA=="], "alpha": 0.1}}),
    "no base64": (400, "images[1]: its data is no base64", {"json": {"images": ["eA==", "§"]}}),
    "a number": (400, "images[0] is neither base64 nor an object", {"json": {"images": [3]}}),
    "a name that is no text": (400, "no text", {"json": {"images": [{"data": "eA==", "name": 3}]}}),
    "an empty picture": (
        422,
        "no decision is possible for 1 of 1 pictures: images[0] cannot be read",
        {"json": {"images": [""]}},
    ),
    "a field": (400, "a field that is no file", {"data": {"a": "b"}, "files": {"x": b"x"}}),
    "no boundary": (
        400,
        "form cannot",
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
    ),
    "a charset of nothing": (
        400,
        "undefined encoding",
        {
            "content": b'--b\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\nabc\r\n--b--',
            "headers": {"content-type": "multipart/form-data; boundary=b; charset=undefined"},
        },
    ),
    "half a form": (
        400,
        "ends before its last boundary",
        {
            "content": b'--b\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\nabc',
            "headers": {"content-type": "multipart/form-data; boundary=b"},
        },
    ),
    "another type": (
        415,
        "cannot take 'text/plain'",
        {"content": b"x", "headers": {"content-type": "text/plain"}},
    ),
    "no type": (415, "the request has no Content-Type; send multipart/form-data", {"content": b"x"}),
    "not a picture": (422, "a.png cannot be read (not an image", {"files": {"images": ("a.png", b"x")}}),
    "too many": (413, "more than the 64 pictures or vectors", {"json": {"images": ["eA=="] * 65}}),
    "too many files": (
        413,
        "more than the 64 pictures or vectors",
        {"files": [("images", ("a", b"x"))] * 65},
    ),
    "vectors without numbers": (
        400,
        "vectors[1] is no list of numbers",
        {"json": {"vectors": [[1.0], [None]]}},
    ),
    "unequal vectors": (
        400,
        "vectors[1] has 2 numbers, and vectors[0] has 1",
        {"json": {"vectors": [[1], [1, 2]]}},
    ),
    "few IDs": (400, "has 1 vector, and not as many ids or logits", {"json": {"vectors": [[1]], "ids": []}}),
    "odd IDs": (400, "neither text nor a whole number", {"json": {"vectors": [[1]], "ids": [[]]}}),
    "too many vectors": (413, "more than the 64 pictures or vectors", {"json": {"vectors": [[1]] * 65}}),
    "a huge number": (400, "too large; send floats", {"json": {"vectors": [[10**400]]}}),
    "narrow vectors": (422, "must have the shape (N, 16)", {"json": {"vectors": [[1, 2]]}}),
    "no vectors": (400, "holds no picture", {"json": {"vectors": []}}),
    "not finite": (
        422,
        "no decision is possible for 1 of 2 vectors: b has NaN or infinite values",
        {"json": {"vectors": [[1.0] * 16, [1e40] * 16], "ids": ["a", "b"]}},
    ),
    "both rates": (422, "give one of them", {"params": {"alpha": 0.1, "fdr": 0.1}}),
    "a small rate": (422, "0.001 needs at least 999", {"params": {"alpha": 0.001}}),
    "a small fdr": (422, "0.001 needs at least 999", {"params": {"fdr": 0.001}}),
    "no rate": (422, "alpha must be above 0 and below 1", {"params": {"alpha": "nan"}}),
    "no fdr": (422, "fdr must be above 0 and below 1", {"params": {"fdr": 1.5}}),
    "a word": (400, "option 'alpha' in the address", {"params": {"alpha": "low"}}),
    "an unknown option": (
        400,
        "unknown option 'alhpa' in the address; known: alpha",
        {"params": {"alhpa": 0.1}},
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_said_in_one_sentence(client, case):
    status, text, sent = BAD[case]
    answer = client.post("/score", **sent)
    assert (answer.status_code, answer.json().keys()) == (status, {"error"}), answer.text
    assert text in answer.json()["error"]
    assert client.get("/health").json()["requests"] == 0


def test_pictures_that_cannot_be_read_can_be_skipped(client, pictures, table, monkeypatch):
    good = sorted(pictures.iterdir())[:2]
    bad = [("images", ("\ud800\x1b[2J#1,1,2,2.png".encode("utf-8", "replace").decode(), b"nothing"))]
    sent = files(good[:1]) + bad + files(good[1:])
    first, second, third = client.post("/score?skip_unreadable=true", files=sent).json()["results"]
    agree([first, third], table, exactly=False)
    assert second["error"].startswith("cannot be read (") and second["score"] is None
    assert "\x1b" not in second["name"] and second["is_ood"] is None
    nothing = client.post("/score?skip_unreadable=true", files=bad)
    assert nothing.status_code == 200 and len(nothing.json()["results"]) == 1
    odd = {"images": [{"name": "\ud800\u202e", "data": encoded(good[0])}]}
    answer = client.post("/score", content=json.dumps(odd), headers={"content-type": "application/json"})
    assert answer.json()["results"][0]["name"] == "%ED%A0%80%E2%80%AE"
    monkeypatch.setenv("SSLOOD_MEGAPIXELS", "1")
    huge = pictures.parent / "huge.png"
    Image.new("L", (2000, 1000)).save(huge)
    answer = client.post("/score", files=files([huge]))
    assert answer.status_code == 422 and "has 2.0 megapixels, more than the 1 that" in answer.json()["error"]


def chunks(count):
    for _ in range(count):
        yield bytes(1 << 16)


def test_uploads_are_bounded(scorer):
    """By the length that is said, by what comes, by time, and by what others send."""
    with serving(scorer, limits={"megabytes": 1, "seconds": 0.3, "requests": 1}) as client:
        kind = {"content-type": "image/png"}
        for content in (bytes(1 << 21), chunks(32)):
            answer = client.post("/score", content=content, headers=kind)
            assert answer.status_code == 413 and "more than the 1 MiB" in answer.json()["error"]
        host, port = client.base_url.host, client.base_url.port
        with socket.create_connection((host, port)) as slow:
            slow.sendall(
                b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nx"
            )
            while not client.get("/health").json()["requests"]:
                time.sleep(0.005)
            busy = client.post("/score", content=b"x", headers=kind)
            assert busy.status_code == 503 and busy.headers["retry-after"] == "1"
            assert slow.recv(65536).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection((host, port)) as rude:
            rude.sendall(
                b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nx"
            )
        while client.get("/health").json()["requests"]:
            time.sleep(0.005)


HEADER = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99\r\n"


@pytest.mark.parametrize(
    "sent", [b"", HEADER, b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"]
)
def test_connections_without_a_request_are_closed(scorer, sent):
    """Silent ones, and those that send a header, or a body after the answer, byte by byte."""
    with serving(scorer, limits={"seconds": 0.5}) as client:
        with socket.create_connection((client.base_url.host, client.base_url.port)) as open_one:
            open_one.settimeout(0.05)
            open_one.sendall(sent)
            for _ in range(100):
                try:
                    if sent:
                        open_one.sendall(b"x")
                    if not open_one.recv(65536):
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            else:
                pytest.fail("it is still open after five seconds")


def test_too_many_connections_get_the_answer_of_a_busy_server(scorer):
    with serving(scorer, limits={"requests": 1, "seconds": 1}) as client:
        place = client.base_url.host, client.base_url.port
        idle = [socket.create_connection(place) for _ in range(IDLE)]
        busy = client.get("/health")
        assert busy.status_code == 503 and busy.headers["retry-after"] == "1"
        assert busy.json() == {"error": "the server has all the work that it takes at a time; try again"}
        time.sleep(1.2)
        assert client.get("/health").status_code == 200  # those that sent nothing are closed
        for one in idle:
            one.close()


def test_other_addresses(client, scorer, detector):
    assert client.get("/health").json()["status"] == "ok"
    about = client.get("/detector").json()
    assert about["detector"] == "knn" and about["classes"] == [str(label) for label in range(8)]
    assert about["alpha"] == 0.05 and about["calibration_images"] == 100
    assert about["threshold"] == scorer.calibrated.threshold.value
    described = client.get("/openapi.json").json()["paths"]["/score"]["post"]
    assert set(described["requestBody"]["content"]) == {"multipart/form-data", "application/json", "image/*"}
    assert [one["name"] for one in described["parameters"]] == ["alpha", "fdr", "skip_unreadable"]
    for method, path, status in [("GET", "/nothing", 404), ("GET", "/score", 405), ("POST", "/health", 405)]:
        answer = client.request(method, path)
        assert answer.status_code == status and "POST /score, GET /detector" in answer.json()["error"]


@dataclass(frozen=True)
class Held(Deployed):
    """A scorer whose network waits until it may go on, and fails for a black image as it is told."""

    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None

    @classmethod
    def of(cls, scorer, error=None):
        return cls(scorer.model, scorer.metadata, scorer.calibrated, error=error)

    def decide(self, images):
        self.begun.set()
        assert self.go_on.wait(10)
        if self.error and (images == 0).all((1, 2, 3)).any():
            raise self.error
        return super().decide(images)


def test_what_has_begun_is_answered_before_it_stops(scorer, pictures, table):
    held, path = Held.of(scorer), pictures / "digit00.png"
    with serving(held) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/score", files=files([path]))
        assert held.begun.wait(10)
        client.stop()
        time.sleep(0.2)
        with pytest.raises(httpx.ConnectError):
            httpx.get(client.base_url.join("/health"))
        assert not waiting.done()
        held.go_on.set()
        agree(waiting.result().json()["results"], table, exactly=False)


def test_one_clients_error_is_not_that_of_those_in_its_batch(scorer, pictures, table):
    black = pictures.parent / "black.png"
    Image.new("L", (8, 8)).save(black)
    for error, status, text in [
        (InputError("too dark"), 422, "too dark"),
        (KeyError("x"), 500, "in its log"),
    ]:
        held = Held.of(scorer, error)
        with serving(held) as client, ThreadPoolExecutor(3) as pool:
            first = pool.submit(client.post, "/score", files=files([pictures / "digit00.png"]))
            assert held.begun.wait(10)
            others = [
                pool.submit(client.post, "/score", files=files([path]))
                for path in (black, pictures / "digit01.png")
            ]
            while client.get("/health").json()["requests"] < 3:
                time.sleep(0.005)
            time.sleep(0.05)
            held.go_on.set()
            for good in (first, others[1]):
                agree(good.result().json()["results"], table, exactly=False)
            bad = others[0].result()
            assert bad.status_code == status and text in bad.json()["error"]
            assert client.get("/health").status_code == 200


def test_vectors_in_place_of_pictures(client, scorer, pictures):
    """The network's own vectors are decided about as their pictures are, by a scorer without it too."""
    paths = sorted(pictures.iterdir())
    chain, statistics = chain_of(scorer.metadata), {key: scorer.metadata[key] for key in ("mean", "std")}
    images = np.stack([converted(path, chain, []) for path in paths])
    found = extract(scorer.model, batches(images, 256), **statistics)
    names = [path.name for path in paths]
    body = {"vectors": found["features"].tolist(), "logits": found["logits"].tolist(), "ids": names}
    expected = client.post("/score", files=files(paths)).json()["results"]
    answer = client.post("/score", json=body).json()
    assert [one | {"warnings": []} for one in expected] == answer["results"]
    with serving(replace(scorer, model=None)) as without:
        assert without.post("/score", json=body).json() == answer
        body["vectors"][1][0] = 1e40
        rows = without.post("/score?skip_unreadable=true", json=body).json()["results"]
        assert rows[1]["error"].startswith("has NaN") and rows[0] == answer["results"][0]
        refused = without.post("/score", files=files(paths[:1]))
        assert refused.status_code == 422 and "was fitted to vectors" in refused.json()["error"]
        assert without.get("/detector").json()["takes"] == "vectors of 16 numbers"
