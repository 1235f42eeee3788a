"""Help and messages in Chinese: every text of the table exists, and its values go where they belong."""

import ast
import os
import re
from pathlib import Path

import pytest

import mindfcn
from mindfcn.cli.language import PLACE, TABLE, choose_language, localize, translate
from mindfcn.cli.main import main
from mindfcn.cli.parser import parse
from mindfcn.cli.verbs import VERBS
from mindfcn.errors import UserError
from mindfcn.storage.files import read_yaml

SOURCE = Path(mindfcn.__file__).parent
CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.fixture(autouse=True)
def english():
    """The language is English again after a test."""
    yield
    choose_language(["--language", "en"])


@pytest.fixture(scope="module")
def table():
    return read_yaml(TABLE)


def template(node):
    """A text of the source with {} for its values, several in a row as one; None for what is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    elif isinstance(node, ast.JoinedStr):
        text = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [template(part) for part in (node.left, node.right)]
        text = "".join("{}" if part is None else part for part in parts) if any(parts) else None
    else:
        text = None
    return text and blank(text)


def blank(text):
    return re.sub(r"(\{\w*\})+", "{}", text)


@pytest.fixture(scope="module")
def sources():
    """All texts of the package, and the messages among them."""
    texts, messages = {os.strerror(number) for number in range(1, 130)}, set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            texts.add(template(node))
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).endswith(("UserError", ".say")):
                messages.add(template(node.args[0]))
    return texts - {None}, messages - {None}


def test_the_help_is_chinese_by_option_or_environment(table, capsys):
    cases = ((["--language", "zh"], {}), (["--language=zh"], {"LANG": "en_US.UTF-8"}), ([], {"LANG": "zh_CN.UTF-8"}))
    for before, environment in cases:
        arguments = choose_language([*before, "--help"], environment)
        with pytest.raises(SystemExit):
            parse(arguments)
        shown = re.sub(r"\s", "", capsys.readouterr().out)
        assert "全卷积语义分割" in shown
        assert all(re.sub(r"\s", "", table["texts"][verb.purpose]) in shown for verb in VERBS.values())
    for environment in ({}, {"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}, {"LANG": "de_DE"}):
        choose_language([], environment)
        assert translate("text") == "text" and localize("stopped") == "stopped"


def test_the_parsers_messages_are_chinese():
    choose_language(["--language", "zh"])
    with pytest.raises(UserError, match="没有选项 --optim.rate.*；参见 mindfcn train --help"):
        parse(["train", "--optim.rate", "1"])
    with pytest.raises(UserError, match="--optim.epochs：应为整数，实际是 'many'"):
        parse(["train", "--optim.epochs", "many"])
    with pytest.raises(UserError, match="choose en or zh"):
        choose_language(["--language", "fr"])


def test_every_verb_has_its_chinese_words(table):
    for verb in VERBS.values():
        assert verb.purpose in table["texts"] and verb.config.__doc__.split("\n")[0] in table["texts"]


def test_every_text_of_the_table_is_in_the_source(table, sources):
    texts, _ = sources
    headings = {verb.config.__doc__.split("\n")[0] for verb in VERBS.values()}
    known = texts | {blank(text) for text in headings}
    assert not [text for part in table.values() for text in part if blank(text) not in known]


def test_both_languages_have_the_same_places(table):
    for part in table.values():
        for english, chinese in part.items():
            assert set(PLACE.findall(english)) == set(PLACE.findall(chinese)), english
            assert english == chinese or CHINESE.search(chinese) or "{" in english, english


def test_a_message_is_recognised_and_no_other_is_taken_for_it(table, sources):
    """Each message of the source, with values in it, becomes its own translation or stays."""
    choose_language(["--language", "zh"])
    for english, chinese in table["messages"].items():
        values = {name: f"<{name}>" for name in PLACE.findall(english)}
        assert localize(english.format(**values)) == chinese.format(**values)
    translated = {blank(english) for english in table["messages"]}
    for message in sources[1] - translated:
        filled = message.replace("{}", "<x>")
        assert not CHINESE.search(localize(filled)), message


def test_values_are_translated_and_places_kept():
    choose_language(["--language", "zh"])
    assert localize("cannot read a.png: No such file or directory; check the path") == (
        "无法读取 a.png：没有这个文件或文件夹；请检查路径")
    assert localize("--optim.epochs -1: must be at least 1") == "--optim.epochs -1：必须不小于 1"
    assert localize("left out a.jpg: a.jpg is not an image; remove or replace it") == (
        "跳过 a.jpg：a.jpg 不是图像；请删除或替换它")
    assert localize("somewhere: a.jpg is not an image; remove or replace it") == (
        "somewhere: a.jpg 不是图像；请删除或替换它")
    for unknown in ("no such message", "a table\nof lines: stopped", ""):
        assert localize(unknown) == unknown


@pytest.mark.parametrize("arguments, status, words", [
    (["predict", "nowhere.jpg"], 1, "没有文件或文件夹 nowhere.jpg；请检查路径"),
    (["inspect", "nowhere"], 1, "没有 nowhere；请给出自己的文件夹、VOC 文件夹或记录"),
    (["labels", "--from", "nowhere"], 1, "没有文件夹 nowhere；请给出掩码的文件夹"),
    (["train", "--optim.epochs", "-1"], 1, "--optim.epochs -1：必须不小于"),
    (["eval", "--checkpoint", "nowhere.ckpt"], 1, "无法读取 nowhere.ckpt：没有这个文件或文件夹；请检查路径"),
    (["weights"], 0, "保存在 ckpt；"),
    (["weights", "fetch", "nothing"], 1, "没有名为 'nothing' 的已发布权重"),
    (["train", "--config", "nowhere.yaml"], 2, "无法读取 nowhere.yaml：没有这个文件或文件夹；请检查路径；参见"),
])
def test_a_command_answers_in_chinese_with_the_same_status(arguments, status, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINDFCN_HOME", raising=False)
    shown = []
    for language in ("en", "zh"):
        assert main(["--language", language, *arguments]) == status
        captured = capsys.readouterr()
        shown.append(captured.out + captured.err)
    assert not CHINESE.search(shown[0]) and words in shown[1]
