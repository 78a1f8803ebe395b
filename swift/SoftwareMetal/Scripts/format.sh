#!/bin/sh
# Formats the C++ of this package by .clang-format, in the version of clang-format that is named there. A file under
# device/ is one raw string literal: its text is formatted. With --check, says which files are not, and changes nothing.
#   format.sh [--check] [CLANG_FORMAT]
set -eu
check=
if [ "${1:-}" = --check ]; then
  check=1
  shift
fi
format=${1:-clang-format}
cd "$(dirname "$0")/../Sources/CSoftwareMetal"
new=$(mktemp)
trap 'rm -f "$new"' EXIT
wrong=0
for file in *.cpp *.hpp *.h include/*.h device/*.h; do
  case $file in
  device/*)
    {
      head -n 1 "$file"
      sed '1d;$d' "$file" | "$format" --assume-filename=device/text.cpp
      tail -n 1 "$file"
    } >"$new"
    ;;
  *) "$format" --assume-filename="$file" <"$file" >"$new" ;;
  esac
  if cmp -s "$new" "$file"; then continue; fi
  if [ -n "$check" ]; then
    echo "$file: not as clang-format leaves it"
    wrong=1
  else
    cat "$new" >"$file"
  fi
done
exit $wrong
