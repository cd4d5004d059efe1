"""Tests of view names: one canonical name for each view, and errors of one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldblend.errors import UserError
from tta.views.geometry import PLACES
from tta.views.names import (
    VIEWS,
    CpuView,
    Draw,
    check_views,
    describe_views,
    draw_of,
    is_device_view,
    parse_views,
    view_of,
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("none", []),
        ("", []),
        (" ", []),
        ("identity", []),
        ("hflip,identity,hflip", ["hflip"]),
        (" vflip , hflip ", ["vflip", "hflip"]),
        ("scale:1.150,scale:1.15,scale:+1.15e0", ["scale:1.15"]),
        ("scale:2.0,scale:.5", ["scale:2", "scale:0.5"]),
        ("xshift:1e-3,xshift:-0.0,xshift:1e-5", ["xshift:0.001", "xshift:1e-05"]),
        ("rotate:-7", ["rotate:-7"]),
        ("scale:1,rotate:0,gamma:1,crop:1:tl,five:1", []),
        ("hflip * scale:1.150", ["hflip*scale:1.15"]),
        ("identity*hflip*identity,identity*identity", ["hflip"]),
        ("scale:1*scale:1.2", ["scale:1.2"]),
        ("hflip*vflip,vflip*hflip", ["hflip*vflip", "vflip*hflip"]),
        ("five:0.80", [f"crop:0.8:{place}" for place in ("tl", "tr", "bl", "br", "center")]),
        ("five", [f"crop:0.875:{place}" for place in ("tl", "tr", "bl", "br", "center")]),
        (
            "crop:0.8:br,five:0.8",
            [f"crop:0.8:{place}" for place in ("br", "tl", "tr", "bl", "center")],
        ),
        (
            "gamma:2*five:.5",
            [f"gamma:2*crop:0.5:{place}" for place in ("tl", "tr", "bl", "br", "center")],
        ),
        ("ten:1", ["hflip"]),
        ("train:3", ["train#0", "train#1", "train#2"]),
        ("train#1,train:2,train#01", ["train#1", "train#0"]),
        (
            "albu:my pipe.yaml,albu:b/c.yml:2",
            ["albu:my pipe.yaml#0", "albu:b/c.yml#0", "albu:b/c.yml#1"],
        ),
        ("albu:a.yaml#7,albu:a.yaml,albu:a.yaml:1", ["albu:a.yaml#7", "albu:a.yaml#0"]),
    ],
)
def test_names_are_written_in_one_way(text, names):
    assert parse_views(text) == ("identity", *names)
    assert parse_views(",".join(["identity", *names])) == ("identity", *names)


NUMBERS = st.floats(0.5, 0.99).map(str) | st.sampled_from(["0.50", "+0.75", ".625", "7.5e-1"])
FACTORS = st.one_of(
    st.sampled_from(["identity", "hflip", "vflip", "five", "ten"]),
    st.builds(
        "{}:{}".format, st.sampled_from(["scale", "rotate", "gamma", "contrast", "five"]), NUMBERS
    ),
    st.builds("crop:{}:{}".format, NUMBERS, st.sampled_from(list(PLACES))),
)
CPU_NAMES = st.sampled_from(["train:2", "train#5", "albu:x.yaml", "albu:x.yaml:3"])


def tried(text, flag="--tta"):
    """Return the names or None, and the message of the error."""
    try:
        return parse_views(text, flag), ""
    except UserError as error:
        return None, str(error)


@given(st.lists(st.lists(FACTORS, min_size=1, max_size=3).map("*".join) | CPU_NAMES, max_size=4))
@settings(max_examples=150, deadline=None)
def test_canonical_names_stay_as_they_are(items):
    names, message = tried(",".join(items))
    if names is None:
        assert "twice in one product" in message
        return
    assert names[0] == "identity"
    assert len(set(names)) == len(names)
    assert parse_views(",".join(names)) == names
    for name in names:
        assert is_device_view(name) == ("#" not in name)
        assert callable(view_of(name)) if is_device_view(name) else draw_of(name).index < 6


@given(st.text(max_size=30) | st.text("hflipscae:*,#.0123-", max_size=20))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_views_or_an_error_of_one_line(text):
    names, message = tried(text, "--views")
    if names is None:
        assert message.startswith("--views ")
        assert len(message.splitlines()) == 1
        assert len(message) < 400
    else:
        assert parse_views(",".join(names)) == names


def test_draws():
    assert not is_device_view("train#2")
    assert draw_of("train#2") == Draw("train", None, 2)
    assert draw_of("albu:a/b.yaml#11") == Draw("albu", "a/b.yaml", 11)
    assert {entry.name for entry in VIEWS.values() if isinstance(entry, CpuView)} == {
        "train",
        "albu",
    }


def test_names_are_read_without_torch():
    code = (
        "import sys; from tta.views.names import *; parse_views('ten,train:2'); describe_views(); "
    )
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_help_and_page_list_every_view():
    lines = describe_views()
    page = (Path(__file__).parents[2] / "docs" / "tta.md").read_text(encoding="utf-8")
    assert len(lines) == len(VIEWS)
    for line, entry in zip(lines, VIEWS.values(), strict=True):
        assert line.startswith(entry.form)
        assert f"| `{entry.form}` |" in page
        assert f"`{entry.example}`" in page
        assert parse_views(entry.example)


# Errors


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hflop", ["--tta hflop: no such view; did you mean hflip"]),
        ("HFLIP", ["did you mean hflip"]),
        ("upside", ["no such view; there are identity, hflip, vflip, scale"]),
        ("vflip,none", ["--tta none: no such view"]),
        ("hflip*scal:2", ["--tta hflip*scal:2", "no such view as scal:2; did you mean scale"]),
        ("hflip,,vflip", ["--tta hflip,,vflip", "comma"]),
        ("hflip,", ["--tta hflip,", "comma"]),
        ("hflip*", ["--tta hflip*", "one side of *"]),
        ("*", ["--tta *", "one side of *"]),
        ("a\nb\x1b", ["--tta a?b?:"]),
        ("x" * 500, ["...: no such view"]),
        ("scale:" + "9" * 500, ["must be 0.5 to 4"]),
        ("hflip*hflip", ["--tta hflip*hflip", "hflip twice"]),
        ("hflip*ten:0.8", ["hflip twice"]),
        ("hflip:1", ["--tta hflip:1", "takes no value"]),
        ("hflip#1", ["--tta hflip#1", "no draws"]),
        ("scale", ["--tta scale", "F is missing", "scale:1.15"]),
        ("scale:", ["--tta scale:", "F is missing", "scale:1.15"]),
        ("scale:1.1:2", ["--tta scale:1.1:2", "takes 1 value, not 2"]),
        ("scale:0", ["--tta scale:0", "must be 0.5 to 4"]),
        ("scale:1000", ["must be 0.5 to 4"]),
        ("scale:big", ["'big' is not a number", "scale:1.15"]),
        ("scale:nan", ["--tta scale:nan", "'nan' is not a number"]),
        ("scale:inf", ["--tta scale:inf", "'inf' is not a number"]),
        ("scale:1e999", ["F is 1e999"]),
        ("scale:1_0", ["'1_0' is not a number"]),
        ("scale:١", ["is not a number"]),
        ("xshift:1", ["--tta xshift:1", "must be -0.5 to 0.5"]),
        ("rotate:181", ["--tta rotate:181", "must be -180 to 180"]),
        ("gamma:0", ["--tta gamma:0", "must be 0.1 to 10"]),
        ("brightness:-1", ["--tta brightness:-1", "must be 0.1 to 10"]),
        ("contrast:nan", ["--tta contrast:nan"]),
        ("crop:0:tl", ["--tta crop:0:tl", "must be more than 0, up to 1", "crop:0.8:center"]),
        ("crop:1.1:tl", ["must be more than 0, up to 1"]),
        ("crop:0.8", ["--tta crop:0.8", "WHERE is missing", "crop:0.8:center"]),
        (
            "crop:0.8:top",
            ["--tta crop:0.8:top", "no such place as 'top'", "tl, tr, bl, br, center"],
        ),
        ("five:0", ["--tta five:0", "more than 0"]),
        ("ten:x", ["--tta ten:x", "not a number"]),
        ("train", ["--tta train", "N is missing", "train:4"]),
        ("train:0", ["--tta train:0", "from 1 to 100"]),
        ("train:1000000000000", ["from 1 to 100"]),
        ("train:2.5", ["'2.5' is not a whole number"]),
        ("train#", ["--tta train#", "whole number from 0 to 99"]),
        ("train#100", ["from 0 to 99"]),
        ("train:3#1", ["--tta train:3#1", "after #"]),
        (
            "hflip*train:3",
            ["--tta hflip*train:3", "train is drawn from the stored image", "albu:FILE.yaml"],
        ),
        ("albu:x.yaml*hflip", ["albu is drawn from the stored image"]),
        ("albu", ["FILE.yaml is missing"]),
        ("albu:", ["FILE.yaml is missing"]),
        ("albu:pipe", ["'pipe' is not a .yaml file"]),
        ("albu:x.yaml:0", ["from 1 to 100"]),
    ],
)
def test_errors_are_one_line(text, words):
    with pytest.raises(UserError) as caught:
        parse_views(text)
    message = str(caught.value)
    assert message.startswith("--tta ")
    assert len(message.splitlines()) == 1
    assert len(message) < 300
    for word in words:
        assert word in message
    if not text.startswith(("a\n", "xxx")):
        with pytest.raises(UserError, match=r"^--views "):
            parse_views(text, "--views")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("crop:0.001:tl", "leaves no pixel of an image of 64x48 pixels; pass a larger share"),
        ("hflip*crop:0.01:center", "leaves no pixel"),
        ("xshift:0.005", "changes no pixel of an image of 64x48"),
    ],
)
def test_views_that_do_not_fit_the_image_size_are_refused(name, why):
    names = parse_views(f"hflip,{name},train:2")
    with pytest.raises(UserError, match=why) as caught:
        check_views(names, width=64, height=48)
    assert str(caught.value).startswith("--tta ")
    assert len(str(caught.value).splitlines()) == 1
    check_views(names, width=640, height=1001) if "crop" not in name else None


def test_only_a_single_device_view_has_a_function():
    for name in ("five:0.8", "train#0", "nonsense"):
        with pytest.raises(UserError):
            view_of(name)
