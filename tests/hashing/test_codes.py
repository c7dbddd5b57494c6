"""Codes: laws of packing and of the Hamming distance, against bit-by-bit counting."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ssdh.hashing.codes import hamming, pack, sign_codes, unpack, words

BITS = st.one_of(st.sampled_from([1, 7, 8, 9, 12, 16, 63, 64, 65, 128]), st.integers(1, 200))


def codes(rows: st.SearchStrategy[int], bits: int) -> st.SearchStrategy[NDArray[np.int8]]:
    return rows.flatmap(lambda n: hnp.arrays(np.int8, (n, bits), elements=st.sampled_from([-1, 1])))


ANY_CODES = BITS.flatmap(lambda bits: codes(st.integers(0, 6), bits))
TWO_SETS = BITS.flatmap(lambda bits: st.tuples(codes(st.integers(1, 5), bits), codes(st.integers(1, 5), bits)))


@given(ANY_CODES)
def test_unpack_inverts_pack(signs: NDArray[np.int8]) -> None:
    packed = pack(signs)
    assert packed.dtype == np.uint8
    assert packed.shape == (len(signs), -(-signs.shape[1] // 8))
    assert np.array_equal(unpack(packed, signs.shape[1]), signs)


@given(ANY_CODES)
def test_unused_low_bits_are_zero(signs: NDArray[np.int8]) -> None:
    unused = -signs.shape[1] % 8
    assert not (pack(signs)[:, -1] & (2**unused - 1)).any()


def test_first_bit_is_the_highest_of_the_first_byte() -> None:
    assert pack(np.array([[1, -1, -1, -1, -1, -1, -1, -1, -1, 1]])).tolist() == [[0b10000000, 0b01000000]]


@given(TWO_SETS)
def test_hamming_counts_the_bits_that_differ(sets: tuple[NDArray[np.int8], NDArray[np.int8]]) -> None:
    a, b = sets
    expected = (a[:, None, :] != b[None, :, :]).sum(axis=2)
    assert np.array_equal(hamming(pack(a), pack(b)), expected)
    assert np.array_equal(hamming(pack(b), pack(a)), expected.T)
    assert not np.diagonal(hamming(pack(a), pack(a))).any()


@given(TWO_SETS)
def test_words_differ_in_as_many_bits_as_codes(sets: tuple[NDArray[np.int8], NDArray[np.int8]]) -> None:
    a, b = (words(pack(part)) for part in sets)
    result = np.bitwise_count(a[:, :, None] ^ b[:, None, :]).sum(axis=0)
    assert np.array_equal(result, (sets[0][:, None] != sets[1][None]).sum(axis=2))


def test_sign_of_zero_is_plus_one() -> None:
    signs = sign_codes(np.array([[-0.0, 0.0, -1e-30, 1e-30, -np.inf]], np.float32))
    assert signs.dtype == np.int8
    assert signs.tolist() == [[1, 1, -1, 1, -1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sign_codes(np.array([[0.1, np.nan]])), "1 NaN of 2"),
        (lambda: pack(np.array([[0, 1]])), r"only -1 and \+1, got \[0\]"),
        (lambda: pack(np.array([[0.5, 1.0]])), r"got \[0.5\]"),
        (lambda: pack(np.array([[True, False]])), r"only -1 and \+1"),
        (lambda: pack(np.ones(3)), r"got shape \(3,\)"),
        (lambda: pack(np.ones((3, 0))), r"got shape \(3, 0\)"),
        (lambda: unpack(np.zeros((2, 2), np.uint8), 17), r"uint8 of shape \(n, 3\) for 17 bits, got uint8 \(2, 2\)"),
        (lambda: unpack(np.zeros((2, 2), np.int64), 16), "got int64"),
        (lambda: unpack(np.zeros((2, 2), np.uint8), 0), "bits must be at least 1, got 0"),
        (lambda: hamming(np.zeros((2, 1), np.uint8), np.zeros((2, 2), np.uint8)), "got 1 and 2 bytes"),
        (lambda: hamming(np.zeros((2, 1), np.int8), np.zeros((2, 1), np.uint8)), "must be uint8"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
