"""The photo in a request's body: the body itself, or the one file of a form, as `curl -F file=@photo.jpg` sends it."""

from email.message import Message

from fastapi import HTTPException

MOST_PARTS = 16  # of a form; more are refused before they are taken apart


def photo_of(body: bytes, content_type: str) -> bytes:
    """The bytes of the photo; raises HTTPException (422) for a form that is broken or does not hold one file."""
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_type() != "multipart/form-data":
        return body
    boundary = header.get_boundary()
    if not boundary:
        raise HTTPException(422, "the form names no boundary: send the photo as the body, or as file=@photo.jpg")
    parts = _parts(body, b"\r\n--" + boundary.encode("latin-1", "replace"))
    files = [content for head, content in parts if b"filename" in head.lower()] or [content for _, content in parts]
    if len(files) != 1:
        raise HTTPException(422, f"the form holds {len(files)} files, expected one photo: send file=@photo.jpg")
    return files[0]


def _parts(body: bytes, delimiter: bytes) -> list[tuple[bytes, bytes]]:
    """(header lines, content) of each part of a form (RFC 2046); the text around the parts is passed over."""
    pieces = (b"\r\n" + body).split(delimiter, MOST_PARTS + 1)[1:]
    result: list[tuple[bytes, bytes]] = []
    for piece in pieces:
        if piece.startswith(b"--"):
            return result
        head, blank, content = piece.partition(b"\r\n\r\n")
        if not blank:
            break
        result.append((head, content))
    raise HTTPException(422, f"the form is cut short, or has more than {MOST_PARTS} parts: send file=@photo.jpg")
