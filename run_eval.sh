#!/usr/bin/env bash
# Evaluate a checkpoint on its whole validation split: metrics, tables and pictures.
#
#   bash run_eval.sh CHECKPOINT [--key value ...]        mindfcn eval --help lists the keys
#   DEVICE_NUM=8 bash run_eval.sh CHECKPOINT ...         each of several devices evaluates its share
set -euo pipefail

unset CDPATH
root=$(cd -P -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)
if [ $# -eq 0 ] || [ "$1" = --help ] || [ "$1" = -h ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$root/run_eval.sh"
    exit $(($# == 0 ? 2 : 0))
fi
. "$root/scripts/environment.sh"
launch eval --checkpoint "$@"
