# Sourced by the run scripts: sets PYTHON to an interpreter that has MindFCN.
# A Python whose MindSpore works (an Ascend or GPU server) is used as it is, and nothing is installed over it;
# otherwise .venv is made and filled. EXTRAS names further groups of setup.cfg, such as test.

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# A device or machine count, a whole number from 1.
check_count() {
    case "$2" in
        '' | *[!0-9]* | 0) say "$1=$2: must be a whole number from 1"; exit 2 ;;
    esac
}

# Run a verb of mindfcn: in one process, or on DEVICE_NUM devices of each of NODES machines, this one being number NODE_RANK.
launch() {
    check_count DEVICE_NUM "${DEVICE_NUM:-1}"
    check_count NODES "${NODES:-1}"
    if [ "${DEVICE_NUM:-1}" -gt 1 ] || [ "${NODES:-1}" -gt 1 ]; then
        export GLOG_v="${GLOG_v:-3}"
        exec msrun --worker_num="$((${DEVICE_NUM:-1} * ${NODES:-1}))" --local_worker_num="${DEVICE_NUM:-1}" \
            --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${MASTER_PORT:-8118}" --node_rank="${NODE_RANK:-0}" \
            --log_dir="${LOG_DIR:-msrun_logs}" --join=True --tail_worker_log=0 "$root/src/mindfcn/__main__.py" "$@"
    fi
    exec "$PYTHON" -m mindfcn "$@"
}

# The newest Python that MindSpore has wheels for; 3.11 first, with which most of the measurements were made.
find_python() {
    local name
    for name in python3.11 python3.12 python3.10 python3.9 python3 python; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info < (3, 13))' 2>/dev/null; then
            printf '%s\n' "$name"
            return
        fi
    done
    return 1
}

# How to get a Python on this system, for a message.
python_advice() {
    if command -v apt-get >/dev/null; then
        printf 'sudo apt-get install python3 python3-venv (3.9 to 3.12), or curl -LsSf https://astral.sh/uv/install.sh | sh\n'
    elif command -v brew >/dev/null; then
        printf 'brew install python@3.12\n'
    else
        printf 'curl -LsSf https://astral.sh/uv/install.sh | sh\n'
    fi
}

# An empty environment in .venv, by the first of Python, uv, mamba and conda that can make one.
make_environment() {
    local base tool
    if base=$(find_python); then
        "$base" -m venv "$root/.venv"
    elif command -v uv >/dev/null; then
        uv venv --quiet --seed --python 3.12 "$root/.venv"
    elif tool=$(command -v mamba || command -v conda); then
        "$tool" create --quiet --yes --prefix "$root/.venv" python=3.12 pip >/dev/null
    else
        say "no Python 3.9 to 3.12 found (MindSpore has no wheels for others); install one, then run this again:"
        say "    $(python_advice)"
        return 1
    fi
}

# What .venv was filled for: this place, this list of packages, these extras.
stamp() { printf '%s\n' "$root" "$(cksum <"$root/setup.cfg")"; }

installed() {
    [ -x "$root/.venv/bin/python" ] && "$root/.venv/bin/python" -c '' 2>/dev/null &&
        [ -f "$root/.venv/complete" ] && [ "$(sed -n '1,2p' "$root/.venv/complete")" = "$(stamp)" ]
}

has_extras() {
    local extra known
    known=$(sed -n '3p' "$root/.venv/complete" 2>/dev/null)
    for extra in ${EXTRAS:-}; do
        case " $known " in *" $extra "*) ;; *) return 1 ;; esac
    done
}

# With DEVICE_TARGET=GPU, CUDA's libraries come as wheels, too.
use_venv() {
    [ "${DEVICE_TARGET:-}" != GPU ] || EXTRAS="${EXTRAS:-} gpu"
    if [ -e "$root/.venv" ] || [ -L "$root/.venv" ]; then
        if ! "$root/.venv/bin/python" -c '' 2>/dev/null ||
            { [ -f "$root/.venv/complete" ] && [ "$(sed -n '1p' "$root/.venv/complete")" != "$root" ]; }; then
            say "$root/.venv was made for another place or its Python is gone: making it again"
            rm -rf "$root/.venv"
        fi
    fi
    if ! installed || ! has_extras; then
        say "installing MindFCN into .venv: some minutes, 3 GB"
        [ -x "$root/.venv/bin/python" ] || make_environment || return 1
        local extras
        extras=$(sed -n '3p' "$root/.venv/complete" 2>/dev/null)
        extras=$(printf '%s\n' $extras ${EXTRAS:-} | sort -u | tr '\n' ' ')
        extras=${extras% }
        "$root/.venv/bin/python" -m pip install --quiet --editable "$root${extras:+[${extras// /,}]}" || {
            say "installation failed: see pip's message above; an unfinished .venv can be deleted"
            return 1
        }
        { stamp && printf '%s\n' "$extras"; } >"$root/.venv/complete"
    fi
    PYTHON=$root/.venv/bin/python
    export PATH="$root/.venv/bin:$PATH"
    # Printed with the commands to type next.
    if [ "$root" = "$(pwd -P)" ]; then
        export MINDFCN_ACTIVATE="source .venv/bin/activate"
    else
        export MINDFCN_ACTIVATE="source $(printf '%q' "$root")/.venv/bin/activate"
    fi
}

choose_python() {
    local active answer
    active=$(command -v python || command -v python3 || true)
    if [ -z "$active" ] || [ "$active" = "$root/.venv/bin/python" ] || [ "${VIRTUAL_ENV:-}" = "$root/.venv" ] ||
        ! GLOG_v=4 "$active" "$root/scripts/check_python.py" mindspore >/dev/null 2>&1; then
        use_venv
        return
    fi
    # One line: what is missing and how to install it, or a note.
    answer=$("$active" "$root/scripts/check_python.py" packages ${EXTRAS:-}) || { say "$active: $answer"; return 1; }
    [ -z "$answer" ] || say "$active: $answer"
    say "using $active and its MindSpore"
    PYTHON=$active
    export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
}

choose_python || exit 1
