"""What every test gets: checked shapes, few threads, the way to the public data."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Every annotation in the library is checked when it is called from a test. An int is accepted where a float is asked
# for (PEP 484 says so), as mypy does. This must come before the first import of the library.
install_import_hook("mri_minority", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

pytest_plugins = ["tests.support.walk"]

# No test is timed, so no example of a property may fail for being slow. Everybody sees the same examples, so that a
# failure is the change's own; HYPOTHESIS_PROFILE=explore looks at new ones.
settings.register_profile("project", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "project"))

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    """Small tensors gain nothing from many threads, and sums are split the same way on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the public data sets, beside the checkout. Mark tests that use it with `real_data`."""
    folder = REPOSITORY.parent / "shared" / "data"
    if folder.is_dir():
        return folder
    reason = "the public data sets are not beside this checkout (looked for ../shared/data)"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and on CI they must be")
    pytest.skip(reason)
