#!/usr/bin/env bash
# Segment photographs: masks and overlays in predictions/, with the small network in ckpt/ or any other.
#
#   bash run_predict.sh PHOTO_OR_FOLDER ... [--checkpoint NAME]        mindfcn predict --help lists the keys
#   DEVICE_NUM=8 bash run_predict.sh FOLDER --skip_existing            each of several devices segments its share
set -euo pipefail

unset CDPATH
root=$(cd -P -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)
if [ $# -eq 0 ] || [ "$1" = --help ] || [ "$1" = -h ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$root/run_predict.sh"
    exit $(($# == 0 ? 2 : 0))
fi
. "$root/scripts/environment.sh"

launch predict "$@"
