"""States and labels in, numbers out: measures of geometry, over numpy arrays of anybody's."""
