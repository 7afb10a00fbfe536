"""The hash that MinHash starts from, the same as datasketch's (https://github.com/ekzhu/datasketch, version 2)."""

from __future__ import annotations

import hashlib


def shingle_hash(shingle: str) -> int:
    """A number from 0 to 2**32 - 1 that depends on the text alone, the same in every process and on every machine.

    Python's own hash() of a text is another one in each process. The first four bytes of SHA-1, stirred by the last
    step of MurmurHash3, so that also texts that are almost alike have unrelated numbers.
    """
    mixed = int.from_bytes(hashlib.sha1(shingle.encode()).digest()[:4], "little")
    mixed = (mixed ^ (mixed >> 16)) * 0x85EBCA6B % 2**32
    mixed = (mixed ^ (mixed >> 13)) * 0xC2B2AE35 % 2**32
    return mixed ^ (mixed >> 16)
