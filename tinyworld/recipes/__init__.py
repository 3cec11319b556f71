"""How the embedded models were made: scenes as data, the recipes of the models, and their way into the package. Only
benchmarks and tests use it."""
