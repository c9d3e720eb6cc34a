"""Where a request runs, as pure functions over frozen values: the router and the simulator call the same objects."""
