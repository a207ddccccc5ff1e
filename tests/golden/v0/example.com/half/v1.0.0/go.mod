module example.com/half
