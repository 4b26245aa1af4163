print("input")
