"""The live page: a look at one deployment without Grafana. Off unless ``PACELINE_LIVE_PAGE`` is ``on``."""
