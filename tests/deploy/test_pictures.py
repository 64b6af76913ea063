"""What `score` reads and writes: folders, lists, odd names, and the rows of a run that ended early."""

import csv
import errno
import os

import pytest
from PIL import Image

from sslood.cli.command import Terminated
from sslood.commands import score
from sslood.core.names import original, path_cell
from sslood.deploy import scorer
from sslood.deploy.scorer import Decisions, Deployed
from tests.kit.detector import write_detector
from tests.kit.small import call

NAMES = [
    b"\xff\xfe.png",
    b"a\r\nb.png",
    b"\x1b[2J.png",
    b"=cmd|' -C calc'!A0.png",
    b"-1+1.png",
    b"plain, 100%.png",
]


def decide(deployed, images):
    """Score = the first pixel; OOD above 100."""
    values = images[:, 0, 0, 0].astype(float)
    return Decisions(values, 1 / (1 + values), values > 100, ["=class"] * len(values))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return write_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture
def scored(tmp_path, monkeypatch, capsys, detector):
    """Run the command with a scorer that looks at one pixel; return (status, rows, what it says)."""
    monkeypatch.setattr(Deployed, "decide", decide)
    monkeypatch.setattr(scorer, "_check_answers", lambda *args: None)

    def run(images, **options):
        status = call(score.main, detector=detector, images=images, out=tmp_path / "s.csv", **options)
        said = "".join(capsys.readouterr())
        if status:
            return status, [], said
        with open(tmp_path / "s.csv", newline="", encoding="utf-8") as file:
            return status, list(csv.DictReader(file)), said

    return run


def paint(folder, *names):
    folder.mkdir(exist_ok=True)
    for red, name in enumerate(names):
        Image.new("L", (8, 8), red).save(folder / os.fsdecode(name), "png")


def test_names_travel_without_loss_and_without_orders(tmp_path, scored):
    paint(tmp_path / "in", *NAMES)
    status, rows, said = scored(tmp_path / "in", html=tmp_path / "page.html")
    assert status == 0 and len(rows) == len(NAMES)
    assert {os.fsencode(original(row["path"])): float(row["score"]) for row in rows} == dict(
        zip(NAMES, map(float, range(len(NAMES))), strict=True)
    )
    for text in (tmp_path / "s.csv").read_text(encoding="utf-8").splitlines():
        assert text.isprintable() and text[0] not in "=+-@"
    assert rows[0]["predicted_class"] == "%3Dclass"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "%FF%FE.png" in page and "\x1b" not in page
    (tmp_path / "s.csv").rename(tmp_path / "list.csv")
    again = scored(
        tmp_path / "list.csv"
    )  # the table is a list, whose paths are those of the pictures' folder
    assert again[0] == 1 and "cannot be read" in again[2]
    (tmp_path / "list.csv").rename(tmp_path / "in" / "list.csv")
    status, again, _ = scored(tmp_path / "in" / "list.csv")
    assert status == 0 and [row["score"] for row in again] == [row["list_score"] for row in again]
    assert [row["path"] for row in again] == [row["path"] for row in rows]


def test_a_list_is_scored_in_its_order_with_its_columns(tmp_path, scored):
    paint(tmp_path / "in", "a.png", "b.png", "c.png")
    (tmp_path / "list.csv").write_text("path,label,camera,score\nin/c.png,x,-5,1\nin/a.png,y,=1+1,2\n")
    status, rows, said = scored(tmp_path / "list.csv", html=tmp_path / "page.html")
    assert status == 0 and "of 2 images" in said
    assert list(rows[0]) == [
        *("path", "score", "p_value", "is_ood", "predicted_class"),
        *("label", "camera", "list_score"),
    ]
    assert [row["path"] for row in rows] == ["in/c.png", "in/a.png"]
    assert [float(row["score"]) for row in rows] == [2, 0]
    assert [row["camera"] for row in rows] == ["-5", "%3D1+1"]
    assert [row["list_score"] for row in rows] == ["1", "2"]
    (tmp_path / "s.csv").rename(tmp_path / "list.csv")  # once more
    status, again, _ = scored(tmp_path / "list.csv")
    assert list(again[0])[5:] == [
        *("list_list_score", "list_p_value", "list_is_ood", "list_predicted_class"),
        *("label", "camera", "list_score"),
    ]
    assert [row["list_score"] for row in again] == ["1", "2"]
    assert [row["camera"] for row in again] == ["-5", "%3D1+1"]
    assert "in/c.png" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("name", ["list.txt", "list.tsv"])
def test_lists_of_other_kinds(tmp_path, scored, name):
    paint(tmp_path / "in", "a.png", "b c.png")
    head = "path\tlabel\n" if name == "list.tsv" else ""
    (tmp_path / name).write_text(f"{head}in/b c.png\tdog\nin/a.png\tcat\n")
    status, rows, _ = scored(tmp_path / name)
    assert status == 0 and [(row["path"], row["label"]) for row in rows] == [
        ("in/b c.png", "dog"),
        ("in/a.png", "cat"),
    ]


def test_a_box_has_the_name_that_its_list_escapes(tmp_path, scored):
    """As a picture has; so that the table of scores is a list, too."""
    names = ["50%25off.png", "=x.png", "100%.png"]
    paint(tmp_path / "in", *names)
    rows = [f"{path_cell(name)},0,0,8,8" for name in names]
    (tmp_path / "in" / "list.csv").write_text("\n".join(["path,x0,y0,x1,y1", *rows]))
    status, rows, _ = scored(tmp_path / "in" / "list.csv", by_image=tmp_path / "i.csv")
    assert status == 0 and [original(row["path"]) for row in rows] == names
    with open(tmp_path / "i.csv", newline="") as file:
        assert [original(row["path"]) for row in csv.DictReader(file)] == names
    (tmp_path / "s.csv").rename(tmp_path / "in" / "again.csv")
    status, again, said = scored(tmp_path / "in" / "again.csv")
    assert status == 0 and [row["path"] for row in again] == [row["path"] for row in rows], said


def test_files_that_are_not_scored_are_counted(tmp_path, scored):
    paint(tmp_path / "in", "a.png", "b.jfif", "c")
    (tmp_path / "in/notes.txt").write_text("notes")
    (tmp_path / "in/d.png").symlink_to("a.png")
    status, rows, said = scored(tmp_path / "in")
    assert status == 0 and [row["path"] for row in rows] == ["a.png", "b.jfif", "c", "d.png"]
    assert "in: 1 no picture (.txt); not taken" in said


def test_rows_that_are_scored_are_kept(tmp_path, scored):
    paint(tmp_path / "in", *(f"{n}.png" for n in range(9)))
    (tmp_path / "in/7.png").write_bytes(b"no picture")
    (tmp_path / "s.csv").write_text("an earlier table\n")
    status, _, said = scored(tmp_path / "in", batch_size=3)
    assert status == 1 and "7.png: cannot be read" in said
    assert f"; the 6 rows scored before it are in {tmp_path}/s.csv.partial" in said
    with open(tmp_path / "s.csv.partial", newline="") as file:
        assert [float(row["score"]) for row in csv.DictReader(file)] == list(range(6))
    assert (tmp_path / "s.csv").read_text() == "an earlier table\n"
    assert scored(tmp_path / "in", skip_unreadable=None)[0] == 0
    assert not (tmp_path / "s.csv.partial").exists()


def test_rows_of_earlier_runs_outlast_the_next_ones(tmp_path, scored):
    """A run begins with the first picture, and may be stopped before it is as far as the one before."""
    paint(tmp_path / "in", *(f"{n}.png" for n in range(9)))
    kept, bad = [], tmp_path / "in/7.png"
    for size in (3, 2, 3):
        bad.write_bytes(b"no picture")
        status, _, said = scored(tmp_path / "in", batch_size=size)
        assert status == 1 and f"are in {tmp_path}/s.csv.partial" in said
        kept.append((tmp_path / "s.csv.partial").read_text())
        moved = f"The rows that an earlier run left in {tmp_path}/s.csv.partial are now in {tmp_path}/s.csv."
        assert (f"{moved}partial.{len(kept) - 1}." in said) == (len(kept) > 1)
    assert scored(tmp_path / "in", skip_unreadable=None)[0] == 0
    left = sorted(tmp_path.glob("s.csv.partial*"))
    assert [path.name for path in left] == [f"s.csv.partial.{number}" for number in (1, 2, 3)]
    assert [path.read_text() for path in left] == kept


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Terminated])
def test_a_run_that_was_stopped_does_not_promise_to_go_on(tmp_path, scored, monkeypatch, stop):
    paint(tmp_path / "in", "a.png")

    def stops(scorer, images):
        raise stop

    monkeypatch.setattr(Deployed, "decide", stops)
    status, _, said = scored(tmp_path / "in")
    assert status in (130, 143) and said.endswith("; run the same command again; it starts over\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_rows_are_kept_whatever_ends_the_run(tmp_path, scored, monkeypatch, error):
    paint(tmp_path / "in", *(f"{n}.png" for n in range(4)))
    seen = []

    def fails(scorer, images):
        seen.append(images)
        if len(seen) == 2:
            raise error
        return decide(scorer, images)

    monkeypatch.setattr(Deployed, "decide", fails)
    if error is KeyboardInterrupt:
        status, _, said = scored(tmp_path / "in", batch_size=2)
        assert status == 130 and "The 2 rows scored so far are in" in said
    else:
        with pytest.raises(RuntimeError):
            scored(tmp_path / "in", batch_size=2)
    assert len((tmp_path / "s.csv.partial").read_text().splitlines()) == 3


def test_rows_are_kept_until_the_table_is_written(tmp_path, scored, monkeypatch):
    paint(tmp_path / "in", "a.png", "b.png")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "s.csv"))

    with monkeypatch.context() as patch:
        patch.setattr(score, "save_table", full)
        status, _, said = scored(tmp_path / "in")
    assert status == 1 and f"The 2 rows scored so far are in {tmp_path}/s.csv.partial" in said
    assert len((tmp_path / "s.csv.partial").read_text().splitlines()) == 3


def test_two_runs_that_write_one_table(tmp_path, scored, monkeypatch):
    """The second one is refused while the first one works, whose rows are all there."""
    paint(tmp_path / "in", "a.png", "b.png")
    others = []

    def meanwhile(deployed, images):
        monkeypatch.setattr(Deployed, "decide", decide)
        others.append(scored(tmp_path / "in"))
        return decide(deployed, images)

    monkeypatch.setattr(Deployed, "decide", meanwhile)
    status, rows, said = scored(tmp_path / "in")
    assert status == 0 and len(rows) == 2, said
    ((status, _, said),) = others
    assert status == 1 and "s.csv.partial: another run is writing it; wait until it is done" in said
    assert scored(tmp_path / "in")[0] == 0 and not (tmp_path / "s.csv.partial").exists()


def test_a_list_is_not_overwritten_by_its_scores(tmp_path, scored):
    paint(tmp_path / "in", "a.png")
    (tmp_path / "s.csv").write_text("path\nin/a.png\n")
    status, _, said = scored(tmp_path / "s.csv")
    assert status == 1 and "--images and --out name one file" in said
    assert (tmp_path / "s.csv").read_text() == "path\nin/a.png\n"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/dev/zero", "is a device or a pipe"),
        ("pipe", "is a device or a pipe"),
        ("a.zip", "is a zip archive; unpack it"),
        ("pictres", "does not exist (did you mean"),
        ("~/in", ""),
        ("notes.txt", "lines `path` or `path label`"),
        ("empty", "no image in it; it is empty"),
    ],
)
def test_places_that_are_no_pictures(tmp_path, scored, monkeypatch, name, words):
    monkeypatch.setenv("HOME", str(tmp_path))
    paint(tmp_path / "in", "a.png")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.zip").write_bytes(b"PK\3\4" + bytes(30))
    (tmp_path / "notes.txt").write_text("notes")
    status, rows, said = scored(name if name[0] in "~/" else tmp_path / name)
    assert status == bool(words) and words in said, said
