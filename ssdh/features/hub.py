"""Files of the Hugging Face Hub, in its own cache (`HF_HOME`), where other programs find and leave them too.

What is in the cache is taken without asking the network. `SSDH_OFFLINE=1` and `HF_HUB_OFFLINE=1` never ask it.
`HF_ENDPOINT` names another server.
"""

from collections.abc import Sequence
from pathlib import Path

from loguru import logger

from ssdh.core.cache_dir import offline
from ssdh.core.errors import DataError


def hub_file(repo: str, names: Sequence[str], about: str) -> Path:
    """The first of the files `names` that `repo` (ORG/MODEL, or ORG/MODEL@REVISION) has, fetched if it is not here.

    about: what is shown of it before it is fetched, such as its licence. Raises DataError, one line with what to do,
    where it cannot be had.
    """
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants, errors
    except ImportError:
        raise DataError(f"{repo} is on the Hugging Face Hub: pip install 'ssdh[timm]' to fetch it") from None

    where, _, revision = repo.partition("@")
    for name in names:
        cached = hub.try_to_load_from_cache(where, name, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    at_revision = f" --revision {revision}" if revision else ""
    by_hand = (
        f"run `hf download {where} {names[0]}{at_revision}` where there is a network and copy what it writes to "
        f"{constants.HF_HUB_CACHE}"
    )
    page = f"{constants.ENDPOINT}/{where}"
    if offline() or constants.HF_HUB_OFFLINE:
        forbids = "SSDH_OFFLINE=1" if offline() else "HF_HUB_OFFLINE=1"
        raise DataError(f"{forbids} forbids the download of {page} ({about}): {by_hand}")
    logger.info("fetching {} ({})", page, about)
    try:
        for name in names:
            try:
                return Path(hub.hf_hub_download(where, name, revision=revision or None))
            except errors.RemoteEntryNotFoundError:
                continue
    except errors.GatedRepoError:
        raise DataError(
            f"{page} is gated ({about}): accept its terms on that page, then `hf auth login`; or {by_hand}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise DataError(f"{page} does not exist, or is private: correct the name, or `hf auth login`") from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise DataError(f"{page} could not be fetched ({reason}): {by_hand}") from None
    raise DataError(f"{page} has none of {', '.join(names)}: name another model, or a file (images.weights: file)")
