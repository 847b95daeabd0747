"""Where independent pieces of work run: in this process, or on Ray, here or on a cluster.

Only this package imports ray, beside what runs in its workers.
"""
