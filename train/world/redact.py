"""Text without secrets: what is printed, logged or written down passes here when it may hold a URL, a command line or an error.

redacted("s3://KEY:SECRET@bucket/x hf_abc… token=…") → "s3://***@bucket/x *** token=***"
"""

from __future__ import annotations

import os
import re

HIDDEN = "***"
_NAMES = r"(?:secret|password|passwd|passphrase|api[_-]?key|access[_-]?key|private[_-]?key|account[_-]?key|token|auth|authorization|credential|signature|sig)"
# NAME=value, --name=value, ?name=value, "name": "value"; prose like `a token: 5` is none
_NAMED = re.compile(
    r"((?:^|[?&;,\s'\"{(\[])-{0,2}[\w.\-]*" + _NAMES + r"(?:=['\"]?|['\"]\s*:\s*['\"]))((?:bearer|basic)\s+)?([^\s'\"&;,)}\]]+)", re.I
)
_USER_OF_URL = re.compile(r"(\b[a-z][a-z0-9+.\-]*://)[^/\s@'\"]+@", re.I)
# tokens that are known by their looks: Hugging Face, AWS, GitHub, GitLab, OpenAI and its like, Slack, a JSON web token
_LOOKS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{12,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w\-]{16,}|sk-[\w\-]{16,}|xox[abprs]-[\w\-]{10,}"
    r"|eyJ[\w\-]{6,}\.[\w\-]{10,}\.[\w\-]*)"
)
_OF_ENVIRONMENT = re.compile(
    r"(secret|password|passwd|api[_-]?key|access[_-]?key|private[_-]?key|account[_-]?key|token|credential)s?$", re.I
)
SHORTEST = 8  # characters of a value worth hiding wherever it stands


def redacted(text: str) -> str:
    """The text with *** for keys in URLs and `token=…` words, for tokens by their looks, and for what the environment names a secret."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and _OF_ENVIRONMENT.search(name):
            text = text.replace(value, HIDDEN)
    text = _USER_OF_URL.sub(rf"\1{HIDDEN}@", text)
    text = _NAMED.sub(rf"\1\2{HIDDEN}", text)
    return _LOOKS.sub(HIDDEN, text)


def has_secret(url: str) -> bool:
    """Whether a URL carries a password, a key or a signature."""
    return "://" in str(url) and redacted(str(url)) != str(url)
