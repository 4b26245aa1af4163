print("output")
