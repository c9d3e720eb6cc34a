"""The planner in the loop: reads what routers measure, lets the scaling policy decide, and hands orders to whoever runs
engines.

The operator and the local runtime use it with different sources of metrics and different hands; everything in between
is the same.
"""
