"""What is split in C is split as msgspec does it; what msgspec refuses is left to it."""

import json
from types import ModuleType

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

reference = msgspec.json.Decoder(dict[str, msgspec.Raw])

TEXT = st.text() | st.text('ab"\\\n\x7f\u00e9\U0001f600', max_size=80)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
BODY = st.dictionaries(TEXT | st.sampled_from(["model", "messages"]), VALUE, max_size=5)
SPACES = ("", " ", "\n\t\r ")
PIECES = (
    b'{', b'}', b'[', b']', b':', b',', b'"', b'"a":', b'"a"', b'1', b'-', b'0', b'.5', b'e+3', b'E',
    b'true', b'nul', b'l', b' ', b'\t', b'\x01', b'\xff', b'\\n', b'\\x', b'\\u00e9', b'\\ud83d', b'\\ude00',
    b'\\u', b'NaN',
)  # fmt: skip


def taken_apart(fields: dict[str, msgspec.Raw]) -> list[tuple[str, bytes]]:
    return [(name, bytes(value)) for name, value in fields.items()]


def agrees(module: ModuleType, body: bytes) -> bool:
    """Assert that what was split is what msgspec makes of it; return whether it was."""
    found = module.split(body)
    if found is not None:
        assert taken_apart(found) == taken_apart(reference.decode(body))
    return found is not None


@settings(max_examples=500, deadline=None, derandomize=True)
@given(fields=BODY, space=st.sampled_from(SPACES), ascii_only=st.booleans())
def test_bodies_are_split_as_msgspec_does_it(
    top_level: ModuleType, fields: dict[str, object], space: str, ascii_only: bool
) -> None:
    text = json.dumps(fields, ensure_ascii=ascii_only, separators=(space + "," + space, space + ":" + space))
    agrees(top_level, (space + text + space).encode(errors="surrogatepass"))


@settings(max_examples=3000, deadline=None, derandomize=True)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12), wrapped=st.booleans())
def test_nothing_is_taken_that_msgspec_refuses(
    top_level: ModuleType, pieces: list[bytes], wrapped: bool
) -> None:
    body = b"".join(pieces)
    agrees(top_level, b'{"a":%b       }' % body if wrapped else body)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(fields=BODY, place=st.integers(0, 400), byte=st.integers(0, 255), cut=st.booleans())
def test_a_changed_byte_or_a_cut_is_seen(
    top_level: ModuleType, fields: dict[str, object], place: int, byte: int, cut: bool
) -> None:
    body = bytearray(json.dumps(fields).encode())
    place %= len(body)
    body[place] = byte
    agrees(top_level, bytes(body[:place] if cut else body))


@pytest.mark.parametrize("length", [*range(40), 1000])
def test_text_of_any_length_ends_where_its_quote_stands(top_level: ModuleType, length: int) -> None:
    for end in ('",', '\\n",', '\\"x",', '\\u00e9",'):
        text = "x" * length + end
        assert agrees(
            top_level,
            ('{"a":"' + text + '"b":12.5e-3,"messages":[{"content":"' + text + '"n":{}}]}').encode(),
        )


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"mock","messages":[{"role":"user","content":"' + b"What now?\\n" * 1000 + b'"}],"n":1}',
        b'{"prompt":[1,22,333,-4],"stream":true,"stop":null,"n":0,"seed":-0,"a":1e5,"logit_bias":{"5":-1.5E+2}}',
        b'{"prompt":"\xff\xfe","user":"\x7f"}',
        b'{"a":1,"a":2}',
    ],
)  # fmt: skip
def test_plain_bodies_are_split_in_c(top_level: ModuleType, body: bytes) -> None:
    assert agrees(top_level, body)


def test_deep_nesting_is_left_to_msgspec(top_level: ModuleType) -> None:
    assert agrees(top_level, b'{"a":' + b"[" * 60 + b"]" * 60 + b"}")
    assert not agrees(top_level, b'{"a":' + b"[" * 100 + b"]" * 100 + b"}")
    assert top_level.split(b'{"a":' + b"[" * 10_000_000) is None


def test_a_value_outlives_its_body(top_level: ModuleType) -> None:
    long = b'"' + b"x" * 5000 + b'"'
    values = list(top_level.split(b'{"a":%b,"b":7}' % long).values())

    assert [bytes(value) for value in values] == [long, b"7"]
