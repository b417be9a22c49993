"""A language model behind a server that speaks OpenAI's protocol, and the folder of its answers.

Every answer is kept in a file of its own, named by a hash of model, prompt and options. What was
asked once is answered from there, so an interrupted run goes on where it stopped. The server's
address is no part of the hash: to ask anew another model of the same name, give another folder.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from filelock import FileLock

from rotate_core.storage import write_whole

URL, MODEL, KEY = "ROTATE_JUDGE_URL", "ROTATE_JUDGE_MODEL", "ROTATE_JUDGE_KEY"
"""Variables of the environment: base URL, model, and key, which local servers do not need."""
NO_KEY = "none"
"""Sent where no key is given: the client wants one."""
SEED = 0
LEAST_SECRET = 4
"""Letters of what is kept out of answers and messages: a shorter key would black out words."""
log = logging.getLogger(__name__)


class EndpointError(RuntimeError):
    """The server could not be reached, refused, or gave nothing that can be used."""


@dataclass(frozen=True)
class Endpoint:
    """A model behind a server that speaks OpenAI's protocol, and the folder of its answers."""

    url: str = field(repr=False)
    """Base URL, mostly ending in /v1; it may have a password in it, or a key."""
    model: str
    """As the server calls it."""
    answers: Path
    """Folder of answers; made if need be."""
    key: str = field(default=NO_KEY, repr=False)
    timeout: float = 600.0
    """Seconds to wait for one answer: a model on a CPU is slow."""
    max_retries: int = 4
    """Of the client's, with growing pauses: on a lost connection, a timeout, 408, 409, 429, 5xx."""
    max_tokens: int = 512
    """Of an answer, thoughts included where the model has them."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(
                f"url={self.address!r}: wanted a base URL such as http://localhost:8000/v1"
            )

    @staticmethod
    def from_environment(answers: str | Path, **options: Any) -> Endpoint | None:
        """The endpoint that the environment names, or None where it names none.

        Args:
            answers: folder of answers.
            options: other fields.

        Raises:
            ValueError: only some of the variables are set, or the URL is none.
        """
        url, model, key = (os.environ.get(name, "").strip() for name in (URL, MODEL, KEY))
        if not (url or model or key):
            return None
        missing = [name for name, value in ((URL, url), (MODEL, model)) if not value]
        if missing:
            given = [n for n, v in ((URL, url), (MODEL, model), (KEY, key)) if v]
            raise ValueError(
                f"{' and '.join(given)} set without {' and '.join(missing)}: a judge needs a base "
                "URL and a model; unset all to go without"
            )
        return Endpoint(url, model, Path(answers), key or NO_KEY, **options)

    @property
    def address(self) -> str:
        """The URL without what may be secret in it: for messages."""
        scheme, mark, rest = self.url.rpartition("://")
        return self._hidden(scheme + mark + re.split("[?#]", rest)[0].rpartition("@")[2])

    def _hidden(self, text: str) -> str:
        """A text with each key and password in it, however it is quoted, blacked out."""
        front, _, query = self.url.rpartition("://")[2].partition("?")
        login = front.rpartition("@")[0]
        secrets = {self.key, *login.partition(":")[2:], *(value for _, value in parse_qsl(query))}
        forms = {base64.b64encode(unquote(login).encode()).decode()}
        for secret in secrets - {NO_KEY}:
            for form in (secret, unquote(secret)):
                forms |= {form, quote(form), quote(form, safe=""), quote_plus(form)}
                forms |= {json.dumps(form)[1:-1], repr(form)[1:-1]}
        for form in sorted(forms, key=len, reverse=True):
            if len(form) >= LEAST_SECRET:
                text = text.replace(form, "***")
        return text

    def ask(self, prompt: str) -> str:
        """The model's answer: at temperature 0 and with a seed, where the server takes them.

        Args:
            prompt: the only message.

        Returns:
            Its text without thoughts (up to ``</think>``); from the folder, if it was asked before.

        Raises:
            EndpointError: no answer, or an empty one.
            ImportError: openai is not installed.
        """
        asked = {"model": self.model, "prompt": prompt, "seed": SEED, "max_tokens": self.max_tokens}
        name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        file = self.answers / f"{name}.json"
        if file.is_file():
            try:
                answer = json.loads(file.read_text(encoding="utf-8"))["answer"]
                if isinstance(answer, str) and answer.strip():
                    return answer
            except (ValueError, LookupError, TypeError, RecursionError):
                pass
            log.warning("%s is damaged: its question is asked again", file)
        answer = self._hidden(self._fetch(prompt))
        self.answers.mkdir(parents=True, exist_ok=True)
        content = json.dumps(asked | {"answer": answer}, indent=1, ensure_ascii=False)
        with FileLock(self.answers / ".lock"):
            write_whole(file, content.encode())
        return answer

    def _fetch(self, prompt: str) -> str:
        try:
            import openai
        except ImportError as error:
            raise ImportError("a judge is asked with openai: pip install openai") from error
        options: dict[str, Any] = {"temperature": 0, "seed": SEED, "max_tokens": self.max_tokens}
        messages: Any = [{"role": "user", "content": prompt}]
        try:
            with openai.OpenAI(
                base_url=self.url, api_key=self.key, timeout=self.timeout,
                max_retries=self.max_retries,
            ) as client:  # fmt: skip
                while True:
                    try:
                        reply = client.chat.completions.create(
                            model=self.model, messages=messages, **options
                        )
                        break
                    except openai.BadRequestError as error:
                        if error.param not in options:
                            raise
                        value = options.pop(error.param)  # some models refuse some options
                        if error.param == "max_tokens":  # and want this by its newer name
                            options["max_completion_tokens"] = value
        # A reason is kept and raised below: the client's own errors may show the key.
        except openai.APIConnectionError as error:
            why = f"does not answer ({error.__cause__ or error})"
        except openai.APIStatusError as error:
            why = f"answers {error.status_code} ({error.body or error})"
        except (openai.APIError, ValueError) as error:
            why = f"gives what is no chat completion ({error})"
        else:
            try:
                choice = reply.choices[0]
                text, ended = choice.message.content, choice.finish_reason
                if not isinstance(text, str | None):
                    raise TypeError
            except (AttributeError, LookupError, TypeError):  # the client checks no types
                why = f"gives what is no chat completion ({reply})"
            else:
                if text := (text or "").rpartition("</think>")[2].strip():
                    return text
                why = f"gives an empty answer (it ended by {ended!r})"
        raise EndpointError(
            f"{self.address} {self._hidden(why)[:400]}; wanted a chat completion by "
            f"{self.model!r}. Check {URL}, {MODEL} and {KEY}; answers so far are kept in "
            f"{self.answers}"
        )
