"""What is shown of a deployment: metrics and their reference, SLO rules and alerts, Grafana dashboards.

Everything here is data made from code, written into the chart and the documentation by ``python -m
paceline.observability`` and compared in tests. Nothing of it is imported by what serves.
"""
