"""Fixtures that several files of this room share."""

from tests.deploy.test_pictures import detector, scored  # noqa: F401
