"""The engine: Daft, which reads, schedules and streams; nothing of it decides about a picture.

Its own telemetry is off unless DAFT_ANALYTICS_ENABLED says otherwise, and so is what its Rust parts log on
their way to an error, which is said once, in a sentence.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

from sslood.core.errors import InputError, as_line

NEEDED = (
    "needs the package daft; run `pip install -r requirements-scale.txt` (or `pip install 'sslood[scale]'`)"
)
_LOGS = ("aws_config", "aws_credential_types", "aws_smithy_runtime", "common_runtime", "daft", "hyper")
_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


@cache
def engine() -> Any:
    """Return the package daft; InputError if it is not installed."""
    if find_spec("daft") is None:
        raise InputError(f"reading many pictures {NEEDED}")
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    import daft

    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0].startswith("daft")]
    for name in {*_LOGS, *names, *(f"daft_{part}" for part in ("io", "local_execution", "distributed"))}:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return daft


def io_config(anonymous: bool) -> Any:
    """Return how object stores are spoken to: by the environment's credentials, or without any.

    AWS_ENDPOINT_URL names a store that speaks S3 but is not Amazon's.
    """
    from daft.io import IOConfig, S3Config

    given: dict[str, Any] = {"anonymous": True} if anonymous else {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        given |= {"endpoint_url": endpoint, "use_ssl": endpoint.startswith("https")}
        given |= {"region_name": os.environ.get("AWS_REGION", "us-east-1")}
    return IOConfig(s3=S3Config(**given))


def read_parquet(files: Sequence[str], io: Any) -> Any:
    """Return the table of parquet files; local names are taken as they are, not for patterns."""
    names = [file if "://" in file else re.sub(r"([*?\[\]{}\\])", r"\\\1", file) for file in files]
    return engine().read_parquet(names, io_config=io)


def below(pattern: str, io: Any) -> Any:
    """Return the table of what a pattern of addresses matches, or None if there is nothing.

    InputError if the store cannot be read.
    """
    from daft.exceptions import DaftCoreException

    with said_once(pattern):
        try:
            found = engine().from_glob_path(pattern, io_config=io)
            return found if found.limit(1).count_rows() else None
        except DaftCoreException as error:
            if "at least 1 MicroPartition" in str(error):  # its words for nothing
                return None
            raise
        except FileNotFoundError:
            return None


@contextmanager
def said_once(address: str) -> Iterator[None]:
    """Turn an error of the engine about an address into an InputError of one sentence."""
    from daft.exceptions import DaftCoreException

    try:
        yield
    except (DaftCoreException, FileNotFoundError, PermissionError) as error:
        raise InputError(f"{address}: {_reason(str(error))}") from None
    except RuntimeError as error:
        if "UDF process" not in str(error):
            raise
        raise InputError(
            "a worker was killed (perhaps for lack of memory); what was judged before is kept: run the same "
            "command again to go on, with fewer --workers if it happens again"
        ) from None


def _reason(text: str) -> str:
    """Return in words why a store gives nothing."""
    low = text.lower()
    if "unable to load credentials" in low or "no credentials" in low:
        return f"no credentials were found for this store; {_KEYS}, or give --anonymous if it is public"
    if "forbidden" in low or "unauthorized" in low or "access denied" in low or "accessdenied" in low:
        return f"the store refuses these credentials; {_KEYS} of one who may read it"
    if "not found" in low or "no such" in low or "nosuch" in low:
        return "is not there; correct the address"
    if "connect" in low or "dns" in low or "timed out" in low:
        return f"the store does not answer ({as_line(text)}); check the network, and AWS_ENDPOINT_URL if set"
    return as_line(text)
