"""Settings files with a base: `base: OTHER.yaml`, a path relative to the file itself."""

import os

import jsonargparse
import yaml

from mindfcn.errors import UserError
from mindfcn.storage.files import read_yaml

BASE = "base"


class ActionRecipeFile(jsonargparse.ActionConfigFile):
    """The option --config: a file's settings override those of its bases."""

    def __call__(self, parser, cfg, values, option_string=None):
        """Add the settings of the file `values` to `cfg`. Raises UserError."""
        super().__call__(parser, cfg, _with_bases(values), option_string)


def read_recipe(path):
    """[(file, its own settings)], from the lowest base to the file at `path`.

    Raises UserError if a file is not YAML or holds no settings, if a base does not exist, or if the bases form a cycle.
    """
    recipe, seen = [], set()
    while path:
        seen.add(os.path.realpath(path))
        content = read_yaml(path)
        if not isinstance(content, dict) or not content:
            raise UserError(f"{path} holds no settings; write lines such as `seed: 1`, or start from --print_config")
        recipe.insert(0, (path, {name: value for name, value in content.items() if name != BASE}))
        path = _base_path(path, content[BASE], seen) if BASE in content else None
    return recipe


def merge(below, above):
    """Merge nested dictionaries: `above` overrides `below`. Lists are replaced, not joined."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def _base_path(path, base, seen):
    if not isinstance(base, str) or not base:
        raise UserError(f"{path}: {BASE} must be the path of a YAML file, not {base!r:.60}")
    found = os.path.normpath(os.path.join(os.path.dirname(path), base))
    if not os.path.isfile(found):
        raise UserError(f"{path}: its {BASE} {base!r} does not exist; write a path relative to {path}")
    if os.path.realpath(found) in seen:
        raise UserError(f"{path}: its {BASE} {base!r} leads back to {path}; remove a {BASE} line from this cycle")
    return found


def _with_bases(path):
    """The path itself if its file has no base, otherwise the merged settings as YAML text."""
    recipe = read_recipe(path)
    if len(recipe) == 1:
        return path
    merged = {}
    for _, settings in recipe:
        merged = merge(merged, settings)
    try:
        return yaml.safe_dump(merged, sort_keys=False)
    except RecursionError:
        raise UserError(f"{path}: its values are nested too deeply") from None
