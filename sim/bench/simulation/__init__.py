"""`onestream simulate`: long random runs of many users, with faults, healing and liveness.

An execution is a plan, drawn from the seed before anything runs, and a schedule of departures.
"""
