"""The rooms of `make bench`, one figure a file: see loadtest/bench.py. Nothing here is imported by the server's tests."""
