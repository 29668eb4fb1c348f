"""Measures of change, one file each; `geomrl.compare.place.MEASURES` lists them."""
