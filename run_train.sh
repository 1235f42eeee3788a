#!/usr/bin/env bash
# Train, evaluate and draw, with one command.
#
#   bash run_train.sh                                          the sample set, on any machine
#   bash run_train.sh configs/NAME.yaml [--key value ...]      any recipe of configs/ and its folders
#   DEVICE_NUM=8 DEVICE_TARGET=Ascend bash run_train.sh ...    several devices, data parallel; docs/scaling.md: machines
set -euo pipefail

unset CDPATH
root=$(cd -P -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$root/run_train.sh"
    exit 0
fi
recipe=$root/configs/sample.yaml
case "${1:-}" in
    *.yaml | *.yml)
        recipe=$1
        [ -f "$recipe" ] || { echo "run_train.sh: no recipe $recipe; choose one of: $(cd "$root" && ls configs/*.yaml configs/*/*.yaml | grep -v /base.yaml | xargs)" >&2; exit 2; }
        shift
        ;;
esac
. "$root/scripts/environment.sh"

launch train --config "$recipe" "$@"
