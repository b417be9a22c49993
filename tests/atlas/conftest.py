"""The model that atlases are built of in these tests."""

from __future__ import annotations

import pytest

from rotate_core import load_model
from rotate_core.models import Model


@pytest.fixture(scope="module")
def model(checkpoints) -> Model:
    return load_model(checkpoints("llama"))
