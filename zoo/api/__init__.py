"""The library: everything that the command line does, with the same names.

A function imports what it needs when it is called, so that importing these modules needs no torch.
"""
