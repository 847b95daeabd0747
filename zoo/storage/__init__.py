"""Files that zoo writes: atomic writes, the cache folder, cached rows and their eviction."""
