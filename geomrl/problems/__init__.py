"""Problems: benchmarks, the bundled arithmetic task, prompt templates."""
