"""Randomness as a pure function: one independent generator for each (task, seed, split, block)."""

import hashlib

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # odd, near 2^64 over the golden ratio: SplitMix64's step


def generator(fingerprint: str, seed: int, split: str, block: int) -> np.random.Generator:
    """The generator that fills block `block` of `split`, whatever was drawn before and by whom.

    Philox (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3") is counter-based: every 128-bit key
    gives an independent stream. The key is a hash of the four arguments, so neighbouring seeds or blocks share nothing.
    """
    words = "\0".join([fingerprint, str(seed), split, str(block)])
    key = hashlib.blake2b(words.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that looks random: the finaliser of SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def splitmix(key: np.ndarray | np.uint64, counter: np.ndarray) -> np.ndarray:
    """Numbers `counter`, from 0, of the stream that SplitMix64 makes of a key, uint64.

    SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators") is a counter through a
    mixing function, hence evaluated at any number at once.
    """
    return mix(key + (counter.astype(np.uint64) + np.uint64(1)) * GOLDEN)
