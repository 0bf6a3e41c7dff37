"""For all tests: nothing of the user's is read or written."""

import os
import tempfile

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_the_user():
    """A daemon on the default directory would use the settings of whoever runs the tests."""
    with tempfile.TemporaryDirectory(prefix="rtd-config-") as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", directory)
        yield os.fspath(directory)
