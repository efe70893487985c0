"""Every loader against files that libFuzzer makes of a sound one: ``fuzz.py [--scale 1.0] [LOADER ...]``.

Each loader runs in a process of its own and must answer every input by a value or an ``LwdcError``. Whatever else it
raises, more than 10 seconds, or more than 4 GiB of memory is a crash, which is kept in ``crashes/``. A line a loader
goes to ``results.jsonl``.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
RUNS = {  # inputs of each; the slow ones get fewer
    "architecture": 150_000, "description": 150_000, "config": 120_000, "costs": 100_000, "records": 100_000,
    "measurements": 100_000, "table_json": 80_000, "table_csv": 80_000, "sweep": 60_000, "clips": 40_000,
    "wav": 60_000, "checkpoint": 20_000, "weights": 20_000, "weights_old": 10_000, "safetensors": 20_000,
    "idx": 10_000, "image": 20_000, "image_jpeg": 10_000, "image_tiff": 10_000, "image_ppm": 10_000,
    "image_tar": 20_000, "shard": 20_000, "shards_info": 20_000,
    "class_names": 20_000, "evaluations": 100_000, "hf_dataset": 5_000,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("loaders", nargs="*", default=list(RUNS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of inputs")
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        fuzz(given.child, given.folder, round(RUNS[given.child] * given.scale))
        return
    failed = [name for name in given.loaders if not _run(name, given.scale, given.out)]
    sys.exit(f"crashes of {', '.join(failed)}: see {HERE / 'crashes'}" if failed else 0)


def _run(name: str, scale: float, out: Path) -> bool:
    clock = time.monotonic()
    (HERE / "crashes").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        command = [sys.executable, __file__, "--child", name, "--folder", folder, "--scale", str(scale)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"inputs"')]
    counted = json.loads(lines[-1]) if lines else {"inputs": 0}
    seconds = round(time.monotonic() - clock, 1)
    record = {"loader": name, **counted, "crashed": done.returncode != 0, "seconds": seconds}
    print(json.dumps(record), flush=True)
    with out.open("a") as file:
        file.write(json.dumps(record) + "\n")
    if done.returncode:
        (HERE / "crashes" / f"{name}.txt").write_text(done.stdout[-20_000:])
    return done.returncode == 0


def fuzz(name: str, folder: Path, runs: int) -> None:
    """In a process of its own, which libFuzzer ends without cleaning up: the files lie in the caller's ``folder``."""
    import atheris

    with atheris.instrument_imports(include=["lwdc"], enable_loader_override=False):
        from loaders import beside, loaders

        from lwdc.errors import LwdcError
    import warnings

    warnings.simplefilter("ignore")
    loader = loaders()[name]
    path = folder / loader.name
    path.parent.mkdir(parents=True, exist_ok=True)
    beside(name, folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "sound").write_bytes(loader.seed)
    count = {"inputs": 0, "read": 0, "refused": 0}

    def once(content: bytes) -> None:
        count["inputs"] += 1
        path.write_bytes(content)
        try:
            loader.read(folder)
            count["read"] += 1
        except LwdcError:
            count["refused"] += 1
        if count["inputs"] >= runs or count["inputs"] % 5000 == 0:
            print(json.dumps(count), flush=True)

    once(loader.seed)
    assert count["read"], f"the sound file of {name} is refused"
    limits = [f"-runs={runs}", "-seed=1", "-timeout=10", "-rss_limit_mb=4096", "-max_len=8192", "-verbosity=0"]
    arguments = ["fuzz", *limits, f"-artifact_prefix={HERE / 'crashes'}/{name}-", str(corpus)]

    def changed(content: bytes, most: int, seed: int) -> bytes:
        structured = mutated(content, random.Random(seed)) if seed % 2 and loader.name.endswith("json") else None
        return atheris.Mutate(content, most) if structured is None else structured[:most]

    atheris.Setup(arguments, once, custom_mutator=changed)
    atheris.Fuzz()


NASTY = (
    None, True, "", "..", "/etc/passwd", "lwdc.gates.Softmax", "os.system", "torch.hub.load", 0, -1, 1, 2**31,
    2**63 - 1, -(2**63), 1e308, 0.1, [], {}, [[]], [0], {"op": "original"}, {"_target_": "os.system"}, "\u0000",
    "a" * 300,
)  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes | None:
    """Json with one value, somewhere, exchanged, dropped or doubled; None if ``content`` is none."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return None
    place = data
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = rng.choice(keys)
        if rng.random() < 0.3 or not isinstance(place[key], dict | list) or not place[key]:
            chosen = rng.randrange(4)
            if chosen == 0:
                del place[key]
            elif chosen == 1 and isinstance(place, dict):
                place[str(rng.choice(NASTY))] = place[key]
            else:
                place[key] = rng.choice(NASTY)
            break
        place = place[key]
    return json.dumps(data).encode()


if __name__ == "__main__":
    main()
