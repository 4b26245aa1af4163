"""Reads the raw figures, drops what cannot be counted, and sums up."""

import argparse
import csv
import json
import os
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("file")
parser.add_argument("--region", default="all")
args = parser.parse_args()

rows, dropped = [], 0
with open(args.file, newline="") as file:
    for row in csv.DictReader(file):
        if not row["units"] or not row["price"]:
            dropped += 1
        elif args.region in ("all", row["region"]):
            revenue = int(row["units"]) * float(row["price"])
            rows.append({"week": row["week"], "region": row["region"], "revenue": revenue})

folder = Path(os.environ["JUPYTERFLOW_OUTPUT_DIR"])
(folder / "sales.json").write_text(json.dumps(rows))
summary = {"revenue": sum(row["revenue"] for row in rows), "rows": len(rows), "dropped": dropped}
(folder / "summary.json").write_text(json.dumps(summary))
print(f"{len(rows)} rows kept, {dropped} dropped")
