"""What the page is told of an opened gallery, as JSON values: its facts, pages of images, answers to searches."""

from typing import Any

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray

from ssdh.core.arrays import Packed
from ssdh.hashing.rerank import cosines
from ssdh.search.gallery import Encoded, Gallery
from ssdh.search.web.thumbnails import Size

TYPICAL_ROWS = 64  # images whose distances to all others make the typical histogram


class View:
    """What the page is told of one gallery."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery, self.index = gallery, gallery.index

    def about(self) -> dict[str, Any]:
        """The data set, the length of the codes, and the distances from a typical image to all others."""
        rows = np.random.default_rng(0).permutation(len(self.index))[:TYPICAL_ROWS]
        typical = self.index.histogram(self.index.packed[rows]).sum(axis=0)  # (bits + 1,)
        typical[0] -= len(rows)  # each of them lies at 0 from itself
        return {
            "title": self.gallery.title,
            "notice": self.gallery.notice,
            "images": len(self.index),
            "bits": self.index.bits,
            "index": self.index.kind,
            "typical": (typical / max(typical.sum(), 1)).tolist(),
            "features": self.index.features is not None,
            "texts": self.gallery.texts is not None,
        }

    def page(self, start: int, count: int, seed: int | None) -> dict[str, Any]:
        """Images in the order of the data set, or with a seed a random sample."""
        total = len(self.index)
        if seed is None:
            rows: NDArray[np.int64] = np.arange(min(start, total), min(start + count, total))
        else:
            rows = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
        return {"total": total, "start": start, "images": [self.image(int(row)) for row in rows]}

    def search_photo(self, photo: Encoded, top: int, rerank: int) -> dict[str, Any]:
        """The answer for one encoded photo."""
        return self.search(photo.packed, top, rerank=rerank, query_features=photo.features, query_outputs=photo.outputs)

    def search_text(self, text: str, encoded: Encoded, top: int, rerank: int) -> dict[str, Any]:
        """The answer for an encoded text."""
        result = self.search_photo(encoded, top, rerank)
        return result | {"query": result["query"] | {"text": text}}

    def search_row(self, row: int, top: int, rerank: int) -> dict[str, Any]:
        """The answer for an image of the gallery, which is left out itself."""
        packed = self.index.packed[row : row + 1]
        if self.index.features is None:
            if rerank:
                raise HTTPException(422, "rerank needs features, and none are kept here")
            return self.search(packed, top, row)
        features = self.index.features[np.array([row])]
        if rerank:
            return self.search(packed, top, row, rerank=rerank, query_features=features)
        return self.search(packed, top, row, query_outputs=self.gallery.encode.stored_outputs(packed, features))

    def search(self, packed: Packed, top: int, row: int | None = None, **how: Any) -> dict[str, Any]:
        """The answer for one code (1, B). row: the image it is of, left out; how: more for `Index.search`."""
        distances, rows = self.index.search(packed, top + (row is not None), **how)
        result = [
            self.image(int(near)) | {"distance": int(distance)}
            for distance, near in zip(distances[0], rows[0], strict=True)
            if near >= 0 and near != row
        ][:top]
        if how.get("rerank") and self.index.features is not None:
            rows_shown = np.array([one["row"] for one in result], np.int64)
            similarities = cosines(how["query_features"][0], self.index.features[rows_shown]).tolist()
            result = [one | {"similarity": value} for one, value in zip(result, similarities, strict=True)]
        query = {"code": packed[0].tobytes().hex()} if row is None else self.image(row)
        histogram = self.index.histogram(packed)[0]
        if row is not None:
            histogram[0] -= 1  # the query itself
        return {
            "bits": self.index.bits,
            "query": query,
            "results": result,
            "histogram": histogram.tolist(),
            "reranked": bool(how.get("rerank")),
        }

    def image(self, row: int) -> dict[str, Any]:
        """One image: its names, its code, and where its pictures are."""
        return {
            "row": row,
            **({} if self.gallery.ids is None else {"id": self.gallery.ids[row]}),  # of a collection: rows shift
            "name": self.gallery.name(row),
            "classes": self.gallery.classes_of(row),
            "code": self.index.packed[row].tobytes().hex(),
            "thumbnail": self.thumbnail(row),
            "preview": self._picture(row, "preview"),
        }

    def thumbnail(self, row: int) -> str:
        """The address of an image's small picture."""
        return self._picture(row, "thumbnail")

    def _picture(self, row: int, size: Size) -> str:
        number = "" if self.gallery.ids is None else f"&id={self.gallery.ids[row]}"
        return f"/images/{row}/{size}?v={self.gallery.version}{number}"

    def row_of(self, number: int) -> int:
        """The row of an image by its id; HTTPException (404) where there is none."""
        (row,) = self.gallery.rows_of([number])
        if row < 0:
            raise HTTPException(404, f"there is no image with the id {number}")
        return int(row)

    def check_row(self, row: int) -> None:
        """Raise HTTPException (404) for a row that is none."""
        if not 0 <= row < len(self.index):
            raise HTTPException(404, f"there is no image {row}: rows go from 0 to {len(self.index) - 1}")
