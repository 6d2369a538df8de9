"""States that outlive a run: KV caches and recurrent states, engine-independent."""
