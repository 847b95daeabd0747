"""Compare finished runs: how their plans differ, paired tests on the same images, and conclusions in plain words."""
