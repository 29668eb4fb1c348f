"""`geomrl report`: run directories as one self-contained HTML page that needs no network."""
