"""What crosses a boundary: the custom resource, its schema, labels, conditions and wire types. No I/O."""
