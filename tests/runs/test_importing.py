"""Nothing looks for garbage while modules are imported; afterwards it goes on as it was."""

import gc

import pytest

from ssl_framework.runs.importing import importing


@pytest.mark.parametrize("before", [True, False])
def test_garbage_is_left_until_the_end_even_where_an_import_fails(before: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        with pytest.raises(ImportError), importing():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == before
    finally:
        (gc.enable if was else gc.disable)()
