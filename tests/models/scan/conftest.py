"""The native scan, where it can be built."""

import pytest

from models.scan import build, native
from models.scan.backends import choose_backend
from models.scan.problem import Backend


@pytest.fixture(scope="module")
def compiled() -> Backend:
    try:
        native.load_library()
    except build.CannotBuildError as error:
        pytest.skip(f"no native scan here: {error}")
    return choose_backend("cpu", "native")
