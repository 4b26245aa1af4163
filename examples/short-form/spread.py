import json

people = json.load(open("people.json"))
heights = [person["height"] for person in people]
json.dump({"spread": max(heights) - min(heights)}, open("spread.json", "w"))
