import pytest

from sslood.nets.adopting.pretrained import open_pretrained


@pytest.fixture(scope="session")
def lite0():
    """(arrays, card) of EfficientNet-lite0 with its weights from the package."""
    return open_pretrained("efficientnet-lite0", set_name="normal", classes=["a", "b"])
