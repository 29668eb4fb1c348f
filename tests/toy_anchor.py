"""An anchor as a user writes one: the first token that contains a digit."""

import re


def first_digit(response):
    """Return the index of the token, None where there is no digit."""
    found = re.search(r"[0-9]", response.text)
    return response.token_at(found.start()) if found else None
