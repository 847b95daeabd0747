"""What a frozen part of a backbone puts out, kept: in memory while it is small, in files of the cache folder."""
