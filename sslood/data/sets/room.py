"""Room for the converted pictures of a set: memory, or for more than fits there a file that has no name."""

import math
import os
import tempfile

import numpy as np

from sslood.data.sets.fetching.fetch import cache_folder, writable

IN_MEMORY = 2 << 30  # bytes: 14,000 pictures of 224 pixels


def room(shape: tuple[int, ...]) -> np.ndarray:
    """Return a uint8 array of this shape, to be filled; of more than IN_MEMORY bytes it is a mapped file.

    The file lies in the folder of downloads, which SSLOOD_DATA_CACHE names, and is gone with the array.
    Raises InputError if that disk has not enough room, before anything is converted.
    """
    size = math.prod(shape)
    if size <= IN_MEMORY:
        return np.empty(shape, np.uint8)
    with writable(cache_folder()), tempfile.TemporaryFile(dir=cache_folder()) as file:
        if hasattr(os, "posix_fallocate"):  # a hole that cannot be filled later would kill the process
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                error.filename = str(cache_folder())
                raise
        else:
            file.truncate(size)
        return np.asarray(np.memmap(file, np.uint8, "r+", shape=shape))
