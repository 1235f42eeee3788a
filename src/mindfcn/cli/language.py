"""The language of help and messages: English, or Chinese by `--language zh` or the locale of the environment."""

import os

from mindfcn.errors import UserError

CHINESE = {
    # Help: the verbs, and the first line of each verb's page
    "Fully convolutional semantic segmentation on MindSpore. --language en or zh before a verb sets the language.":
        "基于 MindSpore 的全卷积语义分割。在子命令前用 --language en 或 zh 选择语言。",
    "YAML file of settings; options after it win": "YAML 设置文件；其后的选项优先",
    "an annotation tool's export -> a folder of images, masks and labels":
        "标注工具的导出 -> 图像、掩码和标签文件的文件夹",
    "An annotation tool's export -> your own folder: images/, masks/, labels.yaml, and lists if it has splits.":
        "标注工具的导出 -> 自己的文件夹：images/、masks/、labels.yaml，有划分时还有列表。",
    "a folder of masks -> a labels file with their classes": "掩码文件夹 -> 列出其中类别的标签文件",
    "Masks -> a labels file: the classes that they hold, found by their numbers or colours.":
        "掩码 -> 标签文件：按编号或颜色找出其中的类别。",
    "a data set -> its contents, its problems, and a contact sheet": "数据集 -> 内容、问题和一张缩略图总览",
    "Check a data set before use: counts, sizes, classes, suspicious masks, and a contact sheet.":
        "使用前检查数据集：数量、尺寸、类别、可疑的掩码，以及一张缩略图总览。",
    "photographs and masks -> MindRecord": "照片和掩码 -> MindRecord",
    "Photographs and masks -> MindRecord files `train.mindrecord` and `val.mindrecord`.":
        "照片和掩码 -> MindRecord 文件 `train.mindrecord` 和 `val.mindrecord`。",
    "MindRecord -> a trained network": "MindRecord -> 训练好的网络",
    "Train a network; prepare the records first if they are missing.": "训练网络；如果没有记录，先生成记录。",
    "a checkpoint -> metrics, tables and pictures of a complete split": "检查点 -> 整个划分上的指标、表格和图片",
    "Evaluate a checkpoint on a complete split.": "在整个划分上评估检查点。",
    "a checkpoint -> parameters of a fully connected CRF, tuned on validation records":
        "检查点 -> 在验证记录上调好的全连接 CRF 参数",
    "Search for the best parameters of a fully connected CRF on validation records.":
        "在验证记录上搜索全连接 CRF 的最佳参数。",
    "a checkpoint and photographs or videos -> masks": "检查点和照片或视频 -> 掩码",
    "Photographs and videos -> masks.": "照片和视频 -> 掩码。",
    "a checkpoint -> an ONNX or MindIR file for other runtimes": "检查点 -> 供其他运行时使用的 ONNX 或 MindIR 文件",
    "A checkpoint -> a file for another runtime; its results are compared with MindSpore's before it is kept.":
        "检查点 -> 供其他运行时使用的文件；结果与 MindSpore 一致才会保留。",
    "a checkpoint -> a page and an HTTP interface to try it": "检查点 -> 用来试用的网页和 HTTP 接口",
    "Serve a page and an HTTP interface to try a checkpoint: a photograph in, classes and areas out.":
        "用网页和 HTTP 接口试用检查点：输入照片，输出类别和面积。",
    "several networks on one data set -> one table, with published figures":
        "同一数据集上的多个网络 -> 一张附有公布数字的表格",
    "Train or load several networks on one data set and compare them in one table.":
        "在同一数据集上训练或加载多个网络，并在一张表中比较。",
    "a checkpoint and a photograph -> the feature maps of the network, layer by layer":
        "检查点和照片 -> 网络逐层的特征图",
    "Show the maps of a trained network for one photograph, layer by layer, in one picture.":
        "在一张图中逐层显示训练好的网络对一张照片的特征图。",
    "published weights by name: list them, or fetch some": "按名称使用已发布的权重：列出或下载",
    "The published weights by name: which there are and which are here, and fetching them.":
        "按名称使用已发布的权重：有哪些、本地已有哪些，以及下载。",
    "a network's name -> its layers: output sizes, receptive fields, parameters, multiply-adds":
        "网络名称 -> 各层的输出尺寸、感受野、参数量和乘加次数",
    "Show a network layer by layer: sizes, receptive fields, parameters, multiply-adds.":
        "逐层显示网络：尺寸、感受野、参数量、乘加次数。",
    "show every setting and exit": "显示全部设置并退出",
    "examples:": "示例：",
    # Messages
    "{message}; see {help}": "{message}；参见 {help}",
    "{place}: expected {kind}, got {value}": "{place}：应为{kind}，实际是 {value}",
    "missing: {names}": "缺少：{names}",
    "there is no option {name}": "没有选项 {name}",
    " or ": " 或 ",
    "; did you mean {name}?": "；是否指 {name}？",
    "there is no verb {name}; begin with one of {verbs}": "没有子命令 {name}；请以下列之一开头：{verbs}",
    "no verb; begin with one of {verbs}": "缺少子命令；请以下列之一开头：{verbs}",
    "a number": "数字",
    "a whole number": "整数",
    "true or false": "true 或 false",
    "text": "文本",
    "one of {choices}": "以下之一：{choices}",
    "this needs MindSpore, which is not installed; install it with pip install 'mindspore>=2.7.1,<2.11'; without it, "
    "predict and serve take .onnx files":
        "这需要 MindSpore，但没有安装；请执行 pip install 'mindspore>=2.7.1,<2.11'；"
        "没有它时，predict 和 serve 可使用 .onnx 文件",
    "the memory of the device is used up; compute less at a time (train: --augment.batch_size or --augment.crop_size; "
    "eval and predict: --window), or end other programs on it":
        "设备内存已用尽；请减少一次计算的量（train：--augment.batch_size 或 --augment.crop_size；"
        "eval 和 predict：--window），或结束设备上的其他程序",
    "interrupted; nothing is left half-written": "已中断；没有留下写了一半的文件",
}
_catalogue: dict[str, str] = {}


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
    _catalogue.clear()
    _catalogue.update(CHINESE if language.startswith("zh") else {})
    return arguments


def translate(text, **values):
    """A text in the chosen language, or as it is; `values` fill its {names}."""
    text = _catalogue.get(text, text)
    return text.format(**values) if values else text
