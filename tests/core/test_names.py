"""Names of files as text: nothing gives orders, nothing is lost."""

import csv
import io
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslood.core.names import cell, original, path_cell, shown


@given(st.binary(max_size=40))
def test_any_name_of_a_file_comes_back(content):
    name = os.fsdecode(content)
    text = path_cell(name)
    assert original(text) == name
    assert text.encode().decode() == text and not set(text[:1]) & set("=@")
    assert not [letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs")]
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerow([text, 1])
    assert next(csv.reader(io.StringIO(file.getvalue(), newline=""))) == [text, "1"]


@pytest.mark.parametrize(
    "name",
    ["cats/0001.jpg", "ümläut 100%.png", "家族.png", "a - b, c; d (1).png", "-5", "1e-3", "👩‍👧.png", "%zz"],
)
def test_ordinary_names_stay_as_they_are(name):
    assert path_cell(name) == name and shown(name) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("=cmd|' /C calc'!A0.png", "%3Dcmd|' /C calc'!A0.png"),
        ("-2+3.png", "%2D2+3.png"),
        ("@SUM(1).png", "%40SUM(1).png"),
        ("a;=1+1.png", "a;%3D1+1.png"),
        ("\uff1d1.png", "%EF%BC%9D1.png"),
        ("a\r\nb.png", "a%0D%0Ab.png"),
        ("\x1b[2J.png", "%1B[2J.png"),
        ("\u202egnp.exe", "%E2%80%AEgnp.exe"),
        (os.fsdecode(b"\xff.png"), "%FF.png"),
        ("%41.png", "%2541.png"),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_what_gives_orders_becomes_percent(name, text):
    assert path_cell(name) == text
    assert cell(text) == text, "of a table that is read and written again"
