from __future__ import annotations

import pytest

from vqrae.runtimes.outputs import MOST_BYTES, file_name


@pytest.mark.parametrize("name", ["vqrae-tiny", "a", "größe 2.1", "v1.0+cu12", "トークン", "n" * MOST_BYTES])
def test_a_plain_name_passes(name: str) -> None:
    assert file_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../../escaped", "has a '/'"),
        ("/abs", "has a '/'"),
        ("a\\b", r"has a '\\\\'"),
        ("C:x", "has a ':'"),
        ("a\0b", "a control character"),
        ("a\nb", "a control character"),
        ("\x1b[2J", "a control character"),
        ("a\u202eb", "a control character"),
        ("\udce9", "a control character"),
        ("", "empty"),
        (" ", "empty"),
        (".", "begins with a dot"),
        ("..", "begins with a dot"),
        (".staging-0123abcd-x", "begins with a dot"),
        ("-rf", "begins with a dot, a dash"),
        ("a.", "ends with a dot"),
        ("a ", "ends with a dot or a space"),
        ("n" * 129, "longer than 128 bytes"),
        ("é" * 65, "longer than 128 bytes"),
        ("NUL", "a device on Windows"),
        ("com1.tar", "a device on Windows"),
    ],
)
def test_a_name_that_no_file_can_have_everywhere_is_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"{why}.*; a name becomes that of files"):
        file_name(name)
