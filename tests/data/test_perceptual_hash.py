"""The perceptual hash, and the search for pairs, against a plain search."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from sg3flow.data.perceptual_hash import HASH_BITS, near_pairs, perceptual_hash


def bits_apart(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def shapes(seed: int) -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 256, (12, 12), np.uint8)
    return Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC)


def recompressed(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream)


@pytest.mark.parametrize(
    "change",
    [
        recompressed,
        lambda p: p.resize((100, 100), Image.Resampling.LANCZOS),
        lambda p: ImageEnhance.Contrast(p).enhance(0.8),
        lambda p: ImageEnhance.Brightness(p).enhance(0.9),
    ],
)
def test_the_same_image_in_another_form_is_near(change):
    for seed in range(10):
        image = shapes(seed)
        assert bits_apart(perceptual_hash(image), perceptual_hash(change(image))) <= 12


def test_other_images_are_far():
    hashes = [perceptual_hash(shapes(seed)) for seed in range(40)]
    assert list(near_pairs(hashes, 40)) == []
    assert all(len(each) == HASH_BITS // 4 for each in hashes)
    assert len(perceptual_hash(Image.new("L", (3, 200)))) == 64  # blank, and of any size


@settings(max_examples=60)
@given(
    base=st.lists(st.integers(0, 2**HASH_BITS - 1), min_size=0, max_size=6),
    flips=st.lists(
        st.tuples(st.integers(0, 5), st.sets(st.integers(0, 255), max_size=9)), max_size=8
    ),
    distance=st.integers(0, 12),
)
def test_no_pair_is_missed(base, flips, distance):
    numbers = base + [
        base[i % len(base)] ^ sum(1 << bit for bit in bits) for i, bits in flips if base
    ]
    hashes = [f"{number:064x}" for number in numbers]
    found = sorted(near_pairs(hashes, distance))
    firsts = {each: i for i, each in reversed(list(enumerate(hashes)))}
    expected = []
    for second, other in enumerate(hashes):
        for first in range(second):
            bits = bits_apart(hashes[first], other)
            is_first = firsts[hashes[first]] == first and (bits == 0 or firsts[other] == second)
            if bits <= distance and is_first:
                expected.append((first, second, bits))
    assert found == sorted(expected)
