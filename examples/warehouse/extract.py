"""Writes yesterday's orders. A real one would connect; this one makes its database first."""

import argparse
import csv
import os
import sqlite3
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--since", required=True)
args = parser.parse_args()
if not os.environ["WAREHOUSE_PASSWORD"]:
    raise SystemExit("no password")

folder = Path(os.environ["JUPYTERFLOW_OUTPUT_DIR"])
database = sqlite3.connect(folder / os.environ["WAREHOUSE"])
database.execute("create table orders (id integer primary key, amount real)")
database.executemany("insert into orders (amount) values (?)", [(n * 1.5,) for n in range(1, 101)])
with (folder / "orders.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["id", "amount"])
    writer.writerows(database.execute("select id, amount from orders"))
print(f"100 orders since {args.since}")
