import sys

activation, dropout = sys.argv[1:]
print(f"train {activation} {dropout}")
