#!/usr/bin/env bash
# ruamel.yaml 0.19.1: a plain scalar of a sign or a number prefix and underscores cannot be loaded.
#
# "-_", "+_" and "0x_" match none of the integers of YAML 1.2 (nor those of 1.1, which need a digit),
# and "._" is no float: they are plain texts. The resolver takes them for numbers, and the constructor
# fails: ValueError from the safe loader, IndexError from the round-trip loader for the integers. The
# error is not a YAMLError and names no line. "_" alone is a text.
# Expected: {"a": "-_"}. PyYAML 6.0.3 gives that for "-_" and "._".
# What to do: quote such texts; catch ValueError and IndexError beside YAMLError and name the file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "ruamel.yaml==0.19.1" "PyYAML==6.0.3"
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys

import ruamel.yaml
import yaml


def load(reader, text):
    try:
        return repr(reader(text)["a"])
    except Exception as error:
        return type(error).__name__


safe = ruamel.yaml.YAML(typ="safe", pure=True).load
rows = {
    text: (
        load(safe, f"a: {text}"),
        load(ruamel.yaml.YAML().load, f"a: {text}"),
        load(yaml.safe_load, f"a: {text}"),
    )
    for text in ("_", "-_", "+_", "0x_", "._")
}
print("ruamel.yaml", ruamel.yaml.__version__, "PyYAML", yaml.__version__)
for text, row in rows.items():
    print(f"{text:4} safe {row[0]:11} round trip {row[1]:11} PyYAML {row[2]}")
seen = [rows[text][:2] for text in ("-_", "+_", "0x_", "._")]
if seen != [("ValueError", "IndexError")] * 3 + [("ValueError", "ValueError")]:
    sys.exit("the behavior has changed")
if rows["_"][0] != "'_'" or rows["-_"][2] != "'-_'":
    sys.exit("the behavior of the other cases has changed")
PY
