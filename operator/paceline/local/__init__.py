"""The embedded cluster behind ``paceline up``: what a ModelDeployment makes in Kubernetes, as processes on one machine.

Pods come from the same builders as in a cluster; this package stands in for the kubelet, the API server and the load.
Import the modules you need: this file stays empty because the guardian, a process of its own, starts through it.
"""
