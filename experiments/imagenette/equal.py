"""Whether the two recorded runs are one: ``equal.py`` compares all that their records hold but times and names."""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OF_THE_MACHINE = {"seconds", "milliseconds", "environment", "name"}


def main() -> None:
    shards, folder = (_epochs(HERE / run) for run in ("shards", "folder"))
    sites, others = (_architecture(HERE / run) for run in ("shards", "folder"))
    print(f"{len(shards)} epochs of records {'equal' if shards == folder else 'differ'}")
    print(f"accuracies and operators at {len(sites['sites'])} sites {'equal' if sites == others else 'differ'}")
    sys.exit(shards != folder or sites != others)


def _epochs(run: Path) -> list[Any]:
    lines = (json.loads(line) for line in (run / "records.jsonl").read_text().splitlines())
    return [_timeless(line) for line in lines if line["record"] == "EpochRecord"]


def _architecture(run: Path) -> dict[str, Any]:
    summary = json.loads((run / "summary.json").read_text())
    sites = [(site["site"], site["operator"]) for site in summary["sites"]]
    return {"sites": sites, "valid": summary["valid"], "test": summary["test"]}


def _timeless(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _timeless(value) for key, value in data.items() if key not in OF_THE_MACHINE}
    return [_timeless(value) for value in data] if isinstance(data, list) else data


if __name__ == "__main__":
    main()
