import pytest

from sg3flow.addresses import shown_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pass@host:1/x?token=secret#secret", "https://host:1/x"),
        ("https://me:se/cr@et@host/x?secret", "https://host/x"),
        ("https://host/@me/x.zip", "https://host/@me/x.zip"),
        ("ftp://me:secret@host/x.zip", "ftp://host/x.zip"),
        ("file:///a/b%20c.zip", "file:///a/b%20c.zip"),
        ("some/folder#1?", "some/folder#1?"),
    ],
)
def test_shown_url_hides_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown
