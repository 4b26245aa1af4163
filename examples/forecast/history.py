"""Ninety days of load, as a meter would have given them."""

import csv
import math
import os
import random
from pathlib import Path

random.seed(11)
path = Path(os.environ["JUPYTERFLOW_OUTPUT_DIR"]) / "series.csv"
with path.open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["day", "load"])
    for day in range(90):
        weekly = 30 * math.sin(2 * math.pi * day / 7)
        writer.writerow([day, round(400 + day * 0.5 + weekly + random.gauss(0, 5), 2)])
print("90 days")
