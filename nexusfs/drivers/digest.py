"""Digests, by which contents are named and verified.

New contents are named by BLAKE3: on one core it takes in 5.5 GB/s where SHA-256 takes in 1, and a
large write and every first read of a blob wait for it. Each blob keeps the name of its algorithm,
so those of other algorithms, as SHA-256's of older stores, are read as before.
"""

import hashlib

from blake3 import blake3

ALGORITHM = "blake3"
"""That of new blobs."""


def digest_of(algorithm: str, data: bytes) -> bytes:
    """The digest of `data`: 32 bytes of BLAKE3, or what hashlib makes under that name.

    ValueError for an algorithm that nobody knows.
    """
    if algorithm == ALGORITHM:
        return blake3(data).digest()
    return hashlib.new(algorithm, data, usedforsecurity=False).digest()
