#!/bin/sh
# An environment of its own for the tools that lwdc is compared with: .venv-peers, layered over .venv, which stays
# as it is. lwdc never depends on what is installed here. Run it from the repository's root, as `make peers` does.
set -eu
test -x .venv/bin/python || { echo "there is no .venv yet: make .venv" >&2; exit 2; }
.venv/bin/python -m venv .venv-peers
below=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
own=$(.venv-peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# addsitedir, so that what .venv itself adds to its path (lwdc, editable) is found as well.
echo "import site; site.addsitedir('$below')" > "$own/lwdc.pth"
.venv-peers/bin/python -m pip install --no-deps torch-pruning==1.6.1
.venv-peers/bin/python -c 'import lwdc, onnxruntime, torch_pruning'
