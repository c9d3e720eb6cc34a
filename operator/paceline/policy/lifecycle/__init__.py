"""What to do with the engines of a ModelDeployment: roles, drains, replacement by another revision. Pure.

The controller hands in what it sees and carries out the actions that come back; every pass starts from nothing but
that, so an operator may be killed between any two writes.
"""
