"""Which files below a folder are images: by extension, without what is hidden, thumbnails' folders and exclusions.

Imports no torch, and opens no file.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from ssdh.core.errors import DataError
from ssdh.features.decode import READS_HEIF

HEIF = frozenset((".heic", ".heif"))

# every extension that people give to pictures; a file with one of them that cannot be read is bad, not ignored
EXTENSIONS = frozenset(
    ("." + name)
    for group in ("jpg jpeg jpe jfif", "png gif bmp dib webp", "tif tiff avif jp2", "ppm pgm pbm pnm")
    for name in group.split()
) | (HEIF if READS_HEIF else frozenset())

# photos in formats that are not read: they are counted, so that nobody misses them in vain
UNREAD = (
    frozenset(
        ("." + name)
        for group in ("dng cr2 cr3 nef arw orf rw2 raf pef srw raw", "jxl psd svg xcf eps ai", "mp4 mov avi mkv")
        for name in group.split()
    )
    | HEIF
) - EXTENSIONS

# beside hidden ones, in small letters: thumbnails, what macOS leaves in archives, and what was deleted or is a snapshot
# (Synology, QNAP, Windows)
NO_PHOTOS = frozenset(
    name
    for group in (
        ("@eadir", "__macosx", ".thumbnails", "ipod photo cache"),
        ("#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin", "recycler"),
        ("lost+found", "system volume information"),
    )
    for name in group
)


@dataclass
class Listing:
    """Images below a folder: sorted paths relative to it, with forward slashes; and what was passed over.

    folders: hidden ones, and those of NO_PHOTOS, not looked into. closed: folders that cannot be. files: hidden or
    excluded ones with an image's extension. unread: photos in formats that are not read, by extension.
    """

    names: list[str] = field(default_factory=list)
    folders: int = 0
    closed: int = 0
    files: int = 0
    unread: Counter[str] = field(default_factory=Counter)

    def passed_over(self) -> str:
        """What was passed over, in words; empty where that is nothing."""
        unread = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(self.unread.items()))
        parts = [
            f"{self.folders:,} hidden or thumbnails' folders" if self.folders else "",
            f"{self.closed:,} folders that cannot be looked into" if self.closed else "",
            f"{self.files:,} hidden or excluded files" if self.files else "",
            f"formats that are not read: {unread}" if unread else "",
        ]
        return "; ".join(filter(None, parts))


def list_images(root: Path, exclude: Sequence[str] = ()) -> Listing:
    """Every image file below `root`; folders that are links are not looked into.

    exclude: patterns with `*`, `?` and `[…]`, of which none may fit an image's relative path or its name alone.
    """
    listing = Listing()
    listing.names = sorted(_walk(root, exclude, listing))
    return listing


def image_files(root: Path, exclude: Sequence[str] = ()) -> Iterator[str]:
    """The paths of `list_images`, one by one, in no particular order."""
    return _walk(root, exclude, Listing())


def _walk(root: Path, exclude: Sequence[str], listing: Listing) -> Iterator[str]:
    def count(_: OSError) -> None:
        listing.closed += 1

    for folder, folders, files in os.walk(root, onerror=count):
        kept = [name for name in folders if not (name.startswith(".") or name.lower() in NO_PHOTOS)]
        listing.folders += len(folders) - len(kept)
        folders[:] = kept
        relative = Path(folder).relative_to(root)
        for name in files:
            path, suffix = (relative / name).as_posix(), Path(name).suffix.lower()
            if suffix not in EXTENSIONS and suffix not in UNREAD:
                continue
            if name.startswith(".") or any(fnmatchcase(path, one) or fnmatchcase(name, one) for one in exclude):
                listing.files += 1
            elif suffix in EXTENSIONS:
                yield path
            else:
                listing.unread[suffix] += 1


SPECIAL = "not a file but a folder, pipe, socket or device"


def is_special(path: Path) -> bool:
    """Whether there is something else than a file, whose bytes may never come or never end."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def check_there(path: Path) -> None:
    """Raise DataError where there is no file or folder, or none that can be looked at."""
    try:
        path.stat()
    except OSError as error:
        reason = "does not exist" if is_gone(path) else f"cannot be looked at ({error.strerror})"
        raise DataError(f"{path} {reason}: give photos or folders of photos") from None


def is_gone(path: Path) -> bool:
    """Whether there is surely no file: a closed folder, or a drive that answers with an error, tells nothing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def is_text(name: str) -> bool:
    """Whether a file's name can be written to a file: on Linux it may hold bytes that are no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
