"""Hidden-Align, its gauges and its controls in trainers that are not geomrl's."""
