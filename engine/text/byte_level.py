"""The byte-level alphabet of GPT-2 style vocabularies: one printable character for each of 256 bytes.

Printable Latin-1 characters stand for themselves, the other bytes for the code points from 256 on, in order.
"""


def _byte_of_char() -> dict[str, int]:
    spans = [("!", "~"), ("¡", "¬"), ("®", "ÿ")]
    printable = [byte for first, last in spans for byte in range(ord(first), ord(last) + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    rest = [byte for byte in range(256) if byte not in printable]
    alphabet.update({chr(256 + place): byte for place, byte in enumerate(rest)})
    return alphabet


BYTE_OF_CHAR: dict[str, int] = _byte_of_char()
