"""Files of repositories on Hugging Face: from its cache on this machine, else over the network."""

import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from sslood.core.errors import InputError, as_line

SECONDS = 5  # to reach the server at all; its client would try for half a minute


def cached_file(repository: str, file: str) -> Path | None:
    """Return a file that is in the cache (HF_HOME), None otherwise."""
    try:
        found = try_to_load_from_cache(repository, file)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def hub_file(repository: str, file: str, arch: str) -> Path | None:
    """Return a file of a repository, None if the repository has none of this name.

    What is in the cache is not asked for again. Raises InputError, naming the backbone `arch`, without a
    network, for a repository that does not exist, and for one whose licence must be accepted first.
    """
    if (found := cached_file(repository, file)) is not None:
        return found
    _check_network(repository, arch)
    try:
        return Path(hf_hub_download(repository, file))
    except LocalEntryNotFoundError as error:
        raise InputError(f"backbone {arch!r}: {_no_network(repository, as_line(error))}") from None
    except EntryNotFoundError:
        return None
    except GatedRepoError:
        raise InputError(
            f"backbone {arch!r}: accept the licence of {constants.ENDPOINT}/{repository} in a browser, then "
            "`hf auth login` here"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(
            f"backbone {arch!r}: {constants.ENDPOINT} has no repository {repository!r}, or not for you; "
            "correct the name, or `hf auth login`"
        ) from None
    except (OSError, RuntimeError) as error:
        raise InputError(f"backbone {arch!r}: {_no_network(repository, as_line(error))}") from None


def _check_network(repository: str, arch: str) -> None:
    """Raise InputError at once if the server cannot be reached, or must not be asked."""
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set"
    elif getproxies():
        return
    else:
        address = urlsplit(constants.ENDPOINT)
        try:
            port = address.port or (80 if address.scheme == "http" else 443)
            socket.create_connection((address.hostname, port), SECONDS).close()
            return
        except OSError as error:
            reason = f"{constants.ENDPOINT} cannot be reached: {as_line(error)}"
    raise InputError(f"backbone {arch!r}: {_no_network(repository, reason)}")


def _no_network(repository: str, reason: str) -> str:
    return (
        f"its files are not in the cache {constants.HF_HUB_CACHE} and cannot be fetched ({reason}); run "
        f"`hf download {repository}` where there is a network and copy the cache, give a file of weights, or "
        "take efficientnet-lite0, whose weights are in a package"
    )
