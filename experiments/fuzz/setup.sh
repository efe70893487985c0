#!/bin/sh
# An environment of its own for atheris: .venv-fuzz, layered over .venv, which stays as it is. Run it from the
# repository's root, as `make fuzz` does.
set -eu
test -x .venv/bin/python || { echo "there is no .venv yet: make .venv" >&2; exit 2; }
test -x .venv-fuzz/bin/python || .venv/bin/python -m venv .venv-fuzz
below=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
own=$(.venv-fuzz/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "import site; site.addsitedir('$below')" > "$own/lwdc.pth"
.venv-fuzz/bin/python -m pip install --no-deps atheris==3.0.0
.venv-fuzz/bin/python -m pip install -c constraints.txt datasets
