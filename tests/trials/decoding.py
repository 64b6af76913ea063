"""Pictures of every depth, shape, size and state of damage, through the stage `download` and `score`.

SSLOOD_TEST_PICTURES names a folder of odd pictures, such as Tests/images of Pillow's source: each is a trial.
"""

import io
import os
import random
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from sslood.commands import score
from sslood.core.files import load_tensors
from stages import download
from tests.data.commands import download_words
from tests.data.pictures import blank_png, deep_png, deep_tiff, write
from tests.trials.kit import Outcome, Trial, Verdict, call, either, refused, taken

TITLE = "pictures: depth, shape, size, damage"
SETTINGS = {
    "size": 16, "channels": 3, "validation": 0.25, "count": 80, "limit": 0, "seed": 0, "test": 0.25
}  # fmt: skip
Run = Callable[[Path], Verdict]
Cases = Iterator[tuple[str, Run]]


def trials(folder: Path) -> Iterator[Trial]:
    """Yield all trials; each works in a folder of its own below `folder`."""
    for group in (
        depths,
        odd_depths,
        squares,
        lines,
        huge,
        heavy,
        limits,
        scans,
        noises,
        mutants,
        scored,
        given,
    ):
        for number, (name, run) in enumerate(group()):
            yield Trial(
                f"{group.__name__}: {name}", partial(_in_folder, folder / group.__name__ / str(number), run)
            )


def _in_folder(folder: Path, run: Run) -> Verdict:
    (folder / "in").mkdir(parents=True)
    try:
        return run(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def convert(
    folder: Path, *more: str, skip: bool = False, environ: dict[str, str] | None = None, **data
) -> Outcome:
    """Run `download` on the pictures of folder/in, writing folder/out."""
    item = {"role": "far", "source": "folder", "folder": str(folder / "in"), "skip_unreadable": skip}
    words = download_words(folder / "out", "mine", item, SETTINGS | data)
    return call(download.main, *words, *more, **(environ or {}))


def images(folder: Path) -> np.ndarray:
    """Return uint8 [N, 3, 16, 16] of folder/out."""
    return load_tensors(folder / "out", kind="set")[0]["test.images"]


# --- depth ------------------------------------------------------------------------------------------


def _files(values: np.ndarray, bits: int) -> Iterator[tuple[str, bytes]]:
    """Yield (ending, file of 16 bit values [16, 16]) in every layout."""
    colour = np.stack([values, values[::-1], values.T], axis=-1)
    clear = np.concatenate([colour, np.full((16, 16, 1), 65535)], axis=-1)
    grey_clear = np.stack([values, np.full((16, 16), 65535)], axis=-1)
    up = values << 16 - bits | values >> max(0, 2 * bits - 16)
    yield "grey.png", deep_png(values)
    yield "colour.png", deep_png(colour)
    yield "alpha.png", deep_png(clear)
    yield "grey-alpha.png", deep_png(grey_clear)
    yield "grey.tif", deep_tiff(values)
    yield "grey-deflated.tif", deep_tiff(values, deflated=True)
    yield "grey-big.tif", deep_tiff(values, order=">")
    yield "colour.tif", deep_tiff(colour)
    yield "colour-big.tif", deep_tiff(colour, order=">")
    yield "colour-deflated.tif", deep_tiff(colour, deflated=True)
    yield "alpha.tif", deep_tiff(clear)
    if bits < 16:
        yield "low.sbit.png", deep_png(values, bits=bits)
        yield "high.sbit.png", deep_png(up, bits=bits)
        head = b"P5 16 16 %d\n" % ((1 << bits) - 1)
        yield "declared.pgm", head + values.astype(">u2").tobytes()


def depths() -> Cases:
    """Pictures of 9 to 16 bits in 16 bit files: a light one and a darker one keep their ratio."""
    for bits in range(9, 17):
        full = (1 << bits) - 1
        light = np.linspace(0, full, 256).round().astype(np.int64).reshape(16, 16)
        dark = light // 2
        for (name, one), (_, other) in zip(_files(light, bits), _files(dark, bits), strict=True):
            yield f"{bits} bits, {name}", partial(_depth, light, dark, full, name, one, other)


def _depth(
    light: np.ndarray, dark: np.ndarray, full: int, name: str, one: bytes, other: bytes, folder: Path
) -> Verdict:
    write(folder / "in" / f"0.{name}", one)
    write(folder / "in" / f"1.{name}", other)

    def check() -> str | None:
        found = images(folder)[:, 0].astype(int)
        wrong = max(
            np.abs(found[row] - values * 255 / full).max() for row, values in enumerate((light, dark))
        )
        return f"off by {wrong:.0f} levels" if wrong > 1.01 else None

    return taken(convert(folder), check)


def odd_depths() -> Cases:
    """Signed pixels, white as 0, transparent values, 12 packed bits, a dark picture among light ones."""
    ramp = np.linspace(0, 4095, 256).round().astype(np.int64).reshape(16, 16)
    packed = "".join(format(value, "012b") for value in ramp.ravel())
    bits = bytes(int(packed[start : start + 8], 2) for start in range(0, len(packed), 8))
    for name, content, expected in (
        ("signed, below 0", deep_tiff(ramp - 2048, signed=True), ramp * 255 / 4095),
        ("signed, above 0", deep_tiff(ramp, signed=True), ramp * 255 / 4095),
        ("signed, big-endian", deep_tiff(ramp - 2048, signed=True, order=">"), ramp * 255 / 4095),
        ("12 packed bits", deep_tiff(ramp, held=12, data=bits), ramp * 255 / 4095),
        ("white is 0", deep_tiff(ramp, photometric=0), 255 - ramp * 255 / 4095),
        ("a transparent value", deep_png(ramp, clear=4095), ramp * 255 / 4095),
        ("a transparent black", deep_png(ramp, clear=0), np.where(ramp == 0, 255, ramp * 255 / 4095)),
    ):
        yield name, partial(_one_depth, content, expected)
    yield "a sliver of the range", _sliver
    for bits_given in range(8, 17):
        yield f"{bits_given} bits given", partial(_given_bits, ramp, bits_given)


def _one_depth(content: bytes, expected: np.ndarray, folder: Path) -> Verdict:
    write(folder / "in" / ("a.png" if content[:4] == b"\x89PNG" else "a.tif"), content)

    def check() -> str | None:
        wrong = np.abs(images(folder)[0, 0].astype(int) - expected).max()
        return f"off by {wrong:.0f} levels" if wrong > 1.01 else None

    return taken(convert(folder), check)


def _sliver(folder: Path) -> Verdict:
    write(folder / "in" / "dark.png", deep_png(np.arange(256).reshape(16, 16) % 30))
    write(folder / "in" / "light.png", deep_png(np.arange(256).reshape(16, 16) * 256))
    done = convert(folder)
    said = "dark.png" in done.output and "light.png" not in done.output
    return taken(done, lambda: None if said else f"not said: {done.output}")


def _given_bits(ramp: np.ndarray, bits: int, folder: Path) -> Verdict:
    write(folder / "in" / "a.png", deep_png(ramp))
    expected = (ramp * 255 / ((1 << bits) - 1)).clip(0, 255)

    def check() -> str | None:
        wrong = np.abs(images(folder)[0, 0].astype(int) - expected).max()
        return f"off by {wrong:.0f} levels" if wrong > 1.01 else None

    return taken(convert(folder, "--bits", str(bits)), check)


# --- shape and size ---------------------------------------------------------------------------------


def squares() -> Cases:
    """The three ways to a square, of pictures of many shapes, against Pillow's own resizing."""
    for shape in ((128, 16), (16, 128), (48, 32), (49, 32), (33, 32), (16, 16), (7, 5), (5, 300), (300, 2)):
        for square in ("crop", "pad", "squash"):
            yield f"{square} of {shape[0]} x {shape[1]}", partial(_square, shape, square)


def _square(shape: tuple[int, int], square: str, folder: Path) -> Verdict:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*shape[::-1], 3), np.uint8))
    picture.save(folder / "in" / "a.png")
    done = convert(folder, *(() if square == "crop" else ("--square", square)))
    loses = square == "crop" and max(shape) > 1.5 * min(shape)

    def check() -> str | None:
        how = (Image.Resampling.BILINEAR,)
        if square == "squash" or shape[0] == shape[1]:
            expected = picture.resize((16, 16), *how)
        else:
            scale = 16 / (min(shape) if square == "crop" else max(shape))
            size = [max(16 if square == "crop" else 1, round(length * scale)) for length in shape]
            expected = Image.new("RGB", (16, 16))
            places = [(16 - length) // 2 if length < 16 else -((length - 16) // 2) for length in size]
            expected.paste(picture.resize((size[0], size[1]), *how), (places[0], places[1]))
        if not np.array_equal(images(folder)[0].transpose(1, 2, 0), np.asarray(expected)):
            return "other pixels"
        return None if ("more than a third" in done.output) == loses else f"loss: {done.output}"

    return taken(done, check)


def lines() -> Cases:
    """Pictures a few pixels wide, whose enlarging would take all memory."""
    for shape in ((100_000, 1), (1, 100_000), (5_000_000, 1), (1, 1_000_000), (2, 700_000), (60_000, 3)):
        for size in (16, 32, 224, 1024):
            for square in ("crop", "pad", "squash")[: 3 if size == 224 else 1]:
                extra = () if square == "crop" else ("--square", square)
                yield f"{shape[0]} x {shape[1]} to {size}, {square}", partial(_line, shape, size, extra)


def _line(shape: tuple[int, int], size: int, extra: tuple[str, ...], folder: Path) -> Verdict:
    write(folder / "in" / "line.png", blank_png(*shape))
    return taken(convert(folder, *extra, size=size), lambda: "not black" if images(folder).any() else None)


def _header(kind: str, width: int, height: int) -> bytes:
    """Return a small file that promises a picture of this size."""
    out = io.BytesIO()
    small = Image.new("RGB", (8, 8)) if kind != "gif" else Image.new("P", (8, 8))
    small.save(out, kind)
    content = bytearray(out.getvalue())
    if kind == "bmp":
        content[18:26] = struct.pack("<ii", width, height)
    elif kind == "gif":
        content[6:10] = struct.pack("<HH", width, height)
    elif kind == "tga":
        content[12:16] = struct.pack("<HH", width, height)
    elif kind == "jpeg":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", height, width)
    elif kind == "tiff":
        for tag, value in ((256, width), (257, height)):
            place = content.index(
                struct.pack("<HH", tag, 4)
                if struct.pack("<HH", tag, 4) in content
                else struct.pack("<HH", tag, 3)
            )
            content[place : place + 12] = struct.pack("<HHII", tag, 4, 1, value)
    elif kind == "ppm":
        return b"P6 %d %d 255\n" % (width, height) + bytes(content[11:])
    return bytes(content)


def huge() -> Cases:
    """More pixels than the limit, said before they are decoded."""
    for kind in ("bmp", "gif", "tga", "jpeg", "tiff", "ppm"):
        for width, height in ((14_000, 14_000), (60_000, 60_000), (9_000, 9_000)):
            name = f"a.{kind}"
            content = partial(_header, kind, width, height)
            yield f"{kind} of {width} x {height}", partial(_huge, name, content, width * height)
    for kind, depth in ((0, 1), (0, 16), (2, 8), (3, 8), (4, 8), (6, 16)):
        content = partial(blank_png, 14_000, 14_000 if depth == 1 else 6_000, kind, depth)
        pixels = 14_000 * (14_000 if depth == 1 else 6_000)
        yield f"png of kind {kind}, {depth} bits", partial(_huge, "a.png", content, pixels)
    yield "a file of a terabyte", _terabyte
    yield "skipped by name", _skipped


def _huge(name: str, content: Callable[[], bytes], pixels: int, folder: Path) -> Verdict:
    write(folder / "in" / name, content())
    return refused(convert(folder), name, f"{pixels / 1e6:,.1f} megapixels, more than the", "MEGAPIXELS")


def _terabyte(folder: Path) -> Verdict:
    with open(folder / "in" / "a.png", "wb") as file:
        file.truncate(1 << 40)
    return refused(convert(folder), "a.png", "256 MB")


def _skipped(folder: Path) -> Verdict:
    write(folder / "in" / "huge.png", blank_png(14_000, 14_000, depth=1))
    write(folder / "in" / "small.png", blank_png(14, 14))
    done = convert(folder, skip=True)
    return taken(done, lambda: None if "huge.png" in done.output else f"not named: {done.output}")


def heavy() -> Cases:
    """As much as is allowed: within a gigabyte and ten seconds."""
    for kind, depth in ((0, 8), (2, 8), (3, 8), (6, 8), (0, 16)):
        side = 7_990 if depth == 8 else 5_600
        yield (
            f"png of kind {kind}, {depth} bits",
            partial(_heavy, partial(blank_png, side, side, kind, depth)),
        )


def _heavy(content: Callable[[], bytes], folder: Path) -> Verdict:
    write(folder / "in" / "a.png", content())
    return either(convert(folder), "a.png")


def limits() -> Cases:
    """The limit can be raised and lowered, and a wrong value is named."""
    for text in ("0", "-3", "x", "nan", "1e9", "64MB"):
        yield f"limit {text!r}", partial(_wrong_limit, text)
    for limit, pixels in (("1.5", 2_000_000), ("3", 4_000_000), ("70", 72_000_000)):
        yield f"above a limit of {limit}", partial(_at_limit, limit, pixels, False)
    for limit, pixels in (("3", 2_000_000), ("5", 4_000_000), ("80", 72_000_000)):
        yield f"within a limit of {limit}", partial(_at_limit, limit, pixels, True)


def _wrong_limit(text: str, folder: Path) -> Verdict:
    write(folder / "in" / "a.png", blank_png(2000, 1000))
    return refused(convert(folder, environ={"SSLOOD_MEGAPIXELS": text}), "SSLOOD_MEGAPIXELS", repr(text))


def _at_limit(limit: str, pixels: int, fits: bool, folder: Path) -> Verdict:
    write(folder / "in" / "a.png", blank_png(2000, pixels // 2000, depth=1))
    done = convert(folder, environ={"SSLOOD_MEGAPIXELS": limit})
    return taken(done) if fits else refused(done, "a.png", "megapixels", limit)


def scans() -> Cases:
    """Progressive JPEG files whose scans pass over all pixels again and again."""
    for count in (500, 5_000, 50_000):
        for side in (2_000, 4_000):
            yield f"{count} scans of {side} x {side}", partial(_scans, count, side)


def _scans(count: int, side: int, folder: Path) -> Verdict:
    out = io.BytesIO()
    Image.new("L", (side, side)).save(out, "jpeg", progressive=True)
    content = out.getvalue()
    last = content.rindex(b"\xff\xda")
    write(folder / "in" / "a.jpg", content[:last] + content[last:-2] * count + content[-2:])
    return refused(convert(folder), "a.jpg", "scans")


# --- damage -----------------------------------------------------------------------------------------


def _named(done: Outcome, *names: str) -> str | None:
    """Return the first line of the output that is about a picture and does not name it."""
    about_pictures = done.output.partition("\nset   too few")[0]  # then: what the set is too small for
    for line in about_pictures.splitlines():
        if line and not line.startswith(("Wrote", "Error:")) and not any(name in line for name in names):
            return f"unnamed: {line}"
    return None


def noises() -> Cases:
    """What decoders say of pictures that they take all the same: with the name, or not at all."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0e\x01\x02\0\xff\0\0\0\xff\xff\0\0"
    for kind in ("jpeg", "png", "webp", "tiff"):
        for skip in (False, True):
            yield f"{kind} with broken EXIF, skip {skip}", partial(_noise_exif, kind, exif, skip)
    for compression in ("group3", "group4", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        for seed in range(6):
            yield f"damaged {compression}, {seed}", partial(_noise_tiff, compression, seed)


def _noise_exif(kind: str, exif: bytes, skip: bool, folder: Path) -> Verdict:
    picture = Image.new("RGB", (20, 20), (1, 2, 3))
    if kind == "tiff":
        out = io.BytesIO()
        picture.save(out, kind)
        content = bytearray(out.getvalue())
        content[content.index(struct.pack("<H", 273)) + 2 :][:2] = b"\x0c\0"
        place = content.index(struct.pack("<HH", 296, 3)) if struct.pack("<HH", 296, 3) in content else 10
        content[place : place + 12] = struct.pack("<HHII", 296, 2, 255, 65000)
        write(folder / "in" / "odd.tif", bytes(content))
    else:
        picture.save(folder / "in" / f"odd.{kind}", kind, exif=exif)
    Image.new("L", (20, 20)).save(folder / "in" / "plain.png")
    done = convert(folder, skip=skip)
    return either(done, "odd.", check=lambda: _named(done, "odd."))


def _noise_tiff(compression: str, seed: int, folder: Path) -> Verdict:
    rng = random.Random(seed)
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64), np.uint8)
    picture = Image.fromarray(pixels > 128 if compression.startswith("group") else pixels)
    out = io.BytesIO()
    picture.save(out, "tiff", compression=compression)
    content = bytearray(out.getvalue())
    for _ in range(12):
        content[rng.randrange(8, len(content) - 150)] = rng.randrange(256)
    write(folder / "in" / "odd.tif", bytes(content))
    Image.new("L", (20, 20)).save(folder / "in" / "plain.png")
    done = convert(folder, skip=seed % 2 == 0)
    return either(done, "odd.tif", check=lambda: _named(done, "odd.tif"))


MUTATED = {
    "png": {}, "jpeg": {"quality": 80}, "webp": {"lossless": True}, "gif": {}, "bmp": {}, "ppm": {},
    "tga": {}, "tiff": {}, "jpeg2000": {}, "avif": {}, "ico": {}, "dds": {}, "sgi": {}, "pcx": {},
    "qoi": {}, "icns": {},
}  # fmt: skip
ENDINGS = {"jpeg": "jpg", "tiff": "tif", "jpeg2000": "jp2"}


def mutants() -> Cases:
    """Files of every format with bytes changed, cut, doubled or filled."""
    for kind, options in MUTATED.items():
        out = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(out, kind, **options)
        for seed in range(26):
            yield f"{kind}, {seed}", partial(_mutant, ENDINGS.get(kind, kind), out.getvalue(), seed)


def _mutated(content: bytes, seed: int) -> bytes:
    rng, data = random.Random(seed), bytearray(content)
    kind = ("head", "byte", "cut", "doubled", "filled", "zeroed")[seed % 6]
    start = rng.randrange(len(data))
    if kind == "head":
        for _ in range(1 + seed % 5):
            data[rng.randrange(min(64, len(data)))] = rng.randrange(256)
    elif kind == "byte":
        for _ in range(1 + seed):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "cut":
        del data[start:]
    elif kind == "doubled":
        data[start:start] = data[start : start + 200]
    elif kind == "filled":
        data[start : start + 16] = b"\xff" * 16
    else:
        data[start : start + 40] = bytes(40)
    return bytes(data)


def _mutant(ending: str, content: bytes, seed: int, folder: Path) -> Verdict:
    name = f"mutant.{ending}"
    write(folder / "in" / name, _mutated(content, seed))
    Image.new("L", (20, 20)).save(folder / "in" / "plain.png")
    if seed % 2:
        done = convert(folder, skip=True)
        return taken(done, lambda: _said_of(folder, done, name))
    done = convert(folder)
    return either(done, name, check=lambda: _said_of(folder, done, name))


def _said_of(folder: Path, done: Outcome, name: str) -> str | None:
    """Return what is wrong if a picture is not taken, and neither named nor counted with a reason."""
    mentioned = name in done.output or "not taken" in done.output
    if wrong := _named(done, name, "not taken"):
        return wrong
    return None if mentioned or len(images(folder)) == 2 else f"not mentioned: {done.output}"


# --- the scorer, and pictures of others ---------------------------------------------------------------


def scored() -> Cases:
    """`score` says the same of pictures as `download`."""
    ramp = np.linspace(0, 4095, 64).round().astype(np.int64).reshape(8, 8)
    for name, content, words in (
        ("line.png", blank_png(100_000, 1), ()),
        (
            "huge.png",
            blank_png(14_000, 14_000, depth=1),
            ("huge.png", "196.0 megapixels", "SSLOOD_MEGAPIXELS"),
        ),
        ("deep.png", deep_png(ramp), ("deep.png", "sliver")),
        ("long.png", blank_png(64, 8), ("long.png", "more than a third")),
        ("text.png", b"no picture", ("text.png",)),
        ("cut.png", blank_png(100, 100)[:60], ("cut.png",)),
    ):
        for skip in (False, True):
            yield f"{name}, skip {skip}", partial(_scored, name, content, words, skip)


def _scored(name: str, content: bytes, words: tuple[str, ...], skip: bool, folder: Path) -> Verdict:
    from tests.kit.detector import write_detector

    file = folder.parents[1] / "detector" / "d.safetensors"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        with redirect_stdout(io.StringIO()):
            write_detector(file.parent)
    write(folder / "in" / name, content)
    Image.new("L", (8, 8)).save(folder / "in" / "plain.png")
    out = folder / "s.csv"
    given = ["--detector", file, "--images", folder / "in", "--out", out, *(["--skip_unreadable"] * skip)]
    done = call(score.main, *given)
    missing = [word for word in words if word not in done.output]
    return either(done, name, check=lambda: f"not said: {missing}: {done.output}" if missing else None)


def given() -> Cases:
    """Each file of the folder that SSLOOD_TEST_PICTURES names: taken, or listed by reason."""
    root = os.environ.get("SSLOOD_TEST_PICTURES")
    if find_spec("pillow_heif") is not None:  # the judge below opens what the commands open
        import_module("pillow_heif").register_heif_opener()
    for path in sorted(Path(root).rglob("*")) if root else ():
        if path.is_file():
            yield path.relative_to(root or "").as_posix(), partial(_given, path)


def _given(path: Path, folder: Path) -> Verdict:
    name = f"given{path.suffix}"
    shutil.copyfile(path, folder / "in" / name)
    Image.new("L", (20, 20)).save(folder / "in" / "plain.png")
    done = convert(folder, skip=True, size=64)

    def check() -> str | None:
        wrong = _said_of(folder, done, name)
        if wrong or len(images(folder)) < 2:
            return wrong
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                wide = np.unique(np.asarray(picture)) if picture.mode.startswith("I") else np.empty(0)
        levels = len(np.unique(images(folder)[0]))
        few = levels < min(16, len(wide)) and "sliver" not in done.output
        return f"{levels} levels of {len(wide)}" if few else None

    return taken(done, check)
