"""The benchmark runner: exactness over models and back ends, latency against peers. Nothing imports these."""
