"""How far two results may be apart."""


def assert_close(found, expected, tolerance):
    """`tolerance` is relative to the largest entry expected."""
    assert found.shape == expected.shape
    if found.numel():
        assert (found - expected).abs().max().item() <= tolerance * expected.abs().max().item()


def assert_all_close(found, expected, tolerance):
    """The same of each."""
    for f, e in zip(found, expected, strict=True):
        assert_close(f, e, tolerance)
