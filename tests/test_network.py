"""Nothing phones home: a run with the default settings asks for no address but this machine's own."""

import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import save_file

from lwdc.backbones import Backbone, create

# Python runs this before anything else; the hook hears of every socket that Python code opens.
SITECUSTOMIZE = """
import os
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        host = arguments[1][0] if isinstance(arguments[1], tuple) else None  # a path on this machine
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if host is not None and str(host) not in ("localhost", "::1", "") and not str(host).startswith("127."):
        with open(os.environ["REFUSED"], "a") as file:
            file.write(f"{event} {host}\\n")
        raise OSError("no network here")

sys.addaudithook(refuse)
"""

BOTH = """
import sys
from lwdc import cli

for arguments in (["compress", *sys.argv[1:]], ["report", "run"]):
    sys.argv = ["lwdc", *arguments]
    try:
        cli.main()
    except SystemExit as stop:
        assert not stop.code, stop.code
"""

SETTINGS = [
    "backbone=cifar_resnet8", "+backbone.options.channels=[4,8,8]", "backbone.weights=mine.safetensors",
    "data.limit_train=128", "train.epochs=1", "strategy.epochs=1", "finetune.epochs=1", "latency_batches=[1]",
    "hydra.run.dir=run",
]  # fmt: skip


def alone(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Python, in a folder and with a home of its own, where every address but this machine's is refused."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    path = os.pathsep.join([str(folder / "site"), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "WANDB_", "TORCH_HOME"))}
    variables = kept | {"PYTHONPATH": path, "HOME": str(folder), "REFUSED": str(folder / "refused"), "CI": ""}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=variables, capture_output=True, text=True, timeout=250, check=False
    )


def test_a_connection_would_be_noticed(tmp_path: Path) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 9), 1)"
    assert "no network here" in alone(tmp_path, "-c", code).stderr
    assert "192.0.2.1" in (tmp_path / "refused").read_text()


def test_a_run_and_its_report_ask_for_no_address(tmp_path: Path) -> None:
    model, _ = create(Backbone("cifar_resnet8", 10, 1, {"channels": [4, 8, 8]}))
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    done = alone(tmp_path, "-c", BOTH, *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.onnx").is_file() and (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "refused").exists(), (tmp_path / "refused").read_text()
