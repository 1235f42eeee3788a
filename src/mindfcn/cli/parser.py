"""Command line and YAML files -> the settings of a verb, with error messages in the terms of this command."""

import argparse
import dataclasses
import difflib
import re
import typing

import jsonargparse

import mindfcn
from mindfcn.cli.language import localize, translate
from mindfcn.cli.recipes import ActionRecipeFile, read_recipe
from mindfcn.cli.verbs import VERBS
from mindfcn.errors import UserError
from mindfcn.storage.files import UNUSUAL_NUMBER

# What other training tools call a setting.
ELSEWHERE = {"learning_rate": "optim.lr", "wd": "optim.weight_decay", "optimizer": "optim.name",
             "optimiser": "optim.name", "batch": "augment.batch_size", "bs": "augment.batch_size",
             "img_size": "augment.crop_size", "imgsz": "augment.crop_size", "arch": "model.name",
             "backbone": "model.name", "weights": "model.pretrained", "early_stopping": "patience"}

# Similarity, 0..1, from which a setting of another group may be meant.
SIMILAR = 0.75


class Parser(jsonargparse.ArgumentParser):
    """A parser that raises exceptions and accepts no abbreviated options.

    Args:
        essentials: names of the options that --help shows; empty shows all.
        examples: lines shown below them.
    """

    def __init__(self, *arguments, essentials=(), examples=(), **options):
        super().__init__(*arguments, allow_abbrev=False, **options)
        self.essentials, self.examples = essentials, examples
        if essentials:
            self.add_argument("--help_all", action=HelpAll, help=translate("show every setting and exit"))

    def format_help(self, *arguments, **options):
        """The help of the essential options, with examples; or of all options."""
        if not self.essentials:
            return super().format_help(*arguments, **options)
        shown = {"help", "help_all", "config", *self.essentials}
        hidden = {action: action.help for action in self._actions if action.dest not in shown}
        for action in hidden:
            action.help = argparse.SUPPRESS
        try:
            text = super().format_help(*arguments, **options)
        finally:
            for action, words in hidden.items():
                action.help = words
        return "\n".join([text, translate("examples:"), *(f"  {line}" for line in self.examples), ""])

    def error(self, message, ex=None):
        """Raise UserError with the library's message on one line."""
        raise UserError(": ".join(line.strip(" -") for line in str(message).splitlines() if line.strip()))


class HelpAll(argparse._HelpAction):
    """The option --help_all."""

    def __call__(self, parser, *_):
        """Show the help of all options and exit."""
        parser.essentials = ()
        parser.print_help()
        parser.exit()


def parse(arguments):
    """(verb, its settings dataclass) from the arguments after `mindfcn`. Raises UserError."""
    parser = Parser(prog="mindfcn", description=translate(
        "Fully convolutional semantic segmentation on MindSpore. --language en or zh before a verb sets the language."))
    parser.add_argument("--version", action="version", version=f"mindfcn {mindfcn.__version__}")
    verbs = parser.add_subcommands(required=True, dest="verb")
    verb = next((word for word in arguments if word in VERBS), None)
    for name, known in VERBS.items():
        # Collecting the settings takes long; those of the other verbs are not needed.
        added = _verb_parser(name, known.config) if name == verb else Parser()
        verbs.add_subcommand(name, added, help=translate(known.purpose))
        added.prog = f"mindfcn {name}"
    try:
        for path in _config_files(arguments) if verb else ():
            check_config_file(path, VERBS[verb].config)
        names = parser.parse_args(_with_values(arguments))
    except UserError as error:
        help_of = f"mindfcn {verb} --help" if verb else "mindfcn --help"
        message = localize(_rewritten(str(error), verb, arguments))
        raise UserError(translate("{message}; see {help}", message=message, help=help_of)) from None
    settings = names[names["verb"]].as_dict()
    settings.pop("config", None)
    try:
        return names["verb"], _build(VERBS[names["verb"]].config, settings)
    except UserError as error:
        raise UserError(translate("{message}; see {help}", message=error, help=f"mindfcn {names['verb']} --help"
                                  )) from None


def _verb_parser(name, config):
    parser = Parser(description=translate((config.__doc__ or "").split("\n")[0]),
                    usage=f"mindfcn {name} {VERBS[name].usage}[--config FILE] [--SETTING VALUE ...]",
                    essentials=VERBS[name].essentials, examples=VERBS[name].examples)
    parser.add_argument("--config", action=ActionRecipeFile, metavar="FILE",
                        help=translate("YAML file of settings; options after it win"))
    arguments = VERBS[name].arguments
    parser.add_class_arguments(config, skip={argument.name for argument in arguments})
    for argument in arguments:
        parser.add_argument(*argument.flags, **argument.options)
    return parser


def _config_files(arguments):
    """Yield the files given with --config."""
    for word, following in zip(arguments, [*arguments[1:], ""]):
        if word.startswith("--config="):
            yield word.partition("=")[2]
        elif word == "--config" and following:
            yield following


def check_config_file(path, config):
    """Raise UserError if a file is not YAML, holds no settings, or names an unknown setting."""
    for file, settings in read_recipe(path):
        _check_names(file, settings, config, known=_types(config))


def _check_names(path, content, config, prefix="", known=()):
    """Raise UserError for an unknown setting; `known` are the dotted names of the complete file's settings."""
    hints = typing.get_type_hints(config)
    for name, value in content.items():
        if name not in hints:
            raise UserError(f"{path}: there is no setting {prefix}{name}{_suggestion(str(name), hints, known, prefix)}")
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise UserError(f"{path}: {prefix}{name} must hold settings, indented on lines below it, not {value!r}")
            _check_names(path, value, hints[name], f"{prefix}{name}.", known)
        elif (unusual := _unusual_number(value)) and hints[name] is not str:
            raise UserError(f"{path}: {prefix}{name}: {unusual} is not a decimal number; write it as one")
        elif entry := _entry_type(hints[name]):
            if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
                raise UserError(f"{path}: {prefix}{name} must be a list of settings, such as `- name: fcn8s_vgg16`")
            for number, one in enumerate(value, 1):
                _check_names(path, one, entry, f"{prefix}{name} {number}: ")


def _unusual_number(value):
    """The first text, such as 010 or 1:30, that YAML 1.1 reads as a number of base 8 or 60, or ""."""
    if isinstance(value, list):
        return next(filter(None, map(_unusual_number, value)), "")
    return value if isinstance(value, str) and UNUSUAL_NUMBER.fullmatch(value) else ""


def _entry_type(kind):
    """The dataclass of a list type's entries, or None."""
    entries = typing.get_args(kind) if typing.get_origin(kind) is list else ()
    return entries[0] if entries and dataclasses.is_dataclass(entries[0]) else None


def _suggestion(name, here, known=(), prefix=""):
    """The question whether another setting was meant, or "".

    Args:
        name: a name that is no setting, or an option that is none.
        here: names of the settings of the same group, without the group's `prefix`, or options.
        known: dotted names of all settings, or options.
    """
    last = name.lstrip("-").split(".")[-1]
    elsewhere = "." + ELSEWHERE.get(last, last)
    same = [other for other in known if ("." + other.lstrip("-")).endswith(elsewhere)]
    # Of two settings of one name, the one in fewer groups.
    by_last = {other.lstrip("-").split(".")[-1]: other for other in sorted(known, key=lambda one: -one.count("."))}
    meant = (same or [by_last[near] for near in difflib.get_close_matches(last, by_last, 1, SIMILAR)]
             or [prefix + near for near in difflib.get_close_matches(name, here, 1)])
    return translate("; did you mean {name}?", name=translate(" or ").join(meant)) if meant else ""


def _rewritten(message, verb, arguments):
    """Rewrite an error message of the parsing library in the terms of this command."""
    types = _types(VERBS[verb].config) if verb else {}
    wrong = re.match(r'Parser key "([\w.]+)"(?: element \d+:)?:.*?'
                     r"(?:Got value:|Given value:|load config|path string:) ?(.*)", message)
    if wrong and wrong[1] in types:
        key, value = wrong.groups()
        given = any(word.split("=")[0] == f"--{key}" for word in arguments)
        place = f"--{key}" if given else ", ".join(_config_files(arguments)) + f": {key}"
        value = re.split(": (?:Parser key|Expected a|Given value)", value)[0].strip("'")[:60]
        return translate("{place}: expected {kind}, got {value}", place=place, kind=_type_in_words(types[key]),
                         value=repr(value))
    entries = {name: kind for entry in filter(None, map(_entry_type, types.values()))
               for name, kind in _types(entry).items()}
    if wrong and wrong[1] in entries:
        return f"variants: {wrong[1]}: expected {_type_in_words(entries[wrong[1]])}, got {wrong[2][:60]!r}"
    missing = re.match(r"the following arguments are required: (.*)", message)
    if missing and missing[1] in entries:
        return f"variants: each needs a {missing[1]}"
    if missing:
        names = [name.split(".")[-1] for name in missing[1].split(", ")]
        return translate("missing: {names}", names=", ".join(_usage(verb, name) for name in names))
    unknown = re.match(r"(?:unrecognized arguments:|Subcommand \S+ does not accept option) '?([^\s']+)", message)
    if unknown:
        name = unknown[1].split("=")[0]
        if not name.startswith("-"):
            usual = [_usage(verb, one).split()[0] for one in types if one in ("checkpoint", "image", "masks")]
            option = next((one for one in usual if one not in arguments), None)
            meant = translate("; did you mean {name}?", name=f"{option} {name}") if option else ""
            return translate("unexpected argument {name}", name=name) + meant
        options = [f"--{known}" for known in types if known not in _argument_names(verb)]
        return translate("there is no option {name}", name=name) + _suggestion(name, options, options)
    if not verb:
        wrong = re.match(r"argument verb: invalid choice: (\S+)", message)
        verbs = ", ".join(VERBS)
        if wrong:
            return translate("there is no verb {name}; begin with one of {verbs}", name=wrong[1], verbs=verbs)
        return translate("no verb; begin with one of {verbs}", verbs=verbs)
    return re.sub("^argument ", "", message)[:400].rstrip(".")


def _argument_names(verb):
    return [argument.name for argument in VERBS[verb].arguments] if verb else []


def _usage(verb, name):
    """How to give a required setting on the command line."""
    argument = next((one for one in VERBS[verb].arguments if one.name == name), None) if verb else None
    if argument is None:
        return f"--{name} FILE"
    return f"{argument.flags[-1]} {argument.options['metavar']}" if argument.flags[0].startswith("-") else name


def _types(config, prefix=""):
    """{dotted name of a setting or of a group of settings: its type}."""
    found = {}
    for name, kind in typing.get_type_hints(config).items():
        found[prefix + name] = kind
        if dataclasses.is_dataclass(kind):
            found.update(_types(kind, f"{prefix}{name}."))
    return found


def _type_in_words(kind):
    """Describe a type in words."""
    if typing.get_origin(kind) is typing.Union:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is typing.Literal:
        choices = ", ".join(str(choice) or "'' (nothing)" for choice in typing.get_args(kind))
        return translate("one of {choices}", choices=choices)
    if typing.get_origin(kind) is tuple:
        count = len(typing.get_args(kind))
        return f"{count} numbers, such as {[0.01, 0.0001] if count == 2 else list(range(count, 0, -1))}"
    if _entry_type(kind):
        return "a list such as [{name: fcn32s_vgg16}, {name: fcn8s_vgg16}]"
    if typing.get_origin(kind) is list:
        (entry,) = typing.get_args(kind)
        if entry is float:
            return "numbers"
        choices = typing.get_args(entry)
        return "a list such as [a, b]" + (f" of {', '.join(choices)}" if choices else "")
    if dataclasses.is_dataclass(kind):
        return "a YAML file of settings"
    if typing.get_origin(kind) is dict:
        return "settings such as {optim.lr: 0.01}"
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    return translate(words.get(kind, str(kind)))


def _with_values(arguments):
    """Expand `--resume` to `--resume true`, and `--skip-bad` to `--skip_bad`."""
    switches = {f"--{name}" for verb in VERBS.values() for name, kind in _types(verb.config).items() if kind is bool}
    out = []
    arguments = [_underscored(word) if word.startswith("--") else word for word in arguments]
    for place, word in enumerate(arguments):
        following = arguments[place + 1] if place + 1 < len(arguments) else "--"
        bare = word in switches and following.lower() not in ("true", "false")
        out.append(f"{word}=true" if bare else word)
    return out


def _underscored(word):
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _build(config, settings, prefix=""):
    """Nested dictionaries -> nested dataclasses. Raises UserError for values that the parsing library lets through."""
    def convert(name, kind, value):
        if value is None and type(None) not in typing.get_args(kind):
            raise UserError(translate("{place}: expected {kind}, got {value}", place=prefix + name,
                                      kind=_type_in_words(kind), value="null"))
        if isinstance(value, str) and "\0" in value:
            raise UserError(translate("{place}: the text contains a NUL character; remove it", place=prefix + name))
        if _entry_type(kind):
            return [_build(_entry_type(kind), one, f"{prefix}{name} {number}: ") for number, one in enumerate(value, 1)]
        return _build(kind, value, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else value

    hints = typing.get_type_hints(config)
    return config(**{name: convert(name, hints[name], value) for name, value in settings.items()})
