"""Near duplicates: copies of an image that were compressed again, resized, brightened or slightly cropped.

Candidates are images whose 64-bit hashes differ in few bits: the signs of 64 low frequencies of the cosine transform,
each compared with its median over the data set, so that what all images share has no influence. Images are sorted by
each of six parts of the hash, and compared only if a part agrees. Candidates are near duplicates if both their gray
copies and the details of these correlate; in a data set of similar images, such as centered digits, the details must
agree almost exactly.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cnn_cli.data.image_scan import SIDE
from cnn_cli.progress import progress_bar

Array = np.ndarray[Any, np.dtype[Any]]

_PARTS = 6  # of a hash: any two that differ in up to 5 bits agree in one
_MOST_BITS = 10  # in which the hashes of candidates differ
_WINDOW = 500  # number of others with which each image that agrees in a part is compared
_ALIKE = 0.975  # least correlation of the gray copies, at 16x16
_DETAIL = (0.7, 0.985)  # least correlation of details in a data set of diverse images, and of similar ones
_TYPICAL = (0.25, 0.45)  # correlation of an image's details with those of the closest of 2,048 others, in these two
_CHUNK = 1024


def find_near_duplicates(gray: Array, among: Array) -> list[tuple[int, int]]:
    """The pairs (i, j) of near duplicates among some of the gray copies (n, 32, 32): of different, not constant images.

    among: the numbers of these, (m,) int64.
    """
    if len(among) < 2:
        return []
    a, b = _candidates(_hashes(gray, among))
    first, second = among[a], among[b]
    least = _least_detail(gray, among) if len(first) else 0.0
    pairs = []
    starts = range(0, len(first), _CHUNK)
    for i in progress_bar(starts, len(starts), "comparing candidates"):
        a, b = first[i : i + _CHUNK], second[i : i + _CHUNK]
        alike = _correlation(_reduced(gray[a]), _reduced(gray[b])) >= _ALIKE
        a, b = a[alike], b[alike]
        same = _correlation(_details(gray[a]), _details(gray[b])) >= least
        pairs += list(zip(a[same].tolist(), b[same].tolist(), strict=True))
    return pairs


def group(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The numbers below `count` that pairs connect, in groups of at least two."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.array(pairs, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), bool), ends.T), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    groups = defaultdict[int, list[int]](list)
    for i in np.unique(ends).tolist():
        groups[labels[i]].append(i)
    return list(groups.values())


def _hashes(gray: Array, among: Array) -> Array:
    """(m,) uint64."""
    k = np.arange(SIDE)
    cosines = np.cos(np.pi * (2 * k + 1) * np.arange(9)[:, None] / (2 * SIDE)).astype(np.float32)  # (9, 32)
    low = np.concatenate(
        [
            (cosines @ gray[among[i : i + _CHUNK]].astype(np.float32) @ cosines.T).reshape(-1, 81)[:, 1:65]
            for i in range(0, len(among), _CHUNK)
        ]
    )
    low /= np.maximum(1e-6, np.linalg.norm(low, axis=1, keepdims=True))
    middle = np.median(low, 0) if len(low) > 64 else 0.0  # the median of few images would be one of them
    bits = np.packbits(np.ascontiguousarray(low > middle), axis=1)
    hashes: Array = bits.view(np.uint64).ravel()
    return hashes


def _candidates(hashes: Array) -> tuple[Array, Array]:
    """Pairs whose hashes differ in at most _MOST_BITS bits and agree in one of the parts."""
    codes: list[Array] = [np.zeros(0, np.int64)]
    for part in progress_bar(range(_PARTS), _PARTS, "comparing images"):
        start, end = 64 * part // _PARTS, 64 * (part + 1) // _PARTS
        turned = (hashes >> np.uint64(start)) | (hashes << np.uint64((64 - start) % 64)) if start else hashes
        key = turned & np.uint64((1 << (end - start)) - 1)
        order = np.lexsort((turned, key))
        for a, b in _neighbors(key[order], hashes[order]):
            low, high = np.minimum(order[a], order[b]), np.maximum(order[a], order[b])
            codes.append(low.astype(np.int64) * len(hashes) + high)
    pairs = np.unique(np.concatenate(codes))
    return pairs // len(hashes), pairs % len(hashes)


def _neighbors(key: Array, hashes: Array) -> Iterator[tuple[Array, Array]]:
    """Pairs of places, at most _WINDOW apart, with the same key and hashes that differ in few bits."""
    places = np.arange(len(key) - 1)
    for distance in range(1, _WINDOW + 1):
        places = places[places < len(key) - distance]
        places = places[key[places] == key[places + distance]]
        if not len(places):
            return
        near = places[np.bitwise_count(hashes[places] ^ hashes[places + distance]) <= _MOST_BITS]
        yield near, near + distance


def _least_detail(gray: Array, among: Array) -> float:
    """The least correlation of details, from that of unrelated images of the data set."""
    order = np.random.default_rng(0).permutation(among)[:2048]
    details = _normalized(_details(gray[order]))
    likeness = details[:256] @ details.T
    np.fill_diagonal(likeness, -1)
    typical = float(np.median(likeness.max(1)))
    return float(np.interp(typical, _TYPICAL, _DETAIL))


def _reduced(gray: Array) -> Array:
    """The means of 2x2 pixels, (n, 16, 16) float32: as sums of four parts, ten times as fast as a mean over axes."""
    corners = [gray[:, y::2, x::2].astype(np.float32) for y in (0, 1) for x in (0, 1)]
    reduced: Array = sum(corners[1:], corners[0]) / 4
    return reduced


def _details(gray: Array) -> Array:
    """Each pixel without the mean of the 3x3 pixels around it."""
    values = gray.astype(np.float32)
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)), "edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    details: Array = values - (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9
    return details


def _correlation(a: Array, b: Array) -> Array:
    products: Array = np.einsum("ij,ij->i", _normalized(a), _normalized(b))
    return products


def _normalized(values: Array) -> Array:
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    flat = flat - flat.mean(1, keepdims=True)
    normalized: Array = flat / np.maximum(1e-6, np.linalg.norm(flat, axis=1, keepdims=True))
    return normalized
