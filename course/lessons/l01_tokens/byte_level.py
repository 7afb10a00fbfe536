"""The two steps of byte-level BPE that come before and after merging: cutting text into words, and naming bytes.

GPT-2 (Radford et al. 2019, section 2.2, and its encoder.py) introduced both, and SmolLM2 uses them.
One worked example: " né" is the bytes 20 6E C3 A9, written as the four symbols "ĠnÃ©".
"""

from __future__ import annotations

import regex

# English clitics, then letters, digits or other signs with at most one space before them, then white space.
WORD_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def split_words(text: str) -> list[str]:
    """Cut text into the pieces inside which merging happens; joined, they give the text again.

    A space goes with the word behind it: "in 1979, don't" -> ["in", " 1979", ",", " don", "'t"].
    """
    return regex.findall(WORD_PATTERN, text)


def byte_symbols() -> list[str]:
    """One visible character for each of the 256 bytes, by byte value.

    Printable bytes stand for themselves; the 68 others (space, newline, control bytes ...) take the characters from
    U+0100 on, in order: the space, byte 32, is "Ġ".
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


SYMBOLS = byte_symbols()
BYTES = {symbol: byte for byte, symbol in enumerate(SYMBOLS)}


def to_symbols(data: bytes) -> str:
    """Bytes -> as many symbols: b" hi" -> "Ġhi"."""
    return "".join(SYMBOLS[byte] for byte in data)


def to_bytes(symbols: str) -> bytes:
    """Symbols -> bytes, the way back: "Ġhi" -> b" hi". A character that is no byte symbol raises a KeyError."""
    return bytes(BYTES[symbol] for symbol in symbols)
