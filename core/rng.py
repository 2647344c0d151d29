"""Randomness as a pure function: one independent generator for each (task, seed, split, block)."""

import hashlib

import numpy as np


def generator(fingerprint: str, seed: int, split: str, block: int) -> np.random.Generator:
    """The generator that fills block `block` of `split`, whatever was drawn before and by whom.

    Philox (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3") is counter-based: every 128-bit key
    gives an independent stream. The key is a hash of the four arguments, so neighbouring seeds or blocks share nothing.
    """
    words = "\0".join([fingerprint, str(seed), split, str(block)])
    key = hashlib.blake2b(words.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that looks random: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
