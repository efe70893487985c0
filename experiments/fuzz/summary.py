"""The record as a table: ``summary.py [results.jsonl]``."""

import json
import sys
from pathlib import Path

path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("results.jsonl")
rows = [json.loads(line) for line in path.read_text().splitlines()]
print("| loader | inputs | read | refused | crashed | seconds |\n|---|--:|--:|--:|---|--:|")
for row in rows:
    figures = " | ".join(f"{row[key]:,}" for key in ("inputs", "read", "refused"))
    print(f"| {row['loader']} | {figures} | {'yes' if row['crashed'] else 'no'} | {row['seconds']:,.0f} |")
total = " | ".join(f"{sum(row[key] for row in rows):,}" for key in ("inputs", "read", "refused"))
print(f"| all | {total} | {sum(row['crashed'] for row in rows)} | {sum(row['seconds'] for row in rows):,.0f} |")
