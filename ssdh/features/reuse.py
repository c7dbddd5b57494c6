"""Features of blocks of images, taken from the store where it has seen the image, else computed and kept there.

    blocks_of = reusing(store, digests, image_blocks(network, preprocessing, source, device))

`extract.compute_features` puts a whole array together; here a block is forgotten when it has been handed on, so neither
memory nor, beyond the store's limit, the disk grows with the number of images.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import numpy as np

from ssdh.core.arrays import Array, Rows
from ssdh.features.forward import BLOCK
from ssdh.features.store import BlockGoneError, Digests, FeatureStore, Kept, evict, store_limit

Blocks = Callable[[Rows], Iterator[Array]]

KEEP = 1024  # computed rows that go into the store at once
TIDY_BYTES = 1 << 30  # that are added to the store before it is brought back to its limit


def reusing(store: FeatureStore, digests: Digests, blocks_of: Blocks) -> Blocks:
    """`blocks_of` with the same bits, but only for rows whose image the store lacks.

    digests: (N, 32) of all images by row. blocks_of(rows) yields arrays (≤ BLOCK, D) that cover the rows, in order.
    """

    def reused(rows: Rows) -> Iterator[Array]:
        kept = store.find(digests[rows])
        lacking = kept.block < 0
        with closing(_kept_too(store, digests, blocks_of, rows[lacking])) as computed:
            stream = _Stream(computed)
            for start in range(0, len(rows), BLOCK):
                part = slice(start, start + BLOCK)
                new = lacking[part]
                old = Kept(kept.blocks, kept.block[part][~new], kept.row[part][~new])
                values = [stream.take(int(new.sum()))] if new.any() else []
                if not new.all():
                    values.append(_read(store, old, blocks_of, rows[part][~new]))
                apart = np.concatenate(values)  # the new rows, then the old ones
                block = np.empty_like(apart)
                block[new], block[~new] = np.split(apart, [new.sum()])
                yield block

    return reused


def _read(store: FeatureStore, kept: Kept, blocks_of: Blocks, rows: Rows) -> Array:
    """The rows from the store, or computed where they were removed from it meanwhile."""
    try:
        return kept.read(0, len(rows))
    except BlockGoneError:
        store.drop_broken()
        return np.concatenate(list(blocks_of(rows)))


def _kept_too(store: FeatureStore, digests: Digests, blocks_of: Blocks, rows: Rows) -> Generator[Array]:
    """The blocks of these rows, which go into the store as well; what was computed is kept however this ends."""
    waiting: list[Array] = []
    done = added = 0

    def keep() -> None:
        nonlocal done, added
        if waiting:
            values = np.concatenate(waiting)
            store.add(digests[rows[done : done + len(values)]], values)
            done, added = done + len(values), added + values.nbytes
            waiting.clear()

    try:
        for values in blocks_of(rows) if len(rows) else ():
            waiting.append(values)
            if len(waiting) * BLOCK >= KEEP:
                keep()
            if added > TIDY_BYTES:
                evict(store_limit())
                added = 0
            yield values
    finally:
        keep()


class _Stream:
    """Blocks of any lengths as a stream of rows."""

    def __init__(self, blocks: Iterator[Array]) -> None:
        self.blocks, self.left = blocks, np.empty((0, 0))

    def take(self, count: int) -> Array:
        """The next `count` rows."""
        while len(self.left) < count:
            block = next(self.blocks)
            self.left = np.concatenate([self.left, block]) if len(self.left) else block
        taken, self.left = self.left[:count], self.left[count:]
        return taken
