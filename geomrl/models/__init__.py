"""Models and tokenizers: names, loading, identity, and what their parts are called."""
