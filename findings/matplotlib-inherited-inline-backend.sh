#!/usr/bin/env bash
# matplotlib 3.11.2: `import matplotlib` fails where MPLBACKEND names the backend of a notebook.
#
# A Jupyter kernel sets MPLBACKEND=module://matplotlib_inline.backend_inline, and every program that a
# cell starts inherits it. In an environment without matplotlib-inline, such as that of a tool, even
# the import raises ValueError, although the program may use no backend at all. Any other module that
# does not exist, module://nothing.here, is accepted: only this name is looked up at import.
# Expected: both imports work; a backend that is missing is an error when it is used.
# What to do: a command that shows no window sets MPLBACKEND=agg before it imports matplotlib.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "matplotlib==3.11.2"
cd "$work"
outcome() {
  { MPLBACKEND="$1" "$work/venv/bin/python" -c "import matplotlib; print('imported')" || true; } \
    2>&1 | tail -n 1
}
inline=$(outcome module://matplotlib_inline.backend_inline)
other=$(outcome module://nothing.here)
echo "module://matplotlib_inline.backend_inline: ${inline:0:90}"
echo "module://nothing.here: $other"
# Seen: ValueError: Key backend: 'module://matplotlib_inline.backend_inline' is not a valid value …
case "$inline" in
  "ValueError: Key backend: 'module://matplotlib_inline.backend_inline' is not a valid value"*) ;;
  *) echo "changed: matplotlib imports with that backend"; exit 1 ;;
esac
test "$other" = imported
