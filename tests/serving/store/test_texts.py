"""The border of the store: texts that no database can hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advrad.errors import ConfigError
from advrad.serving.records import InspectionRequest
from advrad.serving.store import check_request, source_key
from advrad.serving.store.texts import check_text, clean_file_name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\0b", r"part_id: character 2 is '\x00', which cannot be stored; remove it"),
        ("\udcff", r"part_id: character 1 is '\udcff', which cannot be stored; remove it"),
        ("a" * 10_000, "part_id: has 10000 characters; use at most 200"),
    ],
)
def test_a_text_that_cannot_be_stored_is_refused_before_it_is_queued(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_request(InspectionRequest("screw", b"", part_id=text))
    assert str(error.value) == message


@pytest.mark.parametrize("bad", [{"product": ""}, {"station": "\0"}, {"source": "a path"}, {"product": "p" * 101}])
def test_each_text_of_a_request_is_checked(bad: dict[str, str]) -> None:
    good = InspectionRequest("screw", b"", station="s" * 200, source=source_key("a"))
    check_request(good)
    with pytest.raises(ConfigError, match=f"^{next(iter(bad))}"):
        check_request(InspectionRequest(**{"product": "screw", "picture": b"", **bad}))


@settings(max_examples=40)
@given(st.text(st.characters(codec=None, categories=None)))
def test_a_text_is_kept_as_it_is_or_refused(text: str) -> None:
    storable = len(text) <= 50 and "\0" not in text and not any("\ud800" <= one <= "\udfff" for one in text)
    try:
        assert check_text(text, "note", 50) == text
        taken = True
    except ConfigError:
        taken = False
    assert taken == storable


@settings(max_examples=40)
@given(st.text(st.characters(codec=None, categories=None), max_size=600))
def test_a_file_name_always_becomes_storable(name: str) -> None:
    cleaned = clean_file_name(name)
    assert check_text(cleaned, "file_name", 255) == cleaned
    assert len(cleaned) == min(len(name), 255)
    assert cleaned.isprintable() or not name.isprintable()


@settings(max_examples=40)
@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_different_parts_make_different_sources(first: list[str], second: list[str]) -> None:
    assert (source_key(*first) == source_key(*second)) == (first == second)
