#!/bin/sh
# Formats the C++ of this package by .clang-format, in the version of clang-format that is named there. A file under
# device/ is one raw string literal: its text is formatted.
#   format.sh [CLANG_FORMAT]
set -eu
format=${1:-clang-format}
cd "$(dirname "$0")/../Sources/CSoftwareMetal"
"$format" -i ./*.cpp ./*.hpp ./*.h include/*.h
for file in device/*.h; do
  {
    head -n 1 "$file"
    sed '1d;$d' "$file" | "$format" --assume-filename=device/text.cpp
    tail -n 1 "$file"
  } >"$file.new"
  mv "$file.new" "$file"
done
