#!/usr/bin/env bash
# A short check of another Python and MindSpore, in an environment of its own and with the package as others install it,
# not with the sources: install, train, evaluate, predict, export, one notebook. Prints one line for each step and ends
# with "PYTHON, MindSpore VERSION: passed".
#
#   bash scripts/check_version.sh python3.12 2.10.0 [WHEEL]
set -euo pipefail

unset CDPATH
root=$(cd -P -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)
python=$1 version=$2 package=${3:-$root}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

step() {
    local name=$1
    shift
    if ! "$@" >"$folder/log" 2>&1; then
        cat "$folder/log" >&2
        echo "$python, MindSpore $version: $name failed" >&2
        exit 1
    fi
    # A warning of a deprecation would reach every user.
    if grep -n "Deprecat" "$folder/log"; then
        echo "$python, MindSpore $version: $name prints warnings of deprecations" >&2
        exit 1
    fi
    echo "$python, MindSpore $version: $name"
}

step "environment" "$python" -m venv "$folder/env"
step "installation" "$folder/env/bin/python" -m pip install --quiet "mindspore==$version" \
    "$package[export]" pytest nbclient nbformat ipykernel jupytext
export PATH="$folder/env/bin:$PATH"
step "installed files" ls "$folder"/env/lib/python*/site-packages/mindfcn/{py.typed,__init__.pyi,report/page.{html,css,js},serve/page/{index.html,page.js,words.js}}
cd "$folder"
run=$folder/run
step "training" mindfcn train --device CPU --run_dir "$run" --data.records "$folder/records" \
    --data.source sample --data.root "$folder/sample" --data.samples 15 --data.size 64 \
    --model.width 0.125 --model.fc_width 16 --augment.crop_size 32 --optim.epochs 1
step "evaluation" mindfcn eval --device CPU --checkpoint "$run/checkpoints/best.ckpt" --out "$folder/evaluation"
step "prediction" mindfcn predict --checkpoint "$run/checkpoints/best.ckpt" --out "$folder/masks" \
    "$folder/sample/JPEGImages/sample_000000.jpg"
step "export" mindfcn export --checkpoint "$run/checkpoints/best.ckpt" --out_file "$folder/net.onnx"
step "prediction with ONNX" mindfcn predict --checkpoint "$folder/net.onnx" --out "$folder/masks_onnx" \
    "$folder/sample/JPEGImages/sample_000000.jpg"
# Jupyter has deprecations of its own.
step "notebook" python -m pytest -q -p no:cacheprovider --disable-warnings \
    "$root/tests/repository/test_notebook.py" -k "runs and own_data"
echo "$python, MindSpore $version: passed"
