"""What the encoder and the generator of OpenAI-compatible servers share: address, key, and what a refusal means.

The key is read from an environment variable whose *name* is an option; it is stored nowhere and repeated in no message.
Waiting and trying again is the house's: what may pass becomes ``Retryable``.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from recbole_llm import MissingExtra, Retryable, UserError

OPENAI = "https://api.openai.com/v1"
#: UTF-8 bytes counted as one token: below the 4 to 5 of English, at the 3 of a Chinese or Japanese character.
BYTES_PER_TOKEN = 3
#: A server that asks to wait longer than this (seconds) is not waited for.
LONGEST_WAIT = 300.0
_AGAIN = {408, 409, 425, 429}


class Endpoint:
    """A server and how to speak to it.

    Args:
        prefix: what the option's keys start with (``text``, ``gen``).
        what: who speaks, for messages ("The encoder 'openai'").
        options: with ``model``, ``base_url`` and ``api_key_env``.
        patience: seconds that the server may keep silent.

    Raises:
        UserError: ``api_key_env`` holds something that is no variable's name.
    """

    def __init__(self, prefix: str, what: str, options: Any, patience: float):
        self.prefix, self.what, self.options, self.patience = prefix, what, options, patience
        self.variable: str | None = None if (options.api_key_env or "none").lower() == "none" else options.api_key_env
        if self.variable and not _is_variable(self.variable):
            # Whoever put the key itself here must not see it repeated on a screen or in a log.
            raise UserError(
                f"{prefix}_api_key_env must be the NAME of an environment variable, not a key.",
                f"For example: export OPENAI_API_KEY=… and --{prefix}_api_key_env=OPENAI_API_KEY",
            )
        self._client: Any = None
        self._building = threading.Lock()

    @property
    def url(self) -> str:
        """The server's address.

        Raises:
            UserError: no http(s) address, or one that carries a password or a key.
        """
        url = (self.options.base_url or OPENAI).rstrip("/")
        key = f"{self.prefix}_base_url"
        try:
            parts = urlsplit(url)
            secret = parts.username or parts.password or parts.query or parts.fragment
        except ValueError:
            raise UserError(f"{key} is no address.", "Set it to http(s)://host[:port]/v1.") from None
        if secret:
            raise UserError(
                f"{key} carries a user name, a password or parameters, which would be stored.",
                f"Give the bare address; put the key into an environment variable named by {self.prefix}_api_key_env.",
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{key} '{url}' is no address.", "Set it to http(s)://host[:port]/v1.")
        return url

    def shown(self) -> str | None:
        """The address as a fingerprint names it: ``None`` for OpenAI's own."""
        return None if self.url == OPENAI else self.url

    @property
    def client(self) -> Any:
        """An ``openai.OpenAI`` that tries once; several threads may use it.

        Raises:
            UserError: the package is not installed, or the variable with the key is not set.
        """
        with self._building:
            if self._client is None:
                try:
                    import openai
                except ImportError as e:
                    raise MissingExtra(self.what, "openai") from e

                # base_url is always given, so that OPENAI_BASE_URL cannot move the request away from the fingerprint.
                self._client = openai.OpenAI(
                    api_key=self._key() or "none", base_url=self.url, timeout=self.patience, max_retries=0
                )
        return self._client

    def post(self, call: Callable[[Any], Any], refused: Callable[[Any, str], Exception]) -> bytes:
        """The body that ``call(client)``, one of the client's ``with_raw_response`` methods, is answered with.

        Args:
            refused: makes the exception for a status that trying again cannot mend, from the client's error and what
                the server said (without the key).

        Raises:
            Retryable: the server is busy, limits the rate, timed out, broke off or cannot be reached.
            UserError: the key is refused, its quota used up, or the server asks for a long wait.
        """
        client = self.client
        import openai

        try:
            return call(client).http_response.content
        except openai.APITimeoutError:
            raise Retryable(f"{self.url} did not answer within {self.patience:g} s") from None
        except openai.APIConnectionError as e:
            raise Retryable(f"{self.url} cannot be reached ({e.__cause__ or e})") from None
        except openai.APIStatusError as e:
            raise self._passing(e) or refused(e, self.without_key(e.message)[:300]) from None

    def _passing(self, e: Any) -> Exception | None:
        """What a status of 400 or more means for the job, where it has nothing to do with the request itself."""
        status, said = e.status_code, self.without_key(e.message)[:300]
        if status in (401, 403):  # the server's message may quote the key: not repeated
            hint = f"Check the key in the environment variable {self.variable}."
            if not self.variable:
                hint = f"Name its key in {self.prefix}_api_key_env."
            return UserError(f"{self.url} refuses access to '{self.options.model}' (HTTP {status}).", hint)
        if status == 429 and "insufficient_quota" in (e.code, e.type):
            return UserError(f"{self.url}: the quota of this key is used up.", "Mend that, and run again.")
        if status in _AGAIN or status >= 500:
            after = retry_after(e.response.headers)
            if after is not None and after > LONGEST_WAIT:
                return UserError(
                    f"{self.url} asks to wait {after:.0f} s (HTTP {status}).",
                    "Run the same command again then; what was answered so far is kept.",
                )
            return Retryable(f"{self.url} answered HTTP {status}: {said}", after)
        return None

    def _key(self) -> str | None:
        if not self.variable:
            return None
        key = os.environ.get(self.variable, "").strip()
        if not key:
            raise UserError(
                f"The environment variable {self.variable}, which should hold the key for {self.url}, is not set.",
                f"Run: export {self.variable}=…  (or name another variable in {self.prefix}_api_key_env; `none` if no "
                "key is needed)",
            )
        return key

    def without_key(self, text: str) -> str:
        """``text`` with the key taken out."""
        key = os.environ.get(self.variable or "", "").strip()
        return text.replace(key, "…") if key else text


def token_count(text: str) -> int:
    """An upper estimate of a text's tokens, where no tokenizer is at hand; at least 1."""
    return max(1, -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN))


def retry_after(headers: Any) -> float | None:
    """Seconds from ``retry-after-ms`` or ``retry-after`` (a number or an HTTP date); ``None`` without one."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) / unit)
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, TypeError):
            continue
    return None


def _is_variable(name: str) -> bool:
    """Whether this can be the name of a variable; long mixtures of cases and digits are keys."""
    key_like = len(name) > 30 and re.search("[a-z]", name) and re.search("[A-Z]", name) and re.search("[0-9]", name)
    return bool(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)) and not key_like
