"""Text that others wrote, made harmless for markup. Whatever a report shows passes through here, once."""

from __future__ import annotations

import html
import re

FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")
"""Control characters and half characters, which XML forbids, and marks that turn the direction of reading around."""


def clean(text: str) -> str:
    """Text whose forbidden characters have become U+FFFD: writable as UTF-8, and read in the order in which it stands."""
    return FORBIDDEN.sub("\ufffd", text)


def escape(text: str) -> str:
    """Text for HTML and SVG, inside and outside of attributes."""
    return html.escape(clean(text))
