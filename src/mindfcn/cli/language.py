"""The language of help and messages: English, or Chinese by `--language zh` or the locale of the environment.

The Chinese texts are in zh.yaml. The command's own are looked up by `translate`. The rest of the package writes its
messages in English, with values in them; `localize` recognises such a line by its form.
"""

import os
import re
from pathlib import Path

from mindfcn.errors import UserError
from mindfcn.storage.files import read_yaml

TABLE = Path(__file__).with_name("zh.yaml")
PLACE = re.compile(r"\{(\w+)\}")
_texts: dict[str, str] = {}
_messages: list[tuple[re.Pattern, str]] = []


def choose_language(arguments, environment=os.environ):
    """Set the language from `--language` before the verb, else from the environment.

    Returns:
        the arguments without it.

    Raises:
        UserError: a language other than en and zh.
    """
    # The order of locales; the first one that is set decides.
    language = next(filter(None, map(environment.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "en")
    option, equals, value = "".join(arguments[:1]).partition("=")
    if option == "--language":
        language, arguments = (value, arguments[1:]) if equals else ("".join(arguments[1:2]), arguments[2:])
        if language not in ("en", "zh"):
            raise UserError(f"--language {language}: choose en or zh")
    _texts.clear()
    _messages.clear()
    if language.startswith("zh"):
        table = read_yaml(TABLE)
        _texts.update(table["texts"])
        # A long message may have the form of a shorter one, too.
        by_length = sorted(table["messages"].items(), key=lambda entry: -len(PLACE.sub("", entry[0])))
        _messages.extend((_form(english), chinese) for english, chinese in by_length)
    return arguments


def translate(text, **values):
    """A text in the chosen language, or as it is; `values` fill its {names}."""
    text = _texts.get(text, text)
    return text.format(**values) if values else text


def localize(message):
    """A message of one line in the chosen language, with its values; as it is if it has no translation."""
    if not _messages or "\n" in message:
        return message
    for form, chinese in _messages:
        found = form.fullmatch(message)
        if found:
            return chinese.format(**{name: localize(value) for name, value in found.groupdict().items()})
    place, colon, reason = message.partition(": ")
    return f"{place}: {localize(reason)}" if colon else message


def _form(template):
    """A pattern that matches a template with any values; a name that comes twice has one value."""
    pattern, seen = "", set()
    for number, part in enumerate(PLACE.split(template)):
        if number % 2:
            pattern += f"(?P={part})" if part in seen else f"(?P<{part}>.*?)"
            seen.add(part)
        else:
            pattern += re.escape(part)
    return re.compile(pattern)
