# Sourced by the run scripts: sets PYTHON to an interpreter that has MindFCN.
# A Python whose MindSpore works (an Ascend or GPU server) is used as it is, and nothing is installed over it;
# otherwise .venv is made and filled.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Run a verb of mindfcn: in one process, or on DEVICE_NUM devices of each of NODES machines, this one being number NODE_RANK.
launch() {
    if [ "${DEVICE_NUM:-1}" -gt 1 ] || [ "${NODES:-1}" -gt 1 ]; then
        export GLOG_v="${GLOG_v:-3}"
        exec msrun --worker_num="$((${DEVICE_NUM:-1} * ${NODES:-1}))" --local_worker_num="${DEVICE_NUM:-1}" \
            --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${MASTER_PORT:-8118}" --node_rank="${NODE_RANK:-0}" \
            --log_dir="${LOG_DIR:-msrun_logs}" --join=True --tail_worker_log=0 "$root/src/mindfcn/__main__.py" "$@"
    fi
    exec "$PYTHON" -m mindfcn "$@"
}

say() { printf '%s\n' "$*" >&2; }

find_python() {
    local name
    for name in python3.11 python3.10 python3.9 python3 python; do
        if "$name" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info < (3, 12))' 2>/dev/null; then
            printf '%s\n' "$name"
            return
        fi
    done
    say "no Python 3.9 to 3.11 found (MindSpore has no wheels for others): install one, or activate an environment"
    return 1
}

# Whether this interpreter's MindSpore works: a matrix product on its device.
has_mindspore() {
    GLOG_v=4 "$1" -c '
import mindspore as ms, numpy as np
assert (ms.ops.matmul(ms.Tensor(np.eye(2, dtype=np.float32)), ms.ops.ones((2, 2)))).asnumpy().sum() == 4
' >/dev/null 2>&1
}

missing_packages() {
    "$1" - <<'EOF'
import importlib.util
packages = {"cv2": "opencv-python<4.12", "matplotlib": "matplotlib", "PIL": "pillow", "scipy": "scipy", "tqdm": "tqdm",
            "safetensors": "safetensors", "requests": "requests", "jsonargparse": "jsonargparse[signatures]>=4.35,<5",
            "download": "download", "docstring_parser": "docstring-parser",
            "jinja2": "jinja2", "lazy_loader": "lazy-loader"}
print(" ".join(package for module, package in packages.items() if importlib.util.find_spec(module) is None))
EOF
}

make_venv() {
    local base
    base=$(find_python) || return 1
    if [ ! -f "$root/.venv/complete" ] || [ "$root/setup.cfg" -nt "$root/.venv/complete" ]; then
        say "installing MindFCN into .venv"
        "$base" -m venv "$root/.venv" &&
            "$root/.venv/bin/python" -m pip install --quiet --editable "$root${EXTRAS:+[$EXTRAS]}" || {
            say "installation failed: see pip's message above; an unfinished .venv can be deleted"
            return 1
        }
        touch "$root/.venv/complete"
    elif [ -n "${EXTRAS:-}" ]; then
        "$root/.venv/bin/python" -m pip install --quiet --editable "$root[$EXTRAS]" || return 1
    fi
    PYTHON=$root/.venv/bin/python
    export PATH=$root/.venv/bin:$PATH
}

choose_python() {
    local active
    active=$(command -v python || command -v python3 || true)
    if [ -z "$active" ] || [ "$active" = "$root/.venv/bin/python" ] || ! has_mindspore "$active"; then
        make_venv
        return
    fi
    local missing
    missing=$(missing_packages "$active") || return 1
    if [ -n "$missing" ]; then
        say "$active has MindSpore; still missing beside it: pip install $missing"
        return 1
    fi
    say "using $active and its MindSpore"
    PYTHON=$active
    export PYTHONPATH=$root/src${PYTHONPATH:+:$PYTHONPATH}
}

choose_python || exit 1
